"""Iterative shrinkage-thresholding: the sparsification step of CRATE."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from crate_jax.model.config import ModelConfig
from crate_jax.model.features.neurons import neurons
from crate_jax.model.parameter import parameter


def ista(z_BTD: jax.Array, dict_CD: jax.Array, *, steps: int, eta: float, lam: float) -> jax.Array:
  """Non-negative sparse codes of z in a dictionary: proximal gradient steps from zero.

  Minimises 1/2 ||z - a D||^2 + lam ||a||_1 over a >= 0 (Bai and Ma 2025, arXiv 2410.16443,
  the overcomplete ISTA block, t = 2 there). The correlation z D^T is computed once:
  2 * steps - 1 dictionary products, the decoding one not counted. Descent is guaranteed
  while eta * sigma_max(D)^2 < 1, convergence below 2.

  Args:
    z_BTD: normalised tokens.
    dict_CD: the dictionary, one atom a row; C = n * D with overcompleteness n.
    steps: proximal steps, at least 1.
    eta: step size.
    lam: sparsity weight; the threshold of a step is eta * lam.

  Returns:
    a_BTC: the codes, which are the network's neurons. `a_BTC @ dict_CD` decodes them.
  """
  correlation_BTC = jnp.einsum("btd,cd->btc", z_BTD, dict_CD)
  a_BTC = jax.nn.relu(eta * correlation_BTC - eta * lam)
  for _ in range(steps - 1):
    decoded_BTD = jnp.einsum("btc,cd->btd", a_BTC, dict_CD)
    residual_BTC = correlation_BTC - jnp.einsum("btd,cd->btc", decoded_BTD, dict_CD)
    a_BTC = jax.nn.relu(a_BTC + eta * residual_BTC - eta * lam)
  return a_BTC


class ISTA(nn.Module):
  """Writes tokens as sparse codes and decodes them with the same dictionary.

  The block replaces its input by the decoded codes: CRATE has no residual round it.
  """

  config: ModelConfig

  @nn.compact
  def __call__(self, z_BTD: jax.Array) -> jax.Array:
    c = self.config
    init = _symmetric_uniform((6 / c.width) ** 0.5)
    axes = {"codes": c.codes, "embed": c.width}
    dict_CD = parameter(self, "dictionary", init, axes, z_BTD.dtype).astype(z_BTD.dtype)
    a_BTC = ista(z_BTD, dict_CD, steps=c.ista_steps, eta=c.eta, lam=c.lam)
    return jnp.einsum("btc,cd->btd", neurons(self, a_BTC), dict_CD)


def eta_sigma2(dict_LCD: jax.Array, eta: float) -> jax.Array:
  """eta * sigma_max(D)^2 of every layer, (L,): the step size beside the curvature it must respect.

  The largest eigenvalue of the Hessian D D^T of ISTA's smooth term is sigma_max(D)^2. A step
  lowers the objective for certain while eta times it is at most 1 (Beck and Teboulle 2009), and
  many steps converge for certain below 2. Above 2 they still may: codes are not negative, and
  only the atoms that are active at once count.
  """
  gram_LDD = jnp.einsum("lcd,lce->lde", dict_LCD, dict_LCD, precision="highest")
  return eta * jnp.linalg.eigvalsh(gram_LDD)[:, -1]


def _symmetric_uniform(bound: float) -> nn.initializers.Initializer:
  """U(-bound, bound); with bound = sqrt(6 / d) the init of the released dictionary."""

  def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init
