"""Explanations by rule: the activation that is expected at a token, or at two in a row.

A rule is a table, made from works that it is not scored on, and reads as a sentence. No language
model is asked: what a rule explains is a lower bound of what can be explained.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from concurrent import futures

import numpy as np
import scipy.sparse

from crate_jax.data.tokenizer import Tokenizer
from crate_jax.interpret.network import Batch

SHRINKAGE = 5.0  # tokens' worth of the less specific expectation that every expectation starts with
PAIRS = 16_384  # pairs of tokens that have an expectation of their own: the most frequent
_NAMED = 4  # tokens, or pairs, that a rule's sentence names
RAREST = 4  # a pair that is seen less often has none


@dataclasses.dataclass(frozen=True)
class Pairs:
  """The pairs of tokens in a row that rules know, the most frequent of a text.

  Attributes:
    key_K: previous token * vocabulary + token, ascending.
    count_K: how often each was seen.
    vocabulary: size of it.
  """

  key_K: np.ndarray
  count_K: np.ndarray
  vocabulary: int

  def of(self, tokens_BT: np.ndarray) -> np.ndarray:
    """Which pair each token ends, as an index; K for none, and at a window's first token."""
    K = len(self.key_K)
    pair_BT = np.full(tokens_BT.shape, K)
    key = tokens_BT[:, :-1].astype(np.int64) * self.vocabulary + tokens_BT[:, 1:]
    at = np.searchsorted(self.key_K, key)
    known = (at < K) & (self.key_K[np.minimum(at, K - 1)] == key) if K else at < K
    pair_BT[:, 1:] = np.where(known, at, K)
    return pair_BT

  def rows(self, tokens_BT: np.ndarray) -> np.ndarray:
    """Row of each token in a table of V tokens and, after them, K pairs: its pair's if known."""
    pair_BT = self.of(tokens_BT)
    return np.where(pair_BT < len(self.key_K), self.vocabulary + pair_BT, tokens_BT)


def pairs(tokens_NT: np.ndarray, vocabulary: int) -> Pairs:
  """The pairs that windows of text have, at most `PAIRS` of those seen at least `RAREST` times."""
  key = tokens_NT[:, :-1].astype(np.int64) * vocabulary + tokens_NT[:, 1:]
  key_K, count_K = np.unique(key, return_counts=True)
  order = np.argsort(-count_K, kind="stable")[:PAIRS]
  chosen = np.sort(order[count_K[order] >= RAREST])
  return Pairs(key_K[chosen], count_K[chosen], vocabulary)


@dataclasses.dataclass(frozen=True)
class Tables:
  """What rules are made from: sums over a text. M = layers * neurons, flattened.

  Attributes:
    pairs: the pairs that are told apart.
    count_V: how often each token was seen.
    sum_VM: of the activations at each token.
    fired_VM: tokens at which a neuron is not zero, by the token.
    null_VM: likewise, by the token a window and a half before, which is hardly its cause.
    next_V: how often each token was seen as the next one.
    next_VM: sum of the activations before each token.
    sum_KM: of the activations at the end of each pair.
  """

  pairs: Pairs
  count_V: np.ndarray
  sum_VM: np.ndarray
  fired_VM: np.ndarray
  null_VM: np.ndarray
  next_V: np.ndarray
  next_VM: np.ndarray
  sum_KM: np.ndarray

  @property
  def mean_M(self) -> np.ndarray:
    """Mean activation."""
    return self.sum_VM.sum(0) / self.count_V.sum()


