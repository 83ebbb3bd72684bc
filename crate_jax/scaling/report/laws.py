"""L(D) of every variant and size, with intervals.

An interval at `LEVEL` comes from a parametric bootstrap (`uncertainty.law_draws`) with the noise
between seeds pooled over all variants and sizes, or with its own where the seeds of a variant and
size spread more (`unlike`). There is none where the pooled noise has too few degrees of freedom,
and no fit of fewer than `fit.LENGTHS` lengths.
"""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from crate_jax.errors import UserError
from crate_jax.scaling import fit, paired, uncertainty
from crate_jax.scaling.report.cells import Cell, Estimate, Size, common_seeds, over_seeds
from crate_jax.scaling.uncertainty import Noise

SPREADS = 0.05  # p below which seeds spread more than others'; a false alarm only widens intervals
MISFIT = 3  # times the noise of a mean over seeds that a law may miss the means by
POINTS = 41  # of a line in a picture


@dataclasses.dataclass(frozen=True)
class Line:
  """What a law says along the tokens, with its band where it has one."""

  tokens: list[float]
  value: list[float]
  low: list[float] | None = None
  high: list[float] | None = None


@dataclasses.dataclass(frozen=True)
class LawFit:
  """E + B D^-beta with intervals.

  Attributes:
    E: irreducible loss, nats per token.
    B: its coefficient, with D in tokens.
    beta: its exponent.
    residual: root mean square of the means over seeds about it, nats.
    line: the law from the shortest to the longest length.
  """

  E: Estimate
  B: Estimate
  beta: Estimate
  residual: float
  line: Line

  def at(self, tokens: float) -> float:
    """The loss after so many tokens."""
    return float(self.E.value + self.B.value * tokens**-self.beta.value)


@dataclasses.dataclass(frozen=True)
class Curve:
  """The lengths of one variant and size that are not repeated, and their law.

  Attributes:
    variant: name of the architecture.
    size: its shape.
    tokens: the lengths.
    loss: mean over seeds at each.
    seeds: how many at each.
    law: fitted to them; None where `missing` says why.
    missing: why there is no law, or no interval; empty if there is.
    end: nats per doubling of the tokens between the two longest lengths, over seeds.
    draws: laws of the bootstrap.
  """

  variant: str
  size: Size
  tokens: list[int]
  loss: list[float]
  seeds: list[int]
  law: LawFit | None
  missing: str
  end: Estimate | None
  draws: fit.Law | None


@dataclasses.dataclass(frozen=True)
class SharedFit:
  """The pair's laws at one size with one irreducible loss for both."""

  size: Size
  E: float
  B: dict[str, float]
  beta: dict[str, float]
  residual: float


def stream(seed: int, *names: object) -> np.random.Generator:
  """Random numbers for one use, which no other use moves."""
  return np.random.default_rng([seed, *" ".join(map(str, names)).encode()])


def too_few(noise: Noise | None) -> str:
  """Why the noise gives no interval; empty if it does."""
  degrees = noise.degrees if noise else 0
  if noise and noise.enough:
    return ""
  return (
    f"no interval: the noise between seeds has {degrees} degrees of freedom, "
    f"of {uncertainty.DEGREES} that it needs"
  )


def misfit(residual: float, noise: Noise | None, seeds: int) -> str:
  """Why a law that misses the means by more than their noise gives no interval; empty if not.

  Args:
    residual: root mean square of what it misses.
    noise: between seeds.
    seeds: the fewest that a mean is of.
  """
  error = noise.branch / seeds**0.5 if noise else np.inf
  if residual <= max(MISFIT * error, 1e-6):
    return ""
  return (
    f"no interval: the law does not fit, its residual of {residual:.4f} nats is more than {MISFIT} "
    f"times the noise of a mean, {error:.4f}"
  )


def pooled(groups: Sequence[np.ndarray]) -> Noise | None:
  """The noise between seeds; None where no length was trained from two."""
  try:
    return uncertainty.noise(groups)
  except UserError:
    return None


def unlike(
  groups: Mapping[tuple[str, Size], np.ndarray], noise: Noise | None
) -> dict[tuple[str, Size], Noise]:
  """The noise of those groups whose seeds spread more than the others'.

  Pooling takes all groups to have one noise. Of each, the means over lengths of its seeds are held
  against those of the others by `paired.alike`; where they spread more, its own noise counts if it
  is the larger, and is known as little as its few seeds allow.

  Args:
    groups: as of `uncertainty.noise`. As many seeds of each are looked at as most groups have;
      groups with fewer are not, and of two groups none is.
    noise: of all of them, pooled.
  """
  if noise is None:
    return {}
  usual = statistics.mode(len(group_SD) for group_SD in groups.values())
  means = {}
  for key, group_SD in groups.items():
    some_SD = group_SD[:usual]
    whole_D = np.isfinite(some_SD).all(axis=0)
    if len(some_SD) == usual and whole_D.any():
      means[key] = some_SD[:, whole_D].mean(axis=1)
  alike = paired.alike(np.stack(list(means.values())), SPREADS) if means else []
  own = {key: pooled([groups[key]]) for i, key in enumerate(means) if i not in alike}
  return {
    key: larger(dataclasses.replace(of, known=of.degrees), noise) for key, of in own.items() if of
  }


