"""A forecast that is written down before the runs it is about, and held against them afterwards.

  python -m crate_jax.scaling.plateau --workdir=FOLDER --out=OUT --forecast=9600

writes OUT/forecast.json from the shorter lengths alone. Copied to FOLDER/forecast.json (and
committed, so that a date stands beside it) it is compared by every later report. There is none of
a length that the pair has reached already, and none is written over:

  tokens     what it is about, and steps, if they were asked for
  losses     variant, layers, width, heads; value, low, high: the loss, mean over seeds
  gaps       layers, width, heads; value, low, high: CRATE's loss less GPT-2's
  cells      names of the cells it rests on
  commit     of the package that made it; command, seed, draws, level, crate, gpt2

The intervals are of what will be observed: the law's draws, and the noise of a mean over as many
seeds as the shorter lengths have, taken as new ones.
"""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crate_jax.errors import UserError
from crate_jax.scaling import uncertainty
from crate_jax.scaling.report import cells as cells_lib
from crate_jax.scaling.report import gap as gap_lib
from crate_jax.scaling.report import laws as laws_lib
from crate_jax.scaling.report import words
from crate_jax.scaling.report.analysis import Analysis, Choice, analyse
from crate_jax.scaling.report.cells import LEVEL, Cell, Estimate, Size, over_seeds, series
from crate_jax.scaling.report.gap import SizeGap
from crate_jax.scaling.table import Row
from crate_jax.scaling.uncertainty import Noise

FILE = "forecast.json"
GAP = "gap"  # in place of a variant


@dataclasses.dataclass(frozen=True)
class Scored:
  """One number of a forecast and what came of it.

  Attributes:
    what: the variant, or `GAP`.
    size: the networks' shape.
    predicted: with its interval.
    observed: mean over seeds, with Student's interval; None as long as there is no such run.
    each: of every seed.
    repeated: the run saw its text too often to be fitted.
  """

  what: str
  size: Size
  predicted: Estimate
  observed: Estimate | None
  each: list[float]
  repeated: bool

  @property
  def error(self) -> float | None:
    """Observed less predicted, nats per token."""
    return self.observed.value - self.predicted.value if self.observed else None

  @property
  def inside(self) -> bool | None:
    """Whether the observed mean lies in the predicted interval; None if one is missing."""
    low, high = self.predicted.low, self.predicted.high
    if self.observed is None or low is None or high is None:
      return None
    return low <= self.observed.value <= high


def target(text: str, rows: Sequence[Row]) -> int:
  """Tokens that `--forecast` means: "9600" are steps, "9.8e6tokens" are tokens.

  Raises:
    UserError: it is neither, a step is not as many tokens in all rows, or it is farther away than
      ten times the longest run.
  """
  match = re.fullmatch(r"\s*([0-9][0-9_,.]*(?:[eE]\+?[0-9]+)?)\s*(tokens)?\s*", text)
  try:
    number = float(match[1].replace(",", "")) if match else 0.0
  except ValueError:
    number = 0.0
  if not match or number < 1:
    raise UserError(f"--forecast={text}: write a number of steps, or of tokens as 9.8e6tokens.")
  rows = [row for row in rows if row.kind == "grid" and row.tokens]
  if not match[2]:
    a_step = {row.tokens / row.steps for row in rows}
    if len(a_step) != 1:
      raise UserError(
        f"--forecast={text}: a step is not as many tokens in all runs; name tokens, as 9.8e6tokens."
      )
    number *= a_step.pop()
  used = [row.tokens for row in rows if row.tokens < number]
  if not used:
    raise UserError(f"--forecast={text}: the table has no shorter run to forecast from.")
  if number > uncertainty.OUTSIDE * max(used):
    raise UserError(
      f"--forecast={text}: {number:,.0f} tokens are more than {uncertainty.OUTSIDE:.0f} times the "
      f"longest run before it, {max(used):,} tokens; nothing is said about what lies beyond."
    )
  return round(number)