def fit(batches: Iterable[Batch], pairs: Pairs, neurons: int) -> Tables:
  """Sums up a text.

  Args:
    batches: windows and activations on them.
    pairs: which pairs to tell apart.
    neurons: M, all layers' together.
  """
  V, K = pairs.vocabulary, len(pairs.key_K)
  count_V, next_V = np.zeros(V, np.int64), np.zeros(V, np.int64)
  lengths = {"own": V + K, "fired": V, "null": V, "next": V}
  sums = {name: np.zeros((length, neurons), np.float32) for name, length in lengths.items()}
  with futures.ThreadPoolExecutor() as pool:
    for batch in batches:
      tokens_BT = batch.tokens_BT
      count_V += np.bincount(tokens_BT.ravel(), minlength=V)
      next_V += np.bincount(tokens_BT[:, 1:].ravel(), minlength=V)
      a_LBTn = np.asarray(batch.a_LBTn)
      n = a_LBTn.shape[-1]
      own = [slice(l * n, (l + 1) * n) for l in range(len(a_LBTn))]
      rows = {
        "own": pairs.rows(tokens_BT).ravel(),
        "fired": tokens_BT.ravel(),
        # Half a window and a window away, which is another window unless there is but one.
        "null": np.roll(tokens_BT.ravel(), 3 * tokens_BT.shape[1] // 2),
        "next": tokens_BT[:, 1:].ravel(),
      }
      of_layers = [{name: x[:, layer] for name, x in sums.items()} for layer in own]
      list(pool.map(_add_layer, of_layers, [rows] * len(own), a_LBTn))
  # A pair's tokens are tokens too.
  sum_VM, sum_KM = sums["own"][:V], sums["own"][V:]
  _add(sum_VM, pairs.key_K % V, sum_KM)
  return Tables(pairs, count_V, sum_VM, sums["fired"], sums["null"], next_V, sums["next"], sum_KM)


def _add_layer(sums: dict[str, np.ndarray], rows: dict[str, np.ndarray], a_BTn: np.ndarray) -> None:
  """Adds a layer's activations to its part of every table, whose rows are given for every token."""
  a_Nn = a_BTn.reshape(-1, a_BTn.shape[-1])
  fires_Nn = (a_Nn != 0).astype(np.float32)
  before_Nn = a_BTn[:, :-1].reshape(-1, a_BTn.shape[-1])
  what = {"own": a_Nn, "fired": fires_Nn, "null": fires_Nn, "next": before_Nn}
  for name, table in sums.items():
    _add(table, rows[name], what[name])


def _add(table_RM: np.ndarray, row_N: np.ndarray, a_NM: np.ndarray) -> None:
  """Adds each row of a to a row of the table."""
  rows, _, which = gathering(row_N)
  table_RM[rows] += which @ a_NM


def gathering(row_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, scipy.sparse.csr_matrix]:
  """How tokens are summed up by the row of a table that they belong to, which is sparse.

  Returns:
    the rows that there are, how many tokens each has, and the matrix that, times what is known of
    each token, sums it up for each of these rows.
  """
  rows, place_N, count = np.unique(row_N, return_inverse=True, return_counts=True)
  entries = np.ones(len(row_N), np.float32), (place_N, np.arange(len(row_N)))
  return rows, count, scipy.sparse.csr_matrix(entries, (len(rows), len(row_N)))


@dataclasses.dataclass(frozen=True)
class Rules:
  """Expected activations.

  Attributes:
    pairs: the pairs that have expectations of their own.
    token_VM: at each token.
    pair_KM: at the end of each pair.
    mean_M: at any token.
  """

  pairs: Pairs
  token_VM: np.ndarray
  pair_KM: np.ndarray
  mean_M: np.ndarray

  def simulate(self, tokens_BT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Activations as the rules expect them, (B, T, M) each: by the token, and by the pair."""
    by_token, by_pair = self.at(self.pairs.rows(tokens_BT).ravel())
    M = len(self.mean_M)
    return by_token.reshape(*tokens_BT.shape, M), by_pair.reshape(*tokens_BT.shape, M)

  def at(self, row_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is expected at rows of `Pairs.rows`, (R, M) each: by the token, and by the pair."""
    V = self.pairs.vocabulary
    known = row_R >= V
    pair = row_R[known] - V
    token_R = row_R.copy()
    token_R[known] = self.pairs.key_K[pair] % V
    by_token = self.token_VM[token_R]
    by_pair = by_token.copy()
    by_pair[known] = self.pair_KM[pair]
    return by_token, by_pair


def rules(tables: Tables) -> Rules:
  """Expectations, each shrunk towards the less specific one.

  T[v] = (sum + alpha mu) / (n + alpha), and of a pair likewise towards T of its second token.
  """
  mean_M = tables.mean_M.astype(np.float32)
  token_VM = tables.sum_VM + np.float32(SHRINKAGE) * mean_M
  token_VM /= (tables.count_V[:, None] + SHRINKAGE).astype(np.float32)
  second_K = tables.pairs.key_K % tables.pairs.vocabulary
  pair_KM = tables.sum_KM + np.float32(SHRINKAGE) * token_VM[second_K]
  pair_KM /= (tables.pairs.count_K[:, None] + SHRINKAGE).astype(np.float32)
  return Rules(tables.pairs, token_VM, pair_KM, mean_M)


def sentence(tables: Tables, rules: Rules, neuron: int, by_pair: bool, tokenizer: Tokenizer) -> str:
  """A neuron's rule in words: the tokens, or pairs, that explain most, and their activation.

  Args:
    tables: what the rules were made from.
    rules: they.
    neuron: of the M.
    by_pair: whether its rule looks at pairs.
    tokenizer: of the tokens.
  """
  if not tables.fired_VM[:, neuron].any():
    return "never fires"
  signed = bool((tables.sum_VM[:, neuron] < 0).any())  # no share of the sum means anything
  parts = [x for x in _heaviest(tables, rules, neuron, by_pair) if signed or x[1] > 0]
  if not parts:
    return "fires, on no token more than on others"
  names = [_quoted(tokenizer, key, by_pair, tables.pairs.vocabulary) for key, _ in parts]
  if signed:
    return f"is highest on {', '.join(names)}; some others make it negative"
  total = float(tables.sum_VM[:, neuron].sum())
  named = [f"{name} ({mass / total:.0%})" for name, (_, mass) in zip(names, parts, strict=True)]
  rest = max(1 - sum(mass for _, mass in parts) / total, 0)
  return f"fires on {', '.join(named)}; {rest:.0%} of its activation lies elsewhere"


def _heaviest(
  tables: Tables, rules: Rules, neuron: int, by_pair: bool
) -> Iterator[tuple[int, float]]:
  """Tokens or pairs that raise it and the activation there; first what explains most variance."""
  if by_pair:
    key, count, mass = tables.pairs.key_K, tables.pairs.count_K, tables.sum_KM[:, neuron]
    expected = rules.pair_KM[:, neuron]
  else:
    key, count, mass = np.arange(len(tables.count_V)), tables.count_V, tables.sum_VM[:, neuron]
    expected = rules.token_VM[:, neuron]
  explained = count * np.maximum(expected - rules.mean_M[neuron], 0) ** 2
  for i in np.argsort(-explained, kind="stable")[:_NAMED]:
    if explained[i] > 0:
      yield int(key[i]), float(mass[i])


def _quoted(tokenizer: Tokenizer, key: int, by_pair: bool, vocabulary: int) -> str:
  if not by_pair:
    return repr(tokenizer.decode([key]))
  first, second = divmod(key, vocabulary)
  return f"{tokenizer.decode([second])!r} after {tokenizer.decode([first])!r}"
