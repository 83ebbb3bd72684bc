"""Iterative shrinkage-thresholding: the sparsification step of CRATE."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from crate_jax.model.activations import tap
from crate_jax.model.config import ModelConfig
from crate_jax.model.features.neurons import neurons
from crate_jax.model.parameter import parameter


def ista(
  z_BTD: jax.Array,
  dict_CD: jax.Array,
  *,
  steps: int,
  eta: float | jax.Array,
  lam: float | jax.Array,
  warm_start: bool = False,
  nonnegative: bool = True,
  see: Callable[[int, jax.Array], jax.Array] = lambda step, a_BTC: a_BTC,
) -> jax.Array:
  """Sparse codes of z in a dictionary: proximal gradient steps on the lasso.

  Minimises 1/2 ||z - a D||^2 + lam ||a||_1, over a >= 0 if `nonnegative`. From zero it is the
  overcomplete ISTA block of Bai and Ma 2025 (arXiv 2410.16443; two steps there); from z itself that
  of Yu et al. 2023 (arXiv 2306.01129, eq. 17; one step in a complete dictionary). The correlation
  z D^T is computed once: 2 * steps - 1 dictionary products from zero, 2 * steps from z, the
  decoding one not counted. Descent is guaranteed while eta * sigma_max(D)^2 < 1, convergence
  below 2.

  Args:
    z_BTD: normalised tokens.
    dict_CD: the dictionary, one atom a row; C = n * D with overcompleteness n.
    steps: proximal steps, at least 1.
    eta: step size.
    lam: sparsity weight; the threshold of a step is eta * lam.
    warm_start: start from z, in a complete dictionary (C = D).
    nonnegative: ReLU, or else the signed soft threshold.
    see: given each step's number, from 1, and codes; what it returns is gone on with.

  Returns:
    a_BTC: the codes, which are the network's neurons. `a_BTC @ dict_CD` decodes them.
  """

  def shrink(a_BTC: jax.Array) -> jax.Array:
    if nonnegative:
      return jax.nn.relu(a_BTC - eta * lam)
    return jax.nn.relu(a_BTC - eta * lam) - jax.nn.relu(-a_BTC - eta * lam)

  def decode(a_BTC: jax.Array) -> jax.Array:
    return jnp.einsum("btc,cd->btd", a_BTC, dict_CD)

  def correlate(z_BTD: jax.Array) -> jax.Array:
    return jnp.einsum("btd,cd->btc", z_BTD, dict_CD)

  if warm_start:
    a_BTC = see(1, shrink(z_BTD + eta * correlate(z_BTD - decode(z_BTD))))
    for step in range(2, steps + 1):
      a_BTC = see(step, shrink(a_BTC + eta * correlate(z_BTD - decode(a_BTC))))
    return a_BTC
  correlation_BTC = correlate(z_BTD)
  a_BTC = see(1, shrink(eta * correlation_BTC))
  for step in range(2, steps + 1):
    residual_BTC = correlation_BTC - correlate(decode(a_BTC))
    a_BTC = see(step, shrink(a_BTC + eta * residual_BTC))
  return a_BTC


class ISTA(nn.Module):
  """Writes tokens as sparse codes and decodes them.

  With `config.decoder` "tied" the same dictionary decodes (CRATE), with "separate" one of its own
  (CRATE-alpha), with "none" the codes themselves go on (the complete dictionary).
  """

  config: ModelConfig

  @nn.compact
  def __call__(self, z_BTD: jax.Array) -> jax.Array:
    c, dtype = self.config, z_BTD.dtype
    init = _symmetric_uniform((6 / c.width) ** 0.5)
    axes = {"codes": c.codes, "embed": c.width}
    dict_CD = parameter(self, "dictionary", init, axes, dtype)
    scalars: dict[str, Any] = {"eta": c.eta, "lam": c.lam}
    wide = jnp.promote_types(dtype, jnp.float32)
    for name, learned in (("eta", c.learned_eta), ("lam", c.learned_lam)):
      if learned:  # by its logarithm, so that it stays positive
        start = nn.initializers.constant(jnp.log(scalars[name]))
        scalars[name] = jnp.exp(parameter(self, f"log_{name}", start, {}, wide)).astype(dtype)

    def see(step: int, a_BTC: jax.Array) -> jax.Array:
      return (neurons if step == c.ista_steps else tap)(self, f"A{step}", a_BTC)

    a_BTC = ista(
      z_BTD,
      dict_CD,
      steps=c.ista_steps,
      warm_start=c.warm_start,
      nonnegative=c.nonnegative,
      see=see,
      **scalars,
    )
    if c.decoder == "none":
      return a_BTC
    if c.decoder == "separate":
      dict_CD = parameter(self, "decoder", init, axes, dtype)
    return jnp.einsum("btc,cd->btd", a_BTC, dict_CD)


def step_sizes(params: Any, config: ModelConfig) -> tuple[jax.Array, jax.Array]:
  """eta and lambda of every layer, (L,) each, fixed or learned; of the stacked feature steps."""
  ones_L = jnp.ones(config.layers)
  eta_L = jnp.exp(params["log_eta"]) if config.learned_eta else config.eta * ones_L
  lam_L = jnp.exp(params["log_lam"]) if config.learned_lam else config.lam * ones_L
  return eta_L, lam_L


def eta_sigma2(dict_LCD: jax.Array, eta_L: jax.Array) -> jax.Array:
  """eta * sigma_max(D)^2 of every layer, (L,): the step size beside the curvature it must respect.

  The largest eigenvalue of the Hessian D D^T of ISTA's smooth term is sigma_max(D)^2. A step
  lowers the objective for certain while eta times it is at most 1 (Beck and Teboulle 2009), and
  many steps converge for certain below 2. Above 2 they still may: codes are not negative, and
  only the atoms that are active at once count.
  """

  def largest(dict_CD: jax.Array) -> jax.Array:
    gram_DD = jnp.einsum("cd,ce->de", dict_CD, dict_CD, precision="highest")
    return jnp.linalg.eigvalsh(gram_DD)[-1]

  return eta_L * jax.lax.map(largest, dict_LCD)  # one layer at a time, for the memory


def _symmetric_uniform(bound: float) -> nn.initializers.Initializer:
  """U(-bound, bound); with bound = sqrt(6 / d) the init of the released dictionary."""

  def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init