def larger(one: Noise, other: Noise) -> Noise:
  """The larger of each deviation, known as well as those of the one that is larger on the whole."""
  wider = max(one, other, key=lambda noise: np.hypot(noise.trunk, noise.branch))
  return Noise(
    max(one.trunk, other.trunk),
    max(one.branch, other.branch),
    max(one.degrees, other.degrees),
    wider.known,
  )


def matrix(cells: Sequence[Cell]) -> np.ndarray:
  """Loss of every seed at every length, (S, D); NaN where a seed has no such length."""
  seeds = sorted({seed for cell in cells for seed in cell.seeds})
  return np.array(
    [[cell.of(seed).loss if seed in cell.seeds else np.nan for cell in cells] for seed in seeds]
  )


def estimate(value: float, draws: np.ndarray | None) -> Estimate:
  """A number and the interval of its draws, if there are any."""
  if draws is None:
    return Estimate(float(value))
  low, high = uncertainty.interval(np.asarray(draws))
  return Estimate(float(value), float(low), float(high))


def line(
  shortest: float, longest: float, value: Callable, draws: Callable | None, points: int = POINTS
) -> Line:
  """A function of the tokens from the shortest to the longest, with the band of its draws."""
  tokens_T = np.geomspace(shortest, longest, points)
  low = high = None
  if draws is not None:
    bounds = [uncertainty.interval(of) for of in np.asarray(draws(tokens_T)).T]
    low, high = [float(b[0]) for b in bounds], [float(b[1]) for b in bounds]
  return Line(tokens_T.tolist(), np.asarray(value(tokens_T)).tolist(), low, high)


def end_slope(cells: Sequence[Cell]) -> Estimate | None:
  """Nats per doubling between the two longest lengths, over the seeds that both have."""
  if len(cells) < 2:
    return None
  before, last = cells[-2:]
  doublings = np.log2(last.tokens / before.tokens)
  seeds = common_seeds((before, last))
  if not seeds:
    return Estimate(float((last.loss - before.loss) / doublings))
  return over_seeds([(last.of(s).loss - before.of(s).loss) / doublings for s in seeds])


def curve(cells: Sequence[Cell], noise: Noise | None, draws: int, seed: int) -> Curve:
  """Fits the lengths of one variant and size, none of them repeated.

  Args:
    cells: the shortest first.
    noise: of the losses between seeds, pooled.
    draws: of the bootstrap.
    seed: of its random numbers.
  """
  first = cells[0]
  tokens_D = np.array([cell.tokens for cell in cells], float)
  loss_D = np.array([cell.loss for cell in cells])
  law, sample, missing = None, None, ""
  if len(cells) < fit.LENGTHS:
    missing = f"no fit: {len(cells)} of the {fit.LENGTHS} lengths that a law needs"
  else:
    count_D = np.array([len(cell.rows) for cell in cells])
    found = fit.fit_lengths(tokens_D, loss_D, count_D / count_D.max())
    missing = too_few(noise) or misfit(miss(found.loss(tokens_D), loss_D), noise, count_D.min())
    if noise and not missing:
      rng = stream(seed, "law", first.variant, first.size)
      sample = uncertainty.law_draws(found, tokens_D, count_D, noise, draws, rng)
    law = _law_fit(found, sample, tokens_D, loss_D)
  return Curve(
    variant=first.variant,
    size=first.size,
    tokens=[cell.tokens for cell in cells],
    loss=loss_D.tolist(),
    seeds=[len(cell.rows) for cell in cells],
    law=law,
    missing=missing,
    end=end_slope(cells),
    draws=sample,
  )


def miss(fitted: np.ndarray, found: np.ndarray) -> float:
  """Root mean square of what a law misses."""
  return float(np.sqrt(np.mean((fitted - found) ** 2)))


def _law_fit(
  found: fit.Law, sample: fit.Law | None, tokens_D: np.ndarray, loss_D: np.ndarray
) -> LawFit:
  def of(name: str) -> Estimate:
    return estimate(getattr(found, name), None if sample is None else getattr(sample, name))

  return LawFit(
    E=of("E"),
    B=of("B"),
    beta=of("beta"),
    residual=miss(found.loss(tokens_D), loss_D),
    line=line(tokens_D[0], tokens_D[-1], found.loss, sample.loss if sample else None),
  )


def shared(curves: Sequence[Curve]) -> SharedFit | None:
  """The laws of one size with E in common; None where a curve is too short."""
  if len(curves) < 2 or min(len(of.tokens) for of in curves) < fit.LENGTHS:
    return None
  tokens = sorted({count for of in curves for count in of.tokens})
  loss_AD = np.full((len(curves), len(tokens)), np.nan)
  seeds_AD = np.zeros(loss_AD.shape)
  for loss_D, seeds_D, of in zip(loss_AD, seeds_AD, curves, strict=True):
    places = [tokens.index(count) for count in of.tokens]
    loss_D[places], seeds_D[places] = of.loss, of.seeds
  tokens_D = np.array(tokens, float)
  laws = fit.fit_shared(tokens_D, loss_AD[:, None], (seeds_AD / seeds_AD.max())[:, None])
  rest = np.reshape(laws.loss(tokens_D), loss_AD.shape) - loss_AD
  names = [of.variant for of in curves]
  return SharedFit(
    size=curves[0].size,
    E=float(np.ravel(laws.E)[0]),
    B=dict(zip(names, np.ravel(laws.B).tolist(), strict=True)),
    beta=dict(zip(names, np.ravel(laws.beta).tolist(), strict=True)),
    residual=float(np.sqrt(np.nanmean(rest**2))),
  )
