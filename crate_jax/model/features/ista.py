"""Iterative shrinkage-thresholding: the sparsification step of CRATE."""

import functools
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
  of Yu et al. 2023 (arXiv 2306.01129, eq. 17; one step in a complete dictionary). It takes
  2 * steps - 1 dictionary products from zero, 2 * steps from z, the decoding one not counted.
  Descent is guaranteed while eta * sigma_max(D)^2 < 1, convergence below 2.

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
  a_BTC = z_BTD if warm_start else None
  for step in range(1, steps + 1):
    a_BTC = see(step, _step(a_BTC, z_BTD, dict_CD, eta, eta * lam, nonnegative))
  assert a_BTC is not None
  return a_BTC


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _step(
  a_BTC: jax.Array | None,
  z_BTD: jax.Array,
  dict_CD: jax.Array,
  eta: float | jax.Array,
  threshold: float | jax.Array,
  nonnegative: bool,
) -> jax.Array:
  """One proximal step from the codes a, None for zero: shrink(a + eta (z - a D) D^T).

  Its gradient is written out because it needs less than what autodiff would keep: which codes are
  zero is seen on the codes themselves, and no product before the threshold outlives it.
  """
  return _step_forward(a_BTC, z_BTD, dict_CD, eta, threshold, nonnegative)[0]


def _step_forward(
  a_BTC: jax.Array | None,
  z_BTD: jax.Array,
  dict_CD: jax.Array,
  eta: float | jax.Array,
  threshold: float | jax.Array,
  nonnegative: bool,
) -> tuple[jax.Array, tuple]:
  step_BTD = eta * z_BTD
  if a_BTC is not None:
    step_BTD = eta * (z_BTD - jnp.einsum("btc,cd->btd", a_BTC, dict_CD))
  new_BTC = jnp.einsum("btd,cd->btc", step_BTD, dict_CD)
  if a_BTC is not None:
    new_BTC += a_BTC
  if nonnegative:
    new_BTC = jax.nn.relu(new_BTC - threshold)
  else:
    new_BTC = jax.nn.relu(new_BTC - threshold) - jax.nn.relu(-new_BTC - threshold)
  return new_BTC, (a_BTC, step_BTD, dict_CD, eta, threshold, new_BTC)


def _step_backward(nonnegative: bool, kept: tuple, g_BTC: jax.Array) -> tuple:
  a_BTC, step_BTD, dict_CD, eta, threshold, new_BTC = kept
  g_BTC = jnp.where(new_BTC != 0, g_BTC, 0)
  back_BTD = jnp.einsum("btc,cd->btd", g_BTC, dict_CD)
  # A sum of products and nothing else: devices add up theirs before they exchange it.
  dict_grad_CD = _summed_products(g_BTC, step_BTD)
  a_grad_BTC, minus_z_grad_BTD = None, -eta * back_BTD
  if a_BTC is not None:
    a_grad_BTC = g_BTC + jnp.einsum("btd,cd->btc", minus_z_grad_BTD, dict_CD)
    dict_grad_CD += _summed_products(a_BTC, minus_z_grad_BTD)
  # By the two scalars, where they are learned; XLA drops what nobody asks for.
  wide = jnp.promote_types(g_BTC.dtype, jnp.float32)
  eta_grad = jnp.sum(step_BTD * back_BTD, dtype=wide) / eta
  threshold_grad = -jnp.sum(g_BTC if nonnegative else g_BTC * jnp.sign(new_BTC), dtype=wide)
  scalars = [
    gradient.astype(jnp.result_type(scalar))
    for scalar, gradient in ((eta, eta_grad), (threshold, threshold_grad))
  ]
  return a_grad_BTC, -minus_z_grad_BTD, dict_grad_CD, *scalars


_step.defvjp(_step_forward, _step_backward)


def _summed_products(x_BTC: jax.Array, y_BTD: jax.Array) -> jax.Array:
  """The outer products of two vectors of each token, summed over all.

  XLA's CPU compiler transposes the first array of such a product before it multiplies: let that be
  the narrow one. Its GPU compiler, asked in that order, transposes where it need not.
  """
  return jax.lax.platform_dependent(
    x_BTC,
    y_BTD,
    cpu=lambda x_BTC, y_BTD: jnp.einsum("btd,btc->dc", y_BTD, x_BTC).T,
    default=lambda x_BTC, y_BTD: jnp.einsum("btc,btd->cd", x_BTC, y_BTD),
  )


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
