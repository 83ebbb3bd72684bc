"""Differences between models that were trained from the same seeds, and how sure they are.

Every test is Student's, of one value a seed: seeds are few, and nothing else says how much a result
owes to its own. Differences to one base share its runs, so the spread of several is taken from the
losses themselves (`residual`), not from the differences.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

LEVEL = 0.95  # of every interval
UNLIKE = 0.01  # p below which a variant's seeds do not spread as the others'


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A number, its interval, and the test that it is zero.

  Attributes:
    value: the estimate.
    low, high: bounds at `LEVEL`; None where nothing bounds it.
    p: that a value so far from zero comes by chance, two-sided; None for a single seed.
  """

  value: float
  low: float | None = None
  high: float | None = None
  p: float | None = None


def over_seeds(values: Sequence[float], pooled: tuple[float, int] | None = None) -> Estimate:
  """The mean of differences, one a seed.

  Args:
    values: at least one.
    pooled: standard deviation of a difference and its degrees of freedom, if not these values' own
      (`residual`).
  """
  mean, n = float(np.mean(values)), len(values)
  if pooled is None:
    if n < 2:
      return Estimate(mean)
    pooled = float(np.std(values, ddof=1)), n - 1
  error, degrees = pooled[0] / math.sqrt(n), pooled[1]
  if not error:  # all seeds the same
    return Estimate(mean, mean, mean, float(mean == 0))
  half = _quantile(degrees) * error
  return Estimate(mean, mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / error, degrees)))


def residual(loss_VS: np.ndarray) -> tuple[float, int] | None:
  """Standard deviation of what variant and seed leave of a loss, and its degrees of freedom.

  Both means are taken out of the V x S losses, which leaves (V - 1)(S - 1) degrees. The difference
  of two variants has sqrt(2) times this deviation at each seed. V differences to one base do not
  have V (S - 1) degrees: the base's runs are in all of them.

  None if there is one variant or one seed.
  """
  V, S = loss_VS.shape
  if min(V, S) < 2:
    return None
  rest_VS = loss_VS - loss_VS.mean(1, keepdims=True) - loss_VS.mean(0) + loss_VS.mean()
  degrees = (V - 1) * (S - 1)
  return math.sqrt(float((rest_VS**2).sum()) / degrees), degrees


def alike(loss_VS: np.ndarray, level: float = UNLIKE) -> list[int]:
  """Indices of the variants whose seeds spread as the others' do, so that one deviation fits all.

  The variant that spreads most is left out as long as an F test of its variance against what the
  others leave (`residual`), corrected for their number, has a p below `level`: a variant that some
  seeds lose, by too high a rate, would make all the others look unsure.
  """
  left = list(range(len(loss_VS)))
  while len(left) > 2:
    ps = {i: _unlike(loss_VS[i], loss_VS[[j for j in left if j != i]]) for i in left}
    worst = min(left, key=lambda i: ps[i])
    if ps[worst] * len(left) >= level:
      break
    left.remove(worst)
  return left


def _unlike(own_S: np.ndarray, others_VS: np.ndarray) -> float:
  """p of the F test that this variant spreads no more over its seeds than these do."""
  rest = residual(others_VS)
  if rest is None or not rest[0]:
    return 1.0
  V, S = others_VS.shape
  # Beside the mean of the others, which has 1 / V of their variance.
  variance = float(np.var(own_S - others_VS.mean(0), ddof=1)) / (1 + 1 / V)
  return float(stats.f.sf(variance / rest[0] ** 2, S - 1, rest[1]))


def holm(p_values: Sequence[float]) -> list[float]:
  """Adjusted so that calling all below alpha real errs once in 1 / alpha tables (Holm 1979).

  In the order given.
  """
  adjusted, least = [0.0] * len(p_values), 0.0
  for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
    least = max(least, min(1.0, (len(p_values) - rank) * p_values[i]))
    adjusted[i] = least
  return adjusted


def ratio(above: Sequence[float], below: Sequence[float]) -> Estimate:
  """mean(above) / mean(below), both paired by seed, with Fieller's interval (1954).

  It holds the numbers r for which `over_seeds` does not tell above - r below from zero. There are
  no bounds for a single seed, nor where `below` itself is not told from zero.
  """
  a, b = np.asarray(above, float), np.asarray(below, float)
  n = len(a)
  value = float(a.mean() / b.mean()) if n and b.mean() else math.nan
  if n < 2:
    return Estimate(value)
  covariance = np.cov(np.stack([a, b])) * _quantile(n - 1) ** 2 / n
  square = b.mean() ** 2 - covariance[1, 1]
  if square <= 0:
    return Estimate(value)
  middle = a.mean() * b.mean() - covariance[0, 1]
  root = math.sqrt(max(0.0, middle**2 - square * (a.mean() ** 2 - covariance[0, 0])))
  return Estimate(value, float((middle - root) / square), float((middle + root) / square))


def _quantile(degrees: int) -> float:
  return float(stats.t.ppf((1 + LEVEL) / 2, degrees))
