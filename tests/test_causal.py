import numpy as np

from crate_jax.interpret import causal, rules


def test_agreement_is_a_weighted_correlation_over_the_vocabulary():
  rng = np.random.default_rng(0)
  V, n = 30, 4
  next_V = rng.integers(0, 9, V)
  next_VM = rng.random((V, 2 * n)) * next_V[:, None]
  next_VM[:, -1] = next_V  # active alike before every token: nothing to predict
  empty = np.zeros((V, 2 * n))
  known = rules.Pairs(np.zeros(0, int), np.zeros(0, int), V)
  tables = rules.Tables(known, next_V, empty, empty, empty, next_V, next_VM, empty)
  effect_nV = rng.normal(size=(n, V + 2))  # two rows of the embedding are padding
  got = causal.agreement(effect_nV, tables, n)
  seen = next_V > 0
  for i in range(n - 1):
    mean_V = next_VM[seen, n + i] / next_V[seen]
    both = np.cov(effect_nV[i, :V][seen], mean_V, aweights=next_V[seen])
    np.testing.assert_allclose(got[i], both[0, 1] / np.sqrt(both[0, 0] * both[1, 1]), rtol=1e-9)
  assert np.isnan(got[-1]) or abs(got[-1]) < 1e-6
