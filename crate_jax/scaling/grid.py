"""The grid of a sweep: which cells there are, and what config trains each."""

import ast
import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from crate_jax import config as config_lib
from crate_jax.errors import UserError
from crate_jax.training import workdir as files

# Keys that may differ when a run goes on, and yet decide what comes of it; the others do not.
_DECIDES = {"train.steps", "train.batch_size"}


@dataclasses.dataclass(frozen=True)
class Shape:
  """Sizes of a model: layers, width, heads."""

  layers: int
  width: int
  heads: int

  def __str__(self) -> str:
    return f"{self.layers}x{self.width}x{self.heads}"

  @property
  def size(self) -> int:
    """What the parameters of the blocks grow with."""
    return self.layers * self.width**2


@dataclasses.dataclass(frozen=True)
class Cell:
  """A model that is trained: a variant of a shape, for so many updates, from a seed, at a rate."""

  variant: str
  shape: Shape
  steps: int
  seed: int
  rate: float
  schedule: str = "wsd"

  @property
  def name(self) -> str:
    """Says all of it."""
    parts = (self.variant, self.shape, self.steps, f"seed{self.seed}", f"{self.rate:.6g}")
    return "-".join(map(str, parts)) + ("-cosine" if self.schedule == "cosine" else "")

  @property
  def trunk(self) -> tuple[str, Shape, int, float]:
    """What the cells of one trunk have in common."""
    return self.variant, self.shape, self.seed, self.rate


@dataclasses.dataclass(frozen=True)
class Grid:
  """`config.sweep`, checked; the keys are explained in configs/base.py.

  Attributes:
    variants: by name, the keys of `model` that each sets.
    decay_fraction: share of a cell's updates in which its rate decays.
    rate: that of all cells, where none are tried.
  """

  variants: dict[str, dict[str, Any]]
  shapes: tuple[Shape, ...]
  steps: tuple[int, ...]
  seeds: tuple[int, ...]
  rates: tuple[float, ...]
  interior: bool
  trials: tuple[tuple[Shape, int], ...]
  checks: tuple[tuple[str, Shape, int], ...]
  works: int
  tokens_per_work: int
  decay_fraction: float
  rate: float

  def leaves(self, steps: int) -> int:
    """The update after which a cell of so many leaves its trunk."""
    return steps - round(self.decay_fraction * steps)


def read(config: ConfigDict) -> Grid:
  """The grid that a config declares.

  Raises:
    UserError: a key of `sweep` is missing, or does not fit the others or the schedule.
  """
  tree = config_lib.as_dict(config)
  s = tree["sweep"]
  for key in ("variants", "shapes", "steps", "seeds"):
    if not s[key]:
      raise UserError(f"sweep.{key} is empty: configs/plateau.py declares a grid.")
  if bool(s["rates"]) != bool(s["trials"]):
    raise UserError("sweep.rates and sweep.trials go together: which rates, and where.")
  grid = Grid(
    variants={name: _model_keys(name, keys) for name, keys in s["variants"].items()},
    shapes=tuple(_shape(text, "sweep.shapes") for text in s["shapes"]),
    steps=tuple(sorted(map(int, s["steps"]))),
    seeds=tuple(map(int, s["seeds"])),
    rates=tuple(sorted(map(rounded, s["rates"]))),
    interior=bool(s["interior"]),
    trials=tuple(_place(text, "sweep.trials", 2)[1:] for text in s["trials"]),
    checks=tuple(_place(text, "sweep.checks", 3) for text in s["checks"]),
    works=int(s["works"]),
    tokens_per_work=int(s["tokens_per_work"]),
    decay_fraction=float(tree["optimizer"]["decay_fraction"]),
    rate=rounded(tree["optimizer"]["learning_rate"]),
  )
  for variant, shape, steps in grid.checks:
    if not (variant in grid.variants and shape in grid.shapes and steps in grid.steps):
      raise UserError(f"sweep.checks: {variant}@{shape}@{steps} is not a cell of the grid.")
  if tree["optimizer"]["schedule"] != "wsd" or not 0 < grid.decay_fraction < 1:
    raise UserError('A sweep needs optimizer.schedule="wsd", and optimizer.decay_fraction in it.')
  if grid.works < 2 or grid.tokens_per_work < 2:
    raise UserError("sweep.works and sweep.tokens_per_work must be at least 2.")
  shortest = min([*grid.steps, *(steps for _, steps in grid.trials)])
  if tree["optimizer"]["warmup_steps"] > 0.05 * shortest:
    raise UserError(
      f"optimizer.warmup_steps={tree['optimizer']['warmup_steps']} is more than 5 % of the "
      f"shortest length of the sweep, {shortest} steps."
    )
  return grid


def rounded(rate: float) -> float:
  """A rate as the name of a cell says it."""
  return float(f"{rate:.6g}")


