"""Coding rates: how many nats a set of tokens takes, as one Gaussian or in each of K subspaces."""

import jax
import jax.numpy as jnp
import numpy as np

EPSILON2 = 0.01  # the squared precision eps^2 of the published layer plots


def coding_rate(gram_HH: np.ndarray, tokens: int, eps2: float = EPSILON2) -> np.ndarray:
  """Nats that tokens take, coded as a Gaussian up to a mean squared error of eps^2.

  R = 1/2 logdet(I + H / (m eps^2) G), with G = sum over m tokens of w w^T (Yu et al. 2023, arXiv
  2306.01129, section 2: R of whole tokens; R^c is the sum over subspaces of the rates of U_k^T Z).
  The matrix of all pairs of tokens, I + H / (m eps^2) W W^T, has the same determinant; this one is
  smaller. In float64, whatever G was summed in.

  A rate depends on m: rates compare at equal m and H only.

  Args:
    gram_HH: `gram` of the tokens; axes before the last two are kept.
    tokens: m, how many there were.
    eps2: eps^2.

  Returns:
    Rates in nats, one for each leading index.
  """
  wide_HH = np.asarray(gram_HH, np.float64)
  H = wide_HH.shape[-1]
  return 0.5 * np.linalg.slogdet(np.eye(H) + H / (tokens * eps2) * wide_HH)[1]


def gram(w_TKH: jax.Array) -> jax.Array:
  """Gram matrices gram_KHH over tokens of vectors brought to length 1, as the published plots do.

  A vector of zeros stays one. No product is rounded below the dtype of `w_TKH`.

  Args:
    w_TKH: a vector of H numbers for each token and each of K groups.
  """
  length_TK1 = jnp.linalg.norm(w_TKH, axis=-1, keepdims=True)
  unit_TKH = w_TKH / jnp.maximum(length_TK1, jnp.finfo(w_TKH.dtype).tiny)
  return jnp.einsum("tkh,tkg->khg", unit_TKH, unit_TKH, precision="highest")
