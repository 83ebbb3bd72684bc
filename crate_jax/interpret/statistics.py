"""Means of scores over neurons, their intervals, and what two networks' scores can be said to be.

A score varies with the neurons that were drawn, with the works that it was measured on, and with
the seed that a network was trained from. Neurons and works are crossed: every neuron is scored on
every work, so both are drawn again, each by itself (Owen 2007, arXiv 0711.3140, the pigeonhole
bootstrap). Of networks of several seeds the works are drawn again, and on top stands what their
means, which hold the draw of their neurons, spread over seeds, by Student's t: drawing three means
again would cover 75 % of what it says 95 % of.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from crate_jax.interpret.scores import pearson

LEVEL = 0.95
_AT_ONCE = 16  # draws that are one matrix product
_BINS = 4  # of firing rates to a factor of ten, in which neurons are matched


@dataclasses.dataclass(frozen=True)
class Scored:
  """What a mean over neurons is made from: sums over the tokens of each work (`scores.Sums`).

  Attributes:
    sums_WMS: of one layer's neurons, or of several layers'; (W, K, M, S) where each is scored by K
      rules, and its score is the mean of those that are defined.
    tokens_W: of the works.
    weight_M: what each neuron counts; None for all the same.
  """

  sums_WMS: np.ndarray
  tokens_W: np.ndarray
  weight_M: np.ndarray | None = None

  def scores(self) -> np.ndarray:
    """Every neuron's correlation on all works together, NaN where it is undefined."""
    return _scores(self.sums_WMS.sum(0), self.tokens_W.sum())


def _scores(sums_MS: np.ndarray, tokens: np.ndarray) -> np.ndarray:
  score_M = pearson(sums_MS, tokens)
  if score_M.ndim == 1:
    return score_M
  defined_KM = ~np.isnan(score_M)
  total_M = np.where(defined_KM, score_M, 0).sum(0)
  count_M = defined_KM.sum(0)
  return np.where(count_M > 0, total_M / np.maximum(count_M, 1), np.nan)


@dataclasses.dataclass(frozen=True)
class Summary:
  """The scores of n neurons.

  Attributes:
    n: how many neurons there are.
    coverage: share whose score is defined.
    mean: over those.
    interval: of that mean, see `LEVEL`.
    mean_zero: with undefined scores as zero.
    interval_zero: of that mean.
    median: over those defined.
    std: standard deviation over those defined.
    error: standard error of the mean, of neurons, works and seeds.
  """

  n: int
  coverage: float
  mean: float
  interval: tuple[float, float]
  mean_zero: float
  interval_zero: tuple[float, float]
  median: float
  std: float
  error: float


def draw_works(works: int, draws: int, rng: np.random.Generator) -> np.ndarray:
  """How often each work is drawn, counts_DW; the same for all networks, which pairs them."""
  return rng.multinomial(works, np.full(works, 1 / works), size=draws)


def means(
  scored: Scored, counts_DW: np.ndarray, rng: np.random.Generator | None = None
) -> np.ndarray:
  """Means of drawn neurons' scores on drawn works, (D, 2): of the defined, and with zeros.

  Args:
    scored: of one network.
    counts_DW: how often each work is drawn.
    rng: draws the neurons; without it all are taken, once each.
  """
  W, *shape = scored.sums_WMS.shape
  M = shape[-2]
  here_W = scored.tokens_W > 0  # most works of a text are not in the set
  flat_WX = scored.sums_WMS.reshape(W, -1)[here_W]
  weight_M = np.ones(M) if scored.weight_M is None else scored.weight_M
  found = np.full((len(counts_DW), 2), np.nan)
  tokens_D = counts_DW @ scored.tokens_W
  for first in range(0, len(counts_DW), _AT_ONCE):
    drawn_DX = counts_DW[first : first + _AT_ONCE, here_W].astype(float) @ flat_WX
    for d, drawn_X in enumerate(drawn_DX, first):
      drawn_M = rng.multinomial(M, np.full(M, 1 / M)) if rng is not None else np.ones(M)
      if tokens_D[d]:
        score_M = _scores(drawn_X.reshape(shape), tokens_D[d])
        found[d] = _two_means(score_M, weight_M * drawn_M)
  return found


def _two_means(score_M: np.ndarray, weight_M: np.ndarray) -> tuple[float, float]:
  """Mean over the defined, and with zeros for the undefined."""
  defined = ~np.isnan(score_M)
  total, of_defined = weight_M.sum(), weight_M[defined].sum()
  sum_ = weight_M[defined] @ score_M[defined]
  return sum_ / of_defined if of_defined else math.nan, sum_ / total if total else math.nan


def interval(drawn: np.ndarray) -> tuple[float, float]:
  """The middle `LEVEL` of what was drawn, NaN where nothing was."""
  if np.isnan(drawn).all():
    return math.nan, math.nan
  low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
  return float(low), float(high)


