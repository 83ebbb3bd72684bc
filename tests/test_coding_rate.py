import jax.numpy as jnp
import numpy as np
import pytest

from crate_jax.interpret.coding_rate import coding_rate, gram


def of_pairs(w_TKH, eps2):
  """Rates of K groups from the matrix of all pairs of tokens, each brought to length 1."""
  T, K, H = w_TKH.shape
  rates = []
  for k in range(K):
    unit = w_TKH[:, k] / np.linalg.norm(w_TKH[:, k], axis=1, keepdims=True)
    rates.append(0.5 * np.linalg.slogdet(np.eye(T) + H / (T * eps2) * unit @ unit.T)[1])
  return rates


@pytest.mark.parametrize(("tokens", "eps2"), [(40, 0.01), (40, 0.5), (5, 0.01), (1, 0.01)])
def test_the_small_determinant_is_that_of_all_pairs_of_tokens(tokens, eps2):
  w = np.random.default_rng(0).standard_normal((tokens, 3, 8)) * 7
  got = coding_rate(gram(jnp.asarray(w, jnp.float32)), tokens, eps2)
  np.testing.assert_allclose(got, of_pairs(w, eps2), rtol=1e-5)


def test_known_rates():
  axes = jnp.eye(6)[:, None] * jnp.arange(1, 7)[:, None, None]  # of any length
  np.testing.assert_allclose(coding_rate(gram(axes), 6), [3 * np.log(1 + 1 / 0.01)], rtol=1e-6)
  same = jnp.ones((6, 1, 4))
  np.testing.assert_allclose(coding_rate(gram(same), 6), [0.5 * np.log(1 + 4 / 0.01)], rtol=1e-6)
  assert coding_rate(gram(jnp.zeros((6, 1, 4))), 6) == 0


def test_tokens_that_almost_agree_lose_no_digits():
  rng = np.random.default_rng(1)
  w = 1 + 1e-3 * rng.standard_normal((1000, 1, 16))
  got = coding_rate(gram(jnp.asarray(w, jnp.float32)), 1000)
  np.testing.assert_allclose(got, of_pairs(w, 0.01), rtol=1e-4)
