import itertools
import math
from collections import Counter

import numpy as np
import pytest

from crate_jax.evaluation import references


def _texts(V=12, n=400, m=60):
  rng = np.random.default_rng(0)
  weights = 1 / np.arange(1, V + 1)
  weights[-2:] = 0  # two tokens never occur in training
  train = rng.choice(V, n, p=weights / weights.sum())
  return train, rng.integers(0, V, m)


def kneser_ney(train, V):
  """p(w | v) as a function, word for word after Chen and Goodman, with dictionaries."""
  pairs = Counter(itertools.pairwise(train))

  def discount(counts):
    ones = sum(c == 1 for c in counts)
    twos = sum(c == 2 for c in counts)
    return ones / (ones + 2 * twos) if ones else 0.5

  d = discount(pairs.values())
  before = Counter(w for _, w in pairs)
  d_lower = discount(before.values())

  def lower(w):
    kinds = len(pairs)
    return max(before[w] - d_lower, 0) / kinds + d_lower * len(before) / kinds / V

  def p(w, v):
    total = sum(c for (a, _), c in pairs.items() if a == v)
    if not total:
      return lower(w)
    followers = sum(a == v for a, _ in pairs)
    return max(pairs[v, w] - d, 0) / total + d * followers / total * lower(w)

  return p


def test_bigram_loss_is_that_of_kneser_ney():
  V = 12
  train, tokens = _texts(V)
  p = kneser_ney(train.tolist(), V)
  want = -np.mean([math.log(p(w, v)) for v, w in itertools.pairwise(tokens)])
  assert references.bigram_loss(train, tokens, V) == pytest.approx(want, rel=1e-12)


def test_bigram_probabilities_sum_to_one_in_every_context():
  V = 12
  train, _ = _texts(V)
  for v in range(V):
    p = [math.exp(-references.bigram_loss(train, np.array([v, w]), V)) for w in range(V)]
    assert sum(p) == pytest.approx(1, abs=1e-12)


def test_unigram_loss_is_that_of_add_one():
  V = 12
  train, tokens = _texts(V)
  counts = Counter(train.tolist())
  want = -np.mean([math.log((counts[w] + 1) / (len(train) + V)) for w in tokens[1:].tolist()])
  assert references.unigram_loss(train, tokens, V) == pytest.approx(want, rel=1e-12)


def test_bigram_loss_of_a_text_without_rare_pairs_is_finite():
  train = np.array([0, 1] * 50)
  assert np.isfinite(references.bigram_loss(train, np.array([0, 1, 2, 0, 0]), 3))
