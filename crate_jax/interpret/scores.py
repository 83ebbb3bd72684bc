"""How well rules predict neurons, and how selective neurons are, without a language model."""

import dataclasses
import functools
from collections.abc import Iterable
from concurrent import futures

import numpy as np
import scipy.special
import scipy.stats

from crate_jax.interpret.network import Batch
from crate_jax.interpret.rules import Rules, Tables, gathering

# What is summed over tokens, of the activation a and a simulation s. Both are taken from the
# neuron's mean in the explaining works, so that little is lost to rounding.
SUMS = ("a", "aa", "s", "ss", "as")
_GROUP = 4  # windows of a work that are summed up at once: they stay in the processor's cache
_CONSTANT = 1e-5  # of its second moment: a variance below is float32's rounding


@dataclasses.dataclass(frozen=True)
class Sums:
  """Sums over the tokens of each of W works, of M neurons; of works that are resampled as wholes.

  Attributes:
    tokens_W: how many there are.
    token_WMS: `SUMS` with the simulation by token.
    pair_WMS: with the simulation by pair.
    null_WKMS: with the simulations by pair of K other neurons.
  """

  tokens_W: np.ndarray
  token_WMS: np.ndarray
  pair_WMS: np.ndarray
  null_WKMS: np.ndarray


def sums(batches: Iterable[Batch], rules: Rules, works: int, null_KM: np.ndarray) -> Sums:
  """Simulates a text and sums up, work by work.

  Args:
    batches: windows and activations on them.
    rules: what simulates.
    works: W.
    null_KM: the K neurons whose simulations are each one's null; K may be 0.
  """
  K, M = null_KM.shape
  token_WMS, pair_WMS = np.zeros((2, works, M, len(SUMS)))
  null_WKMS = np.zeros((works, K, M, len(SUMS)))
  found = Sums(np.zeros(works, np.int64), token_WMS, pair_WMS, null_WKMS)
  with futures.ThreadPoolExecutor() as pool:
    for batch in batches:
      groups = [
        np.flatnonzero(batch.work_B == work)[first : first + _GROUP]
        for work, count in zip(*np.unique(batch.work_B, return_counts=True), strict=True)
        for first in range(0, count, _GROUP)
      ]
      held = batch._replace(a_LBTn=np.asarray(batch.a_LBTn))
      parts = pool.map(functools.partial(_sums, held, rules, null_KM), groups)
      for group, (token, pair, null) in zip(groups, parts, strict=True):
        work = batch.work_B[group[0]]
        found.tokens_W[work] += batch.tokens_BT[group].size
        found.token_WMS[work] += token
        found.pair_WMS[work] += pair
        found.null_WKMS[work] += null
  return found