def _model_keys(name: str, text: str) -> dict[str, Any]:
  """{"ista_steps": 1} of "ista_steps=1"."""
  keys: dict[str, Any] = {}
  for part in filter(None, text.split(",")):
    key, equals, value = part.partition("=")
    if not equals:
      raise UserError(f"sweep.variants.{name}={text!r}: {part!r} is not KEY=VALUE.")
    keys[key.strip()] = _value(value.strip())
  return keys


def _value(text: str) -> Any:
  """A number or a truth value, as JSON or Python writes it; else the text itself."""
  for read_as in (json.loads, ast.literal_eval):
    with contextlib.suppress(ValueError, SyntaxError):
      return read_as(text)
  return text


def _shape(text: str, key: str) -> Shape:
  try:
    layers, width, heads = map(int, text.split("x"))
  except ValueError:
    raise UserError(f"{key}: {text!r} is not LAYERSxWIDTHxHEADS, as 2x128x4.") from None
  return Shape(layers, width, heads)


def _place(text: str, key: str, parts: int) -> Any:
  """(variant, shape, steps) of "VARIANT@SHAPE@STEPS", or of "SHAPE@STEPS" without the first."""
  *variant, shape, steps = ["", "", *text.split("@")][-3:]
  if len(text.split("@")) != parts or not steps.isdigit():
    wanted = "SHAPE@STEPS, as 2x128x4@300" if parts == 2 else "VARIANT@SHAPE@STEPS"
    raise UserError(f"{key}: {text!r} is not {wanted}.")
  return variant[0], _shape(shape, key), int(steps)


def cell_config(config: ConfigDict, grid: Grid, cell: Cell) -> ConfigDict:
  """What `main` would be given to train a cell from the start.

  Raises:
    UserError: a variant sets a key that `model` does not have, or to a value of another type.
  """
  c = config.copy_and_resolve_references()
  keys = grid.variants[cell.variant]
  for key, value in keys.items():
    if key not in c.model:
      raise config_lib.unknown_key(f"model.{key}", [f"model.{known}" for known in c.model])
    try:
      c.model[key] = value
    except TypeError as error:
      raise UserError(f"sweep.variants.{cell.variant}: model.{key}={value!r}: {error}.") from error
  c.model.layers, c.model.width, c.model.heads = dataclasses.astuple(cell.shape)
  c.seed, c.train.steps = cell.seed, cell.steps
  c.optimizer.learning_rate, c.optimizer.schedule = cell.rate, cell.schedule
  c.checkpoint.every_steps = grid.leaves(cell.steps)  # where the cells that are longer leave it
  c.checkpoint.keep = 1_000_000
  return c


def digest(config: ConfigDict, grid: Grid) -> str:
  """Of all that decides what a cell's config gives; in hexadecimal."""
  flat = config_lib.flatten(config_lib.as_dict(config))
  kept = {
    key: value
    for key, value in flat.items()
    if not key.startswith("sweep.") and (key in _DECIDES or key not in files.MAY_DIFFER)
  }
  kept |= {"sweep.works": grid.works, "sweep.tokens_per_work": grid.tokens_per_work}
  return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def cells(grid: Grid, chosen: Mapping[tuple[str, Shape], float]) -> list[Cell]:
  """Those of the grid, from the inside out: of each shape all lengths, seed by seed."""
  return [
    Cell(variant, shape, steps, seed, chosen[variant, shape])
    for shape in grid.shapes
    for seed in grid.seeds
    for variant in grid.variants
    for steps in grid.steps
  ]


def checks(grid: Grid, chosen: Mapping[tuple[str, Shape], float]) -> list[Cell]:
  """Cells trained by the cosine schedule, beside those of the grid."""
  return [
    Cell(variant, shape, steps, grid.seeds[0], chosen[variant, shape], "cosine")
    for variant, shape, steps in grid.checks
  ]


def chains(cells: Iterable[Cell]) -> list[list[Cell]]:
  """Cells that go on from each other, the shortest first; the cosine ones by themselves."""
  found: dict[Any, list[Cell]] = {}
  for cell in cells:
    found.setdefault(cell.trunk if cell.schedule == "wsd" else cell, []).append(cell)
  return [sorted(chain, key=lambda cell: cell.steps) for chain in found.values()]


def updates(grid: Grid, cells: Iterable[Cell]) -> tuple[int, int]:
  """How many updates a sweep takes, and how many if every cell were trained from the start."""
  shared = alone = 0
  for chain in chains(cells):
    alone += sum(cell.steps for cell in chain)
    shared += grid.leaves(chain[-1].steps) - sum(grid.leaves(cell.steps) for cell in chain)
    shared += sum(cell.steps for cell in chain)
  return shared, alone
