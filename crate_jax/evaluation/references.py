"""Reference lines: what counting words and pairs of words reaches on the same tokens."""

import numpy as np


def unigram_loss(train: np.ndarray, tokens: np.ndarray, vocab_size: int) -> float:
  """Nats per token of add-one smoothed token frequencies.

  Args:
    train: token ids that are counted.
    tokens: token ids of a text; all but the first are scored, as `loss.text_loss` does.
    vocab_size: of the tokenizer.
  """
  counts = np.bincount(train, minlength=vocab_size) + 1.0
  return float(-np.log(counts / counts.sum())[tokens[1:]].mean())


def bigram_loss(train: np.ndarray, tokens: np.ndarray, vocab_size: int) -> float:
  """Nats per token of an interpolated Kneser-Ney bigram model (Chen and Goodman 1999).

  p(w | v) = max(c(v w) - D, 0) / c(v) + D N(v .) / c(v) p(w), where p(w) is proportional to
  the number N(. w) of tokens that w follows, itself discounted and interpolated with the
  uniform distribution. Each level's discount is n_1 / (n_1 + 2 n_2), from how many of its
  counts are one and two. Arguments as in `unigram_loss`.
  """
  V = vocab_size
  pairs, pair_counts = np.unique(train[:-1].astype(np.int64) * V + train[1:], return_counts=True)
  first, second = pairs // V, pairs % V
  discount = _discount(pair_counts)
  context_counts = np.bincount(first, weights=pair_counts, minlength=V)  # c(v)
  followers = np.bincount(first, minlength=V)  # N(v .)
  predecessors = np.bincount(second, minlength=V)  # N(. w)

  lower_discount = _discount(predecessors[predecessors > 0])
  kinds = len(pairs)
  kept = np.maximum(predecessors - lower_discount, 0) / kinds
  p_lower = kept + (1 - kept.sum()) / V

  v, w = tokens[:-1].astype(np.int64), tokens[1:]
  place = np.searchsorted(pairs, v * V + w)
  place = np.minimum(place, kinds - 1)
  seen = np.where(pairs[place] == v * V + w, pair_counts[place], 0)
  total = np.maximum(context_counts[v], 1)
  backoff = np.where(context_counts[v] > 0, discount * followers[v] / total, 1.0)
  p = np.maximum(seen - discount, 0) / total + backoff * p_lower[w]
  return float(-np.log(p).mean())


def _discount(counts: np.ndarray) -> float:
  """n_1 / (n_1 + 2 n_2); one half where no count is one (tiny texts)."""
  ones, twos = int(np.sum(counts == 1)), int(np.sum(counts == 2))
  return ones / (ones + 2 * twos) if ones else 0.5
