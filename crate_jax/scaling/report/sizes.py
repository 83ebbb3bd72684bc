"""L(N, D) of every variant, where the width varies; intervals as in `report.laws`."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from crate_jax.errors import UserError
from crate_jax.scaling import fit
from crate_jax.scaling.report import laws
from crate_jax.scaling.report.cells import Cell, Estimate, Size
from crate_jax.scaling.uncertainty import Noise


@dataclasses.dataclass(frozen=True)
class SizesFit:
  """E + A N^-alpha + B D^-beta of a variant; no numbers where `missing` says why."""

  variant: str
  numbers: dict[str, Estimate]
  runs: int
  residual: float | None
  missing: str


def sizes(
  variant: str,
  by_size: Mapping[Size, Sequence[Cell]],
  noise: Noise | None,
  draws: int,
  seed: int,
) -> SizesFit:
  """Fits L(N, D), N as the paper counts parameters, to all of a variant's cells."""
  if len({size.width for size in by_size}) < 2:
    return SizesFit(
      variant, {}, 0, None, "not identifiable: the width does not vary, so N hardly does"
    )
  groups = [list(cells) for cells in by_size.values()]
  cells = [cell for group in groups for cell in group]
  parameters_R = np.array([cell.rows[0].parameters for cell in cells], float)
  tokens_R = np.array([cell.tokens for cell in cells], float)
  loss_R = np.array([cell.loss for cell in cells])
  count_R = np.array([len(cell.rows) for cell in cells])
  weight_R = count_R / count_R.max()
  try:
    law = fit.fit_sizes(parameters_R, tokens_R, loss_R, weight_R)
  except UserError as error:
    return SizesFit(variant, {}, len(cells), None, f"not identifiable: {error}")
  clean_R = law.loss(parameters_R, tokens_R)
  missing = laws.too_few(noise) or laws.misfit(
    laws.miss(clean_R, loss_R), noise and _whole(noise), count_R.min()
  )
  sample = None
  if noise and not missing:
    rng = laws.stream(seed, "sizes", variant)
    noisy_R = clean_R + _errors(groups, noise, draws, rng)
    sample = fit.fit_sizes(parameters_R, tokens_R, noisy_R, weight_R)
  names = ("E", "A", "alpha", "B", "beta", "compute_exponent")
  return SizesFit(
    variant=variant,
    numbers={n: laws.estimate(getattr(law, n), getattr(sample, n, None)) for n in names},
    runs=len(cells),
    residual=laws.miss(clean_R, loss_R),
    missing=missing,
  )


def _whole(noise: Noise) -> Noise:
  """Everything between seeds as noise of a cell: another size has another trunk."""
  whole = float(np.hypot(noise.trunk, noise.branch))
  return dataclasses.replace(noise, trunk=0.0, branch=whole)


def _errors(
  groups: Sequence[Sequence[Cell]], noise: Noise, draws: int, rng: np.random.Generator
) -> np.ndarray:
  """Errors of the means over seeds, (draws, R): what a trunk shares, and each cell's own.

  As in `uncertainty.law_draws`, the noise is itself only known as well as its degrees of freedom
  allow.
  """
  parts = []
  for group in groups:
    count_D = np.array([len(cell.rows) for cell in group])
    trunk = rng.normal(size=(draws, 1)) * noise.trunk
    own = rng.normal(size=(draws, len(group))) * noise.branch
    parts.append((trunk + own) / np.sqrt(count_D))
  return np.concatenate(parts, axis=1) * noise.doubt(draws, rng)
