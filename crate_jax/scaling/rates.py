"""The learning rates of a sweep: which are tried, and which is chosen."""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from crate_jax.errors import UserError
from crate_jax.scaling.grid import Cell, Grid, Shape, rounded

MOST_ADDED = 4  # rates on top of those of the config, in search of an interior optimum


def tried(grid: Grid, losses: Mapping[str, float]) -> list[float]:
  """The rates to try, by what is known of those tried: until no variant's best is the outermost.

  Args:
    grid: the grid.
    losses: of the trials that have ended, by the name of their cell; infinite if they diverged.
  """
  values = list(grid.rates)
  while grid.interior and len(values) < len(grid.rates) + MOST_ADDED:
    if any(cell.name not in losses for cell in _trials(grid, values)):
      break
    best = {_best(grid, losses, values, v, s) for v in grid.variants for s, _ in grid.trials}
    if not best & {values[0], values[-1]}:
      break
    below = [rounded(values[0] / 2)] * (values[0] in best)
    values = below + values + [rounded(values[-1] * 2)] * (values[-1] in best)
  return values


def trials(grid: Grid, losses: Mapping[str, float]) -> list[Cell]:
  """The cells that rates are chosen by, as far as is known now."""
  return _trials(grid, tried(grid, losses)) if grid.rates else []


def _trials(grid: Grid, rates: Iterable[float]) -> list[Cell]:
  return [
    Cell(variant, shape, steps, grid.seeds[0], rate)
    for shape, steps in grid.trials
    for rate in rates
    for variant in grid.variants
  ]


def _best(
  grid: Grid, losses: Mapping[str, float], rates: list[float], variant: str, shape: Shape
) -> float:
  """The rate of the lowest loss, summed over the lengths tried at a shape."""
  total = np.zeros(len(rates))
  for steps in (steps for there, steps in grid.trials if there == shape):
    cells = [Cell(variant, shape, steps, grid.seeds[0], rate) for rate in rates]
    total += [losses[cell.name] for cell in cells]
  return rates[int(np.argmin(total))]


def chosen(grid: Grid, losses: Mapping[str, float]) -> dict[tuple[str, Shape], float]:
  """The rate of every variant and shape.

  Where a shape was tried it is the one that did best there; between two such shapes it is
  interpolated, both logarithms, in the size of the blocks, and outside of them it is the nearest
  one's. No law of depth is assumed: those known are of residual blocks, and ISTA has no residual.

  Raises:
    UserError: a variant's best rate is the lowest or the highest that was tried.
  """
  if not grid.rates:
    return {(variant, shape): grid.rate for variant in grid.variants for shape in grid.shapes}
  rates = tried(grid, losses)
  places = sorted({shape for shape, _ in grid.trials}, key=lambda shape: shape.size)
  found = {}
  for variant in grid.variants:
    best = [_best(grid, losses, rates, variant, shape) for shape in places]
    if grid.interior and {rates[0], rates[-1]} & set(best):
      raise UserError(
        f"The best rate of {variant} is at the end of those tried, {rates[0]:g} to {rates[-1]:g}: "
        "choose others in sweep.rates."
      )
    logs = np.log([shape.size for shape in places]), np.log(best)
    for shape in grid.shapes:
      known = shape in places
      rate = best[places.index(shape)] if known else math.exp(np.interp(np.log(shape.size), *logs))
      found[variant, shape] = rounded(rate)
  return found