def _sums(
  batch: Batch, rules: Rules, null_KM: np.ndarray, group: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Of some windows of a batch: `SUMS` by token, by pair, (M, 5), and of nulls, (K, M, 5).

  A simulation is the same wherever it reads the same row of a table, so activations are first
  summed up by row.
  """
  a_LGTn = batch.a_LBTn[:, group]
  L, _, _, n = a_LGTn.shape
  row_R, count_R, which = gathering(rules.pairs.rows(batch.tokens_BT[group]).ravel())
  a_RM, aa_M = np.empty((len(row_R), L * n), np.float32), np.empty(L * n, np.float32)
  for layer, a_GTn in enumerate(a_LGTn):
    own = slice(layer * n, (layer + 1) * n)
    a_Nn = a_GTn.reshape(-1, n) - rules.mean_M[own]
    a_RM[:, own], aa_M[own] = which @ a_Nn, _products(a_Nn, a_Nn)
  a_M, weight_R = a_RM.sum(0), count_R.astype(np.float32)

  def of(s_RM: np.ndarray) -> np.ndarray:
    s_M = np.einsum("r,rm->m", weight_R, s_RM)  # BLAS would want all cores
    ss_M = _products(weight_R[:, None] * s_RM, s_RM)
    return np.stack([a_M, aa_M, s_M, ss_M, _products(a_RM, s_RM)], -1)

  token_RM, pair_RM = (s_RM - rules.mean_M for s_RM in rules.at(row_R))
  pair_MS = of(pair_RM)
  null_KMS = np.empty((*null_KM.shape, len(SUMS)), np.float32)
  for null_MS, null_M in zip(null_KMS, null_KM, strict=True):
    both_M = _products(a_RM, np.take(pair_RM, null_M, axis=1))
    null_MS[:] = np.stack([a_M, aa_M, *pair_MS[null_M, 2:4].T, both_M], -1)
  return of(token_RM), pair_MS, null_KMS


def _products(x_RM: np.ndarray, y_RM: np.ndarray) -> np.ndarray:
  return np.einsum("rm,rm->m", x_RM, y_RM)


def pearson(sums: np.ndarray, tokens: np.ndarray) -> np.ndarray:
  """Pearson's correlation of activation and simulation, NaN where either is constant.

  Args:
    sums: `SUMS` in the last axis.
    tokens: how many were summed over; broadcast against the other axes.
  """
  a, aa, s, ss, both = np.moveaxis(sums, -1, 0) / tokens
  a_variance, s_variance = aa - a * a, ss - s * s
  defined = (a_variance > _CONSTANT * aa) & (s_variance > _CONSTANT * ss)
  size = np.sqrt(np.where(defined, a_variance * s_variance, 1))
  return np.where(defined, np.clip((both - a * s) / size, -1, 1), np.nan)


def explained_variance(sums: np.ndarray, tokens: np.ndarray) -> np.ndarray:
  """1 - E (a - s)^2 / Var a of the simulation as it is, uncalibrated; NaN for a constant neuron.

  Args: as of `pearson`.
  """
  a, aa, _, ss, both = np.moveaxis(sums, -1, 0) / tokens
  variance = aa - a * a
  defined = variance > _CONSTANT * aa
  rest = (aa - 2 * both + ss) / np.where(defined, variance, 1)
  return np.where(defined, 1 - rest, np.nan)


def ranks(a_NM: np.ndarray) -> np.ndarray:
  """Each neuron's ranks over tokens, from 1; ties share their mean."""
  return scipy.stats.rankdata(a_NM, axis=0)


def rank_sums(
  a_NM: np.ndarray, s_NM: np.ndarray, work_N: np.ndarray, works: int
) -> tuple[np.ndarray, np.ndarray]:
  """`SUMS` of ranks, work by work, whose `pearson` is Spearman's correlation.

  Ranks are those among all N tokens, whichever works are drawn again.

  Args:
    a_NM: ranks of the activations, see `ranks`.
    s_NM: of a simulation.
    work_N: the work of each token.
    works: W.

  Returns:
    sums_WMS of the ranks as shares of N, from the middle one; and tokens_W, how many were summed.
  """
  N, M = a_NM.shape
  sums_WMS = np.zeros((works, M, len(SUMS)))
  for work in np.unique(work_N):
    a, s = ((x_NM[work_N == work] - (N + 1) / 2) / N for x_NM in (a_NM, s_NM))
    sums_WMS[work] = np.stack([x.sum(0) for x in (a, a * a, s, s * s, a * s)], -1)
  return sums_WMS, np.bincount(work_N, minlength=works)


@dataclasses.dataclass(frozen=True)
class Selectivity:
  """Which tokens a neuron fires at; NaN for one that never does. A correlation does not see it.

  Attributes:
    purity_M: share of its firing that is at its most frequent token.
    effective_tokens_M: 2^H with the entropy H, in bits, of the token where it fires.
    adjusted_information_M: (I - I0) / (H - I0) with the mutual information I of firing and the
      token, its value I0 at the token of another window, and the entropy H of firing: 1 where the
      token decides, 0 where it says nothing.
  """

  purity_M: np.ndarray
  effective_tokens_M: np.ndarray
  adjusted_information_M: np.ndarray


def selectivity(tables: Tables) -> Selectivity:
  """From the sums that rules are made from."""
  total_M = tables.fired_VM.sum(0, dtype=np.float64)
  with np.errstate(invalid="ignore"):  # 0 / 0 of a neuron that never fires
    share_VM = tables.fired_VM / total_M
    entropy_M = scipy.special.entr(share_VM).sum(0)
    rate_M = total_M / tables.count_V.sum()
    uncertainty_M = _binary_entropy(rate_M)
    real_M, null_M = (
      uncertainty_M - _conditional(fired_VM, tables.count_V)
      for fired_VM in (tables.fired_VM, tables.null_VM)
    )
    adjusted_M = np.where(
      (rate_M > 0) & (rate_M < 1), (real_M - null_M) / (uncertainty_M - null_M), np.nan
    )
  return Selectivity(share_VM.max(0), np.exp(entropy_M), adjusted_M)


def _conditional(fired_VM: np.ndarray, count_V: np.ndarray) -> np.ndarray:
  """Entropy of firing given the token, in nats."""
  seen = count_V > 0
  share_VM = np.minimum(fired_VM[seen] / count_V[seen][:, None], 1)
  return (count_V[seen] / count_V.sum()) @ _binary_entropy(share_VM)


def _binary_entropy(p: np.ndarray) -> np.ndarray:
  return scipy.special.entr(p) + scipy.special.entr(1 - p)
