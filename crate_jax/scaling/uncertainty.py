"""How sure a law, a gap between architectures and their crossing are.

Runs differ by their seed, which draws the initial parameters and the order of the data. A trunk
and its branches share a seed, so their losses move together: a seed's runs are one cluster. The
noise is estimated from replicate seeds, pooled over architectures and shapes, and intervals come
from simulated studies that have it (a parametric bootstrap), each fitted as the real one is. In
each of them the noise is off by as much as an estimate from so few degrees of freedom may be.

A gap is extrapolated by two forms, half of the draws each: g + k D^-gamma fitted to it, and the
difference of the two architectures' laws. Near the data they agree. Far from it neither can be
told to be the right one: where the truth is a difference of laws with close exponents, the first
alone is sure of a wrong value (docs/fits.md has the measured coverage).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from crate_jax.errors import UserError
from crate_jax.scaling import fit
from crate_jax.scaling.fit import Gap, Law
from crate_jax.scaling.works import by_work

__all__ = [
  "Crossing",
  "GapDraws",
  "Noise",
  "by_work",
  "crossing",
  "crossing_probability",
  "gap_draws",
  "interval",
  "law_draws",
  "noise",
  "of_mean",
]

DEGREES = 12  # of freedom that the noise needs, for intervals to be taken at their word
OUTSIDE = 10.0  # times the longest run: beyond it nothing is said


@dataclasses.dataclass(frozen=True)
class Noise:
  """Standard deviations between seeds, in nats.

  Attributes:
    trunk: of what all lengths of a seed share.
    branch: of the rest, which every cell has for itself.
    degrees: of freedom: seeds less one, summed over groups.
    known: degrees of freedom of these two, where they are of a few of the groups alone.
  """

  trunk: float
  branch: float
  degrees: int
  known: int | None = None

  @property
  def enough(self) -> bool:
    """False: too few degrees of freedom for intervals, which a report then has to say."""
    return self.degrees >= DEGREES

  def doubt(self, draws: int, rng: np.random.Generator) -> np.ndarray:
    """What the deviations may be over what they were estimated to be, shape (draws, 1)."""
    degrees = self.known or self.degrees
    return np.sqrt(degrees / rng.chisquare(degrees, (draws, 1)))


def noise(groups: Sequence[np.ndarray]) -> Noise:
  """Variance components of r_sl = mean_l + trunk_s + branch_sl, pooled over groups.

  By the analysis of variance, with lengths and then seeds fitted as constants (Henderson's third
  method, which is the classical table where no cell is missing). A negative component is 0. If no
  seed has two lengths, all is branch.

  Args:
    groups: an array (seeds, lengths) for each variant and shape, in nats; NaN: no such run. The
      losses themselves, or the gap of two architectures, whose seeds are paired by the order of
      the data.

  Raises:
    UserError: no group has two seeds of one length.
  """
  within = between = 0.0  # sums of squares: with seeds taken out, and what taking them out removes
  df_within = df_between = degrees = 0
  spread = 0.0  # of the trunks' variance in `between`
  for group_SD in groups:
    seed, length = np.nonzero(np.isfinite(group_SD))
    if not len(seed):
      continue
    value = np.asarray(group_SD, float)[seed, length]
    seeds, lengths = _indicators(seed), _indicators(length)
    by_length = _residual(value, lengths)
    by_both = _residual(value, np.concatenate([lengths, seeds], 1))
    rank = int(np.linalg.matrix_rank(np.concatenate([lengths, seeds], 1)))
    within += by_both @ by_both
    between += by_length @ by_length - by_both @ by_both
    df_within += len(value) - rank
    df_between += rank - lengths.shape[1]
    spread += float((_residual(seeds, lengths) ** 2).sum())
    degrees += rank - lengths.shape[1]
  if not df_between:
    raise UserError("There is no noise to estimate: no length was trained from two seeds.")
  if not df_within:
    return Noise(0.0, float(np.sqrt(between / df_between)), degrees)
  branch2 = within / df_within
  trunk2 = max(0.0, (between - df_between * branch2) / spread)
  return Noise(float(np.sqrt(trunk2)), float(np.sqrt(branch2)), degrees)


def law_draws(
  law: Law,
  tokens_D: np.ndarray,
  seeds: int | np.ndarray,
  noise: Noise,
  draws: int,
  rng: np.random.Generator,
) -> Law:
  """Laws of simulated studies: means over seeds round a fitted law, fitted again.

  Args:
    law: of one data set.
    tokens_D: lengths.
    seeds: trained at every length, or one number for each length.
    noise: of the losses.
    draws: how many studies.
    rng: random numbers.

  Returns:
    Fields of shape (draws,).
  """
  seeds_D = np.broadcast_to(seeds, np.shape(tokens_D))
  known_SD = np.arange(seeds_D.max())[:, None] < seeds_D
  off_ND = _simulated(known_SD, noise, draws, rng) * noise.doubt(draws, rng)
  weights_D = seeds_D / seeds_D.max()
  return fit.fit_lengths(tokens_D, _positive(law.loss(tokens_D) + off_ND), weights_D)


@dataclasses.dataclass(frozen=True)
class GapDraws:
  """Plausible gaps: half of form g + k D^-gamma, half differences of two laws.

  Attributes:
    direct: the one half.
    crate: the other: CRATE's laws,
    gpt2: and, of the same simulated studies, GPT-2's.
    shortest: run, in tokens.
  """

  direct: Gap
  crate: Law
  gpt2: Law
  shortest: float

  def at(self, tokens: fit.Number) -> np.ndarray:
    """CRATE's loss minus GPT-2's in nats; shape (draws, ...) with the axes of `tokens`."""
    laws = self.crate.loss(tokens) - self.gpt2.loss(tokens)
    return np.concatenate([self.direct.at(tokens), laws])


def gap_draws(
  tokens_D: np.ndarray,
  crate_SD: np.ndarray,
  gpt2_SD: np.ndarray,
  noise_of_gap: Noise,
  draws: int,
  rng: np.random.Generator,
  noise_of_loss: Noise | None = None,
) -> GapDraws:
  """Gaps of simulated studies; half of the draws each way (see `GapDraws`).

  Args:
    tokens_D: lengths.
    crate_SD: losses in nats, a row a seed. NaN: no such run; a cell that either lacks is left out.
    gpt2_SD: likewise; the same row is the same seed, and so the same order of the data.
    noise_of_gap: `noise` of crate_SD - gpt2_SD, pooled over as many groups as there are.
    draws: how many, at least two.
    rng: random numbers.
    noise_of_loss: `noise` of the losses, pooled likewise; of these two arrays if not given.

  Raises:
    UserError: fewer than four lengths that both have.
  """
  gap_SD = np.asarray(crate_SD, float) - np.asarray(gpt2_SD, float)
  known_SD = np.isfinite(gap_SD)
  seeds_D = known_SD.sum(0)
  tokens_D, known_SD = np.asarray(tokens_D)[seeds_D > 0], known_SD[:, seeds_D > 0]
  crate_D, gpt2_D, gap_D = (
    np.where(known_SD, x[:, seeds_D > 0], 0).sum(0) / seeds_D[seeds_D > 0]
    for x in (crate_SD, gpt2_SD, gap_SD)
  )
  weights_D = seeds_D[seeds_D > 0] / seeds_D.max(initial=1)
  gap = fit.fit_gap(tokens_D, gap_D, weights_D)
  half = draws // 2

  off_ND = _simulated(known_SD, noise_of_gap, draws - half, rng)
  off_ND *= noise_of_gap.doubt(draws - half, rng)
  direct = fit.fit_gap(tokens_D, gap.at(tokens_D) + off_ND, weights_D)

  of_loss = noise_of_loss or noise([crate_SD, gpt2_SD])
  doubt = noise_of_gap.doubt(half, rng)
  mean_ND = _simulated(known_SD, of_mean(of_loss, noise_of_gap), half, rng) * doubt
  off_ND = _simulated(known_SD, noise_of_gap, half, rng) * doubt
  laws = fit.fit_lengths(tokens_D, np.stack([crate_D, gpt2_D]), weights_D)
  fitted = laws.loss(tokens_D)
  sides = np.stack([fitted[0] + mean_ND + off_ND / 2, fitted[1] + mean_ND - off_ND / 2])
  again = fit.fit_lengths(tokens_D, _positive(sides), weights_D)
  crate, gpt2 = (Law(again.E[i], again.B[i], again.beta[i]) for i in (0, 1))
  return GapDraws(direct, crate, gpt2, float(np.min(tokens_D)))


def of_mean(of_loss: Noise, of_gap: Noise) -> Noise:
  """Noise of the mean of a pair's two losses, which is independent of that of their difference.

  That is so if both losses have the same noise: var mean = var loss - 1/4 var gap.
  """

  def less(loss: float, gap: float) -> float:
    return float(np.sqrt(max(0.0, loss**2 - gap**2 / 4)))

  return Noise(less(of_loss.trunk, of_gap.trunk), less(of_loss.branch, of_gap.branch), 0)


def interval(values: np.ndarray, level: float = 0.9) -> tuple[float, float]:
  """The central interval of draws that holds this share of them."""
  low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
  return float(low), float(high)


@dataclasses.dataclass(frozen=True)
class Crossing:
  """Where the gap becomes 0 or less, in tokens.

  Attributes:
    probability: that it has by ten times the longest run.
    low: quantile over all draws, or None where that lies beyond ten times the longest run: a draw
      that does not cross by then counts as one that crosses later.
    median: likewise.
    high: likewise.
  """

  probability: float
  low: float | None
  median: float | None
  high: float | None


def crossing(gap_draws: GapDraws, longest: float, level: float = 0.9) -> Crossing:
  """The crossing and its central interval, up to ten times the longest run."""
  crossed_N = _crossings(gap_draws, longest)
  shares = [(1 - level) / 2, 0.5, (1 + level) / 2]
  quantiles = np.quantile(crossed_N, shares, method="inverted_cdf")
  low, median, high = (float(q) if np.isfinite(q) else None for q in quantiles)
  return Crossing(float(np.isfinite(crossed_N).mean()), low, median, high)


def crossing_probability(gap_draws: GapDraws, at: float, longest: float) -> float | None:
  """Share of the draws whose gap has become 0 or less by so many tokens.

  Args:
    gap_draws: the draws.
    at: tokens.
    longest: run in the data, in tokens.

  Returns:
    None if `at` is more than ten times `longest`: outside the data, where nothing is said.
  """
  if at > OUTSIDE * longest * (1 + 1e-9):
    return None
  return float((_crossings(gap_draws, longest) <= at * (1 + 1e-9)).mean())


def _indicators(label: np.ndarray) -> np.ndarray:
  """A column for each distinct label: 1 where a row has it."""
  return (label[:, None] == np.unique(label)).astype(float)


def _residual(values: np.ndarray, basis: np.ndarray) -> np.ndarray:
  """What a basis' span leaves of values."""
  return values - basis @ np.linalg.lstsq(basis, values)[0]