def make(rows: Sequence[Row], tokens: int, choice: Choice) -> dict[str, Any]:
  """The forecast of a length from the shorter ones.

  Raises:
    UserError: a variant of the pair has been trained for that long already, or no variant and size
      has enough lengths for a law.
  """
  there = [row for row in rows if row.kind == "grid" and row.tokens >= tokens]
  late = sorted(row.cell for row in there if row.variant in (choice.crate, choice.gpt2))
  if late:
    raise UserError(
      f"A forecast of {tokens:,} tokens would come after the fact: {late[0]} has been trained."
    )
  done = {row.variant for row in there}
  a = analyse([row for row in rows if row.kind != "grid" or row.tokens < tokens], choice)
  once = series(cell for cell in a.cells if not cell.repeated)
  losses = []
  for curve in a.curves:
    if curve.law and curve.variant not in done:
      cells = once[curve.variant, curve.size]
      rng = laws_lib.stream(choice.seed, "forecast", curve.variant, curve.size)
      draws = None
      noise = a.noise_at(curve.variant, curve.size)
      if curve.draws is not None and noise:
        draws = curve.draws.loss(tokens) + _new_mean(noise, min(curve.seeds), choice.draws, rng)
      predicted = dataclasses.asdict(laws_lib.estimate(curve.law.at(tokens), draws))
      losses.append({"variant": curve.variant, **_size(cells[0].size), **predicted})
  if not losses:
    raise UserError("No variant and size has the four shorter lengths that a forecast needs.")
  gaps = [{**_size(gap.size), **_gap(a, gap, tokens)} for gap in a.gaps if gap.law]
  names = [row.cell for cells in once.values() for cell in cells for row in cell.rows]
  return {
    "tokens": tokens,
    "losses": losses,
    "gaps": gaps,
    "cells": sorted(names),
    "level": LEVEL,
    **dataclasses.asdict(choice),
  }


def _size(size: Size) -> dict[str, int]:
  return {"layers": size.layers, "width": size.width, "heads": size.heads}


def _gap(a: Analysis, gap: SizeGap, tokens: int) -> dict[str, Any]:
  assert gap.law
  draws = None
  noise = a.noise_of_gap_at(gap.size)
  if gap.law.draws and noise:
    rng = laws_lib.stream(a.choice.seed, "forecast", GAP, gap.size)
    seeds = min(len(point.seeds) for point in gap.fitted)
    gaps = gap.law.draws.at(float(tokens))
    draws = gaps + _new_mean(noise, seeds, len(gaps), rng)
  return dataclasses.asdict(laws_lib.estimate(float(gap.law.at(tokens)), draws))


def _new_mean(noise: Noise, seeds: int, draws: int, rng: np.random.Generator) -> np.ndarray:
  """Errors of a mean over new seeds, one a draw."""
  spread = np.sqrt((noise.trunk**2 + noise.branch**2) / seeds)
  return rng.normal(size=draws) * spread * noise.doubt(draws, rng)[:, 0]


def load(path: Path) -> dict[str, Any] | None:
  """A forecast that was written down; None if there is none.

  Raises:
    UserError: the file is no forecast.
  """
  try:
    found = json.loads(path.read_text("utf-8"))
    _predicted(found["losses"])
    _predicted(found["gaps"])
    [of["variant"] for of in found["losses"]]
    found["tokens"] + 0, found["cells"][:0], found["crate"], found["gpt2"]
  except FileNotFoundError:
    return None
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f"{path} is not a forecast of scaling.plateau: {error!r}.") from error
  return found


def _predicted(listed: list[dict[str, Any]]) -> list[tuple[Size, Estimate]]:
  shapes = [(of["layers"], of["width"], of["heads"]) for of in listed]
  sizes = cells_lib.sizes(shapes)
  return [
    (sizes[shape], Estimate(of["value"] + 0.0, of["low"], of["high"]))
    for shape, of in zip(shapes, listed, strict=True)
  ]


def score(forecast: dict[str, Any], cells: Sequence[Cell]) -> list[Scored]:
  """Every number of a forecast beside the runs of that length, as far as there are any."""
  there = {(c.variant, c.size): c for c in cells if c.tokens == forecast["tokens"]}
  scored = []
  losses = forecast["losses"]
  for of, (size, predicted) in zip(losses, _predicted(losses), strict=True):
    cell = there.get((of["variant"], size))
    each = [row.loss for row in cell.rows] if cell else []
    observed = over_seeds(each) if each else None
    repeated = bool(cell and cell.repeated)
    scored.append(Scored(of["variant"], size, predicted, observed, each, repeated))
  for size, predicted in _predicted(forecast["gaps"]):
    sides = [there.get((forecast[name], size)) for name in ("crate", "gpt2")]
    pairs = gap_lib.paired([sides[0]], [sides[1]], True) if sides[0] and sides[1] else []
    each = [c.of(s).loss - g.of(s).loss for c, g, seeds in pairs for s in seeds]
    observed = over_seeds(each) if each else None
    repeated = any(c.repeated or g.repeated for c, g, _ in pairs)
    scored.append(Scored(GAP, size, predicted, observed, each, repeated))
  return scored


def as_dict(of: Scored) -> dict[str, Any]:
  """For JSON."""
  return {**dataclasses.asdict(of), "error": of.error, "inside": of.inside}


def lines(forecast: dict[str, Any]) -> list[str]:
  """A forecast for the terminal."""
  said, listed = [], [*forecast["losses"], *forecast["gaps"]]
  for of, (size, predicted) in zip(listed, _predicted(listed), strict=True):
    name = words.name(of.get("variant", GAP))
    said.append(f"{name}, {size}: {words.between(predicted, 4)} nats per token")
  return [f"after {words.count(forecast['tokens'])} tokens", *said]
