"""Layer normalisation with the variance taken in two passes."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from crate_jax.model.parameter import parameter

EPSILON = 1e-5


def layer_norm(x_BTD: jax.Array, scale_D: jax.Array, bias_D: jax.Array | None = None) -> jax.Array:
  """Normalises every token to mean 0 and variance 1, then scales and shifts it.

  The variance is the mean of the squared *centred* values, in float32 or wider: the one-pass
  form E[x^2] - E[x]^2 loses its digits when the mean is far from zero.

  Args:
    x_BTD: tokens, float.
    scale_D: gain.
    bias_D: shift, or None for none.

  Returns:
    Array of the shape and dtype of `x_BTD`.
  """
  wide_BTD = x_BTD.astype(jnp.promote_types(x_BTD.dtype, jnp.float32))
  centred_BTD = wide_BTD - jnp.mean(wide_BTD, axis=-1, keepdims=True)
  variance_BT1 = jnp.mean(jnp.square(centred_BTD), axis=-1, keepdims=True)
  y_BTD = centred_BTD * jax.lax.rsqrt(variance_BT1 + EPSILON) * scale_D
  if bias_D is not None:
    y_BTD = y_BTD + bias_D
  return y_BTD.astype(x_BTD.dtype)


class LayerNorm(nn.Module):
  """`layer_norm` with its parameters; `use_bias=False` is GPT-2's form in the paper's sizes."""

  use_bias: bool

  @nn.compact
  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    axes = {"embed": x_BTD.shape[-1]}
    wide = jnp.promote_types(x_BTD.dtype, jnp.float32)
    scale_D = parameter(self, "scale", nn.initializers.ones, axes, wide)
    if not self.use_bias:
      return layer_norm(x_BTD, scale_D)
    bias_D = parameter(self, "bias", nn.initializers.zeros, axes, wide)
    return layer_norm(x_BTD, scale_D, bias_D)