def _simulated(
  known_SD: np.ndarray, noise: Noise, draws: int, rng: np.random.Generator
) -> np.ndarray:
  """Deviations of the means over seeds, shape (draws, D)."""
  S, D = known_SD.shape
  trunk_NS1 = noise.trunk * rng.standard_normal((draws, S, 1))
  cell_NSD = trunk_NS1 + noise.branch * rng.standard_normal((draws, S, D))
  mean_ND: np.ndarray = (cell_NSD * known_SD).sum(1) / known_SD.sum(0)
  return mean_ND


def _positive(loss: np.ndarray) -> np.ndarray:
  return np.maximum(loss, 1e-6)


def _crossings(gap_draws: GapDraws, longest: float) -> np.ndarray:
  """Tokens at which each draw becomes 0 or less, for good as far as the data reach.

  That is after the last length within the data at which it is positive, so a gap that only grows
  has not crossed. Infinite: not by ten times the longest run.
  """
  start = min(gap_draws.shortest, longest)
  inside_T = np.geomspace(start, longest, 65)
  log_T = np.log([*inside_T, *np.geomspace(longest, OUTSIDE * longest, 129)[1:]])
  gap_NT = gap_draws.at(np.exp(log_T))
  N, T = gap_NT.shape
  positive = gap_NT > 0
  last = np.where(positive[:, :65], np.arange(65), -1).max(1)
  later = ~positive & (np.arange(T) > last[:, None])
  first = np.where(later.any(1), later.argmax(1), T)
  after = np.clip(first, 1, T - 1)
  before_value, value = (gap_NT[np.arange(N), i] for i in (after - 1, after))
  share = np.clip(before_value / np.where(before_value > value, before_value - value, 1), 0, 1)
  log_N = log_T[after - 1] + share * (log_T[after] - log_T[after - 1])
  tokens_N: np.ndarray = np.where(first == T, np.inf, np.where(first == 0, start, np.exp(log_N)))
  return tokens_N
