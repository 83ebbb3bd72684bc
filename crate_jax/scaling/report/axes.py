"""The gap where both have used as much of something: tokens, FLOPs, seconds.

Both curves are interpolated in the logarithm of the axis, where both have runs.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from crate_jax.scaling.report.cells import Cell, Estimate, common_seeds, over_seeds
from crate_jax.scaling.table import Row

AXES: dict[str, Callable[[Row], float]] = {
  "tokens": lambda row: row.tokens,
  "FLOPs": lambda row: row.flops,
  "seconds": lambda row: row.seconds,
}


@dataclasses.dataclass(frozen=True)
class Axis:
  """The gap where both have used as much of something.

  Attributes:
    name: of the axis, one of `AXES`.
    low: where both curves begin.
    high: where the first of them ends.
    places: on the axis.
    gaps: there, over seeds.
    missing: why there are none; empty if there are.
  """

  name: str
  low: float
  high: float
  places: list[float]
  gaps: list[Estimate]
  missing: str


def axis(name: str, crate: Sequence[Cell], gpt2: Sequence[Cell]) -> Axis:
  """The gap over what both used, at the lengths of either within the range of both."""
  seeds, curves = _curves(name, crate, gpt2)
  if not seeds:
    return Axis(name, 0.0, 0.0, [], [], "fewer than two lengths with a seed in common")
  low = max(x_D[0] for x_D, _ in curves)
  high = min(x_D[-1] for x_D, _ in curves)
  if low >= high:
    return Axis(name, float(low), float(high), [], [], "the two ranges do not overlap")
  places = np.array(sorted({float(x) for x_D, _ in curves for x in x_D if low <= x <= high}))
  log = np.log(places)
  (x_D, a_SD), (y_D, b_SD) = curves
  gap_SP = np.array(
    [
      np.interp(log, np.log(x_D), a_D) - np.interp(log, np.log(y_D), b_D)
      for a_D, b_D in zip(a_SD, b_SD, strict=True)
    ]
  )
  gaps = [over_seeds(gap_S.tolist()) for gap_S in gap_SP.T]
  return Axis(name, float(low), float(high), places.tolist(), gaps, "")


def _curves(
  name: str, crate: Sequence[Cell], gpt2: Sequence[Cell]
) -> tuple[list[int], list[tuple[np.ndarray, np.ndarray]]]:
  """Seeds that all cells have, and both curves: mean of the axis (D), loss of each seed (S, D)."""
  sides = [[cell for cell in side if not cell.repeated] for side in (crate, gpt2)]
  if min(map(len, sides)) < 2:
    return [], []
  seeds = common_seeds([cell for side in sides for cell in side])
  curves = []
  for side in sides:
    ordered = sorted(side, key=lambda cell: cell.mean(AXES[name]))
    x_D = np.array([cell.mean(AXES[name]) for cell in ordered])
    loss_SD = np.array([[cell.of(seed).loss for cell in ordered] for seed in seeds])
    curves.append((x_D, loss_SD))
  return seeds, curves