def summarise(
  networks: Sequence[Scored], counts_DW: np.ndarray, rng: np.random.Generator
) -> tuple[Summary, np.ndarray]:
  """Summarises one network, or several that differ in the seed they were trained from.

  The mean is that of the networks' means.

  Args:
    networks: scored on the same works; several differ in the seed they were trained from.
    counts_DW: see `draw_works`.
    rng: draws neurons, or where there are several networks what their seeds are off by.

  Returns:
    the summary, and the drawn means as `means` gives them.
  """
  scores = [network.scores() for network in networks]
  weights = [
    np.ones(len(s)) if network.weight_M is None else network.weight_M
    for s, network in zip(scores, networks, strict=True)
  ]
  of_each_G2 = np.array([_two_means(s, w) for s, w in zip(scores, weights, strict=True)])
  two = of_each_G2.mean(axis=0)
  if len(networks) == 1:
    drawn_D2 = means(networks[0], counts_DW, rng)
    error = _std(drawn_D2[:, 0])
  else:
    of_works_D2 = np.mean([means(network, counts_DW) for network in networks], axis=0)
    seeds_2 = of_each_G2.std(axis=0, ddof=1) / math.sqrt(len(networks))
    chances_D = (rng.permutation(len(counts_DW)) + 0.5) / len(counts_DW)  # evenly spread
    off_D = stats.t.ppf(chances_D, len(networks) - 1)
    drawn_D2 = of_works_D2 + off_D[:, None] * seeds_2
    error = math.hypot(_std(of_works_D2[:, 0]), seeds_2[0])
  everything = np.concatenate(scores)
  defined = everything[~np.isnan(everything)]
  return Summary(
    n=len(everything),
    coverage=len(defined) / len(everything),
    mean=float(two[0]),
    interval=interval(drawn_D2[:, 0]),
    mean_zero=float(two[1]),
    interval_zero=interval(drawn_D2[:, 1]),
    median=float(np.median(defined)) if len(defined) else math.nan,
    std=float(defined.std()) if len(defined) else math.nan,
    error=error,
  ), drawn_D2


def _std(drawn_D: np.ndarray) -> float:
  return math.nan if np.isnan(drawn_D).all() else float(np.nanstd(drawn_D))


def p_value(difference_D: np.ndarray) -> float:
  """Two-sided, of a difference of zero: twice the smaller share of draws on either side of it."""
  difference_D = difference_D[~np.isnan(difference_D)]
  if not len(difference_D):
    return math.nan
  below = np.count_nonzero(difference_D <= 0) + 1
  above = np.count_nonzero(difference_D >= 0) + 1
  return float(min(1.0, 2 * min(below, above) / (len(difference_D) + 1)))


@dataclasses.dataclass(frozen=True)
class Matched:
  """Two networks' neurons matched by how often they fire.

  Attributes:
    weight_a_M: what each neuron of a counts; 0 outside the common support.
    weight_b_M: likewise of b.
    share_a: of a's neurons that are inside it.
    share_b: likewise.
    low: the smallest firing rate that both have,
    high: and the largest.
  """

  weight_a_M: np.ndarray
  weight_b_M: np.ndarray
  share_a: float
  share_b: float
  low: float
  high: float


def match(rate_a_M: np.ndarray, rate_b_M: np.ndarray) -> Matched:
  """Weights with which two sets of neurons have the same firing rates.

  Rates are sorted into bins of a quarter of a decade; in each bin that both sets have, both count
  as much together as the smaller of their shares there.

  Args:
    rate_a_M: share of the tokens at which each of a's neurons fires.
    rate_b_M: likewise of b.
  """
  bin_a, bin_b = (_bins(rate) for rate in (rate_a_M, rate_b_M))
  weight_a, weight_b = np.zeros(len(bin_a)), np.zeros(len(bin_b))
  common = np.intersect1d(bin_a[rate_a_M > 0], bin_b[rate_b_M > 0])
  for b in common:
    in_a, in_b = bin_a == b, bin_b == b
    least = min(in_a.mean(), in_b.mean())
    weight_a[in_a], weight_b[in_b] = least / in_a.sum(), least / in_b.sum()
  edges = 10.0 ** (np.array([common.min(), common.max() + 1]) / _BINS) if len(common) else (0, 0)
  return Matched(
    weight_a,
    weight_b,
    float((weight_a > 0).mean()),
    float((weight_b > 0).mean()),
    float(edges[0]),
    float(min(edges[1], 1.0)),
  )


def _bins(rate_M: np.ndarray) -> np.ndarray:
  with np.errstate(divide="ignore"):
    log = np.floor(np.log10(rate_M) * _BINS)
  return np.where(rate_M > 0, np.minimum(log, -1), -np.inf)
