"""Token statistics self-attention: the mixing step of ToST, linear in the number of tokens."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from crate_jax.model import attention
from crate_jax.model.activations import tap
from crate_jax.model.config import ModelConfig
from crate_jax.model.parameter import parameter


def tssa(w_BTKH: jax.Array, temperature_K: jax.Array) -> jax.Array:
  """Shrinks every token along the directions in which its group's past has much power.

  Wu et al. 2024 (arXiv 2412.17810), the causal TSSA operator, with s = w^2 and sums over the past:
  Pi = softmax over heads of temperature * sum_h s / cumsum(s), the token's membership in each of K
  groups; y = -(w Pi) / (1 + cumsum(s Pi) / cumsum(Pi)). No two tokens are compared. Computed in
  float32 or wider.

  Args:
    w_BTKH: coordinates of every token in each of K groups.
    temperature_K: of the membership, one for each head.

  Returns:
    Array of the shape and dtype of `w_BTKH`.
  """
  wide_BTKH = w_BTKH.astype(jnp.promote_types(w_BTKH.dtype, jnp.float32))
  power_BTKH = jnp.square(wide_BTKH)
  # The released code's bound: a direction without any power so far has no share in a token.
  past_BTKH = jnp.maximum(jnp.cumsum(power_BTKH, axis=1), 1e-12)
  share_BTK = jnp.sum(power_BTKH / past_BTKH, axis=-1)
  member_BTK1 = jax.nn.softmax(temperature_K * share_BTK, axis=-1)[..., None]
  moment_BTKH = jnp.cumsum(power_BTKH * member_BTK1, axis=1) / jnp.cumsum(member_BTK1, axis=1)
  return (-wide_BTKH * member_BTK1 / (1 + moment_BTKH)).astype(w_BTKH.dtype)


class TSSA(nn.Module):
  """One projection, the token statistics, and an output projection.

  Decoding caches one tensor, w, and sums over it again; the sums alone would do.
  """

  config: ModelConfig

  @nn.compact
  def __call__(self, x_BTD: jax.Array, positions_BT: jax.Array | None = None) -> jax.Array:
    c = self.config
    dtype = x_BTD.dtype
    subspaces_DKH, output_KHD = attention.subspaces(self, c), attention.output(self, c)
    ones = nn.initializers.ones
    wide = jnp.promote_types(dtype, jnp.float32)
    temperature_K = parameter(self, "temperature", ones, {"heads": c.heads}, wide)
    w_BTKH = tap(self, "u", jnp.einsum("btd,dkh->btkh", x_BTD, subspaces_DKH))
    if positions_BT is None:
      y_BTKH = tssa(w_BTKH, temperature_K)
    else:
      past_BSKH = attention.cached(self, "u", w_BTKH, positions_BT, c.context)
      y_BSKH = tssa(past_BSKH, temperature_K)
      y_BTKH = jnp.take_along_axis(y_BSKH, positions_BT[:, :, None, None], axis=1)
    return attention.to_stream(self, y_BTKH, output_KHD, use_bias=c.bias)
