"""What a sweep has done and what is left of it."""

import contextlib
import dataclasses
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from crate_jax import config as config_lib
from crate_jax.data import atomic, local, preparation, shards
from crate_jax.errors import UserError
from crate_jax.model import flops
from crate_jax.scaling import cell as cell_lib
from crate_jax.scaling import grid as grid_lib
from crate_jax.scaling import rates as rates_lib
from crate_jax.scaling import table
from crate_jax.scaling.grid import Cell, Shape
from crate_jax.scaling.report.cells import trials as trials_of
from crate_jax.scaling.table import Row
from crate_jax.training import report
from crate_jax.training import workdir as files

TEXT = "text"  # folder of what is prepared
TEXT_KEYS = ("validation_fraction", "tokenizer", "bpe_vocab_size")


class Progress:
  """A sweep: its config, its grid, and what came of the cells that have ended.

  Attributes:
    config: the sweep's, with `data.prepared`.
    grid: what it declares.
    workdir: its folder.
    results: by the names of cells, what came of those that have ended.
  """

  def __init__(self, config: ConfigDict, workdir: Path) -> None:
    """Reads the folder, and prepares the text if that is not done.

    Raises:
      UserError: a key is wrong, the text cannot be read, or the folder is another sweep's.
    """
    self.grid, self.workdir = grid_lib.read(config), workdir
    self.config = config.copy_and_resolve_references()
    for variant in self.grid.variants:  # what is wrong with any is said before any is trained
      for shape in self.grid.shapes:
        cell = Cell(variant, shape, self.grid.steps[0], self.grid.seeds[0], self.grid.rate)
        config_lib.resolve(grid_lib.cell_config(config, self.grid, cell), vocab_size=1)
    there = (workdir / table.PARQUET).exists()
    self._rows = table.read(workdir) if there else []
    self.results = cell_lib.from_rows(self._rows) | cell_lib.results(workdir)
    if not self.config.data.prepared:
      self.config.data.prepared = str(_prepared(self.config, workdir / TEXT))
    text = shards.Prepared(Path(self.config.data.prepared).expanduser())
    self._vocab_size = text.tokenizer.vocab_size
    sha256 = text.manifest["splits"]["train"]["sha256"]
    for name, result in self.results.items():
      if result["text"] not in ("", sha256):
        raise UserError(
          f"{workdir} holds {name} as another text makes it (sha256 {result['text'][:12]}..., and "
          f"not {sha256[:12]}...): choose another --workdir, or its own text."
        )
    for cell in [*self._trials(), *itertools.chain(*self._settled().values())]:
      if cell.name in self.results:
        self._check(cell)
    self._started, self._done = time.monotonic(), 0.0

  def _check(self, cell: Cell) -> None:
    now = grid_lib.digest(grid_lib.cell_config(self.config, self.grid, cell), self.grid)
    if self.results[cell.name]["digest"] != now:
      raise UserError(
        f"{self.workdir} holds {cell.name} as another config makes it: choose another --workdir or "
        "the config that it was begun with."
      )

  def _losses(self) -> dict[str, float]:
    return {name: result["loss_of_rates"] for name, result in self.results.items()}

  @property
  def trying(self) -> bool:
    """Whether rates are still to be tried."""
    return any(cell.name not in self.results for cell in self._trials())

  def _trials(self) -> list[Cell]:
    return rates_lib.trials(self.grid, self._losses())

  def _chosen(self) -> dict[tuple[str, Shape], float]:
    return rates_lib.chosen(self.grid, self._losses())

  def _settled(self) -> dict[str, list[Cell]]:
    """The cells whose rate is chosen, by what they are for; none while it cannot be chosen."""
    with contextlib.suppress(UserError):
      if not self.trying:
        chosen = self._chosen()
        checks = grid_lib.checks(self.grid, chosen)
        return {"grid": grid_lib.cells(self.grid, chosen), "check": checks}
    return {"grid": [], "check": []}

  def cells(self) -> list[Cell]:
    """Those known: the trials, and once these have ended the grid and its checks.

    Raises:
      UserError: no rate can be chosen by the trials.
    """
    if not self.trying:
      self._chosen()
    return list(dict.fromkeys([*self._trials(), *itertools.chain(*self._settled().values())]))

  def left(self) -> list[Cell]:
    """Of these, those that have not ended."""
    return [cell for cell in self.cells() if cell.name not in self.results]

  def named(self, name: str) -> Cell:
    """The cell of a name.

    Raises:
      UserError: there is none in the grid, or its rate is not chosen yet.
    """
    for cell in self.cells():
      if cell.name == name:
        return cell
    later = ", whose rates are still to be tried" if self.trying else ""
    raise UserError(f"--only={name} is not a cell of this sweep{later}: --print lists them.")

  def ended(self, cell: Cell) -> None:
    """Takes up what came of a cell, and says it."""
    self.results |= cell_lib.results(self.workdir)
    self._done += self._cost(cell)
    self.write()
    result, left = self.results[cell.name], self.left()
    pace = (time.monotonic() - self._started) / self._done
    cells, loss = self.cells(), result["loss"]
    report.say(
      f"{len(cells) - len(left)}/{len(cells)}  {cell.name}  loss {loss:.4f}  "
      f"{report.duration(pace * sum(map(self._cost, left)))} left"
      + (", then the grid" if self.trying else "")
    )

  def _cost(self, cell: Cell) -> float:
    """FLOPs, those that a branch spares not among them."""
    c = grid_lib.cell_config(self.config, self.grid, cell)
    tokens = c.train.batch_size * c.model.context
    model = config_lib.resolve(c, self._vocab_size).model
    shorter = [0, *(self.grid.leaves(s) for s in self.grid.steps if s < cell.steps)]
    steps = cell.steps - (max(shorter) if cell.schedule == "wsd" else 0)
    return float(flops.training_flops_per_token(model)) * tokens * steps

  def write(self) -> None:
    """Writes the tables of what there is; rows of cells that this config does not name stay."""
    rows = self._all_rows()
    if rows:
      table.write(self.workdir, rows)
    files.write_json(self.workdir / files.CONFIG, self._recipe())
    if self.grid.rates and not self.trying:
      atomic.write(self.workdir / "rates.md", self._rates(rows))

  def _all_rows(self) -> list[Row]:
    kinds = {"trial": self._trials(), **self._settled()}
    rows = {
      (cell.name, kind): cell_lib.row(self.results[cell.name], kind)
      for kind, cells in kinds.items()
      for cell in cells
      if cell.name in self.results
    }
    rates = {(cell.variant, *dataclasses.astuple(cell.shape)): cell.rate for cell in kinds["grid"]}
    for row in self._rows:
      rate = rates.get((row.variant, row.layers, row.width, row.heads), row.learning_rate)
      if row.kind == "trial" or row.learning_rate == rate:  # or another rate was chosen since
        rows.setdefault((row.cell, row.kind), row)
    return list(rows.values())

  def _recipe(self) -> dict[str, Any]:
    """The parts of the config that a report speaks of; not where things lie on this machine."""
    tree = config_lib.as_dict(self.config)
    tree["data"] = {key: tree["data"][key] for key in TEXT_KEYS}
    return {part: tree[part] for part in ("model", "data", "optimizer", "train", "sweep")}

  def say(self) -> None:
    """Says what there is to do, and what branches spare."""
    cells, left = self.cells(), self.left()
    what = "trials of rates" if self.trying else "cells"
    report.say(f"{self.workdir}: {len(cells)} {what}, {len(cells) - len(left)} of them done")
    shared, alone = grid_lib.updates(self.grid, cells)
    report.say(
      f"{shared:,} updates in all; {alone:,} if every cell were trained from its start "
      f"({1 - shared / alone:.0%} spared by trunks)"
    )
    if not self.trying and self.grid.rates:
      report.say(self._rates(self._all_rows()))

  def _rates(self, rows: Sequence[Row]) -> str:
    """The losses of all trials in the table, and the rates chosen, as Markdown."""
    trials = trials_of(rows)
    tried = sorted({rate for trial in trials for rate in trial.rates})
    lines = ["| variant | trial | " + " | ".join(f"{rate:g}" for rate in tried) + " |"]
    lines.append("|---" * (len(tried) + 2) + "|")
    for trial in trials:
      losses = {rate: f"{x:.4f}" for rate, x in zip(trial.rates, trial.losses, strict=True)}
      best = trial.rates[trial.best]
      losses[best] = f"**{losses[best]}**"
      said = " | ".join(losses.get(rate, "") for rate in tried)
      shape = Shape(trial.size.layers, trial.size.width, trial.size.heads)
      lines.append(f"| {trial.variant} | {shape}, {trial.steps:,} steps | {said} |")
    grid = [row for row in rows if row.kind == "grid"]
    chosen = {(r.variant, Shape(r.layers, r.width, r.heads)): r.learning_rate for r in grid}
    try:
      rates = [f"{v} {s} {rate:g}" for (v, s), rate in (chosen | self._chosen()).items()]
      last = f"Chosen: {', '.join(rates)}."
    except UserError as error:
      last = str(error)
    return "\n".join([*lines, "", last, ""])


def _prepared(config: ConfigDict, out: Path) -> Path:
  """The text of a config, prepared once.

  Raises:
    UserError: it cannot be read, or another one was prepared there.
  """
  data = config_lib.data_config(config)
  if not data.train:
    raise UserError("The config names no text: --config.data.train=FILE does.")
  recipe = {key: getattr(data, key) for key in ("train", "validation", *TEXT_KEYS)}
  work = preparation.Preparation(out, **recipe, cache=data.cache)
  if not work.finished:
    print(f"preparing {data.train} in {out} ...", file=sys.stderr, flush=True)
    local.prepare(work)
  return out
