"""Ordinary multi-head attention: the mixing step of the GPT-2 baseline."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from crate_jax.model import attention
from crate_jax.model.activations import tap
from crate_jax.model.config import ModelConfig
from crate_jax.model.parameter import parameter


class MultiHeadAttention(nn.Module):
  """Causal attention with separate query, key and value (Radford et al. 2019); no biases in these.

  Its values are the activation "u": the value projection stands where CRATE has its subspaces.
  """

  config: ModelConfig

  @nn.compact
  def __call__(self, x_BTD: jax.Array, positions_BT: jax.Array | None = None) -> jax.Array:
    c = self.config
    normal, dtype = nn.initializers.normal, x_BTD.dtype
    heads = {"heads": c.heads, "head_width": c.head_width}
    embed = {"embed": c.width}
    qkv_3DKH = parameter(self, "qkv", normal(0.02), {"qkv": 3} | embed | heads, dtype)
    output_KHD = attention.output(self, c)
    q_BTKH, k_BTKH, v_BTKH = jnp.einsum("btd,cdkh->cbtkh", x_BTD, qkv_3DKH)
    v_BTKH = tap(self, "u", v_BTKH)
    if positions_BT is None:
      y_BTKH = attention.causal_attention(q_BTKH, k_BTKH, v_BTKH, kernel=c.attention)
    else:
      k_BSKH = attention.cached(self, "key", k_BTKH, positions_BT, c.context)
      v_BSKH = attention.cached(self, "value", v_BTKH, positions_BT, c.context)
      y_BTKH = attention.causal_attention(q_BTKH, k_BSKH, v_BSKH, positions_BT=positions_BT)
    return attention.to_stream(self, y_BTKH, output_KHD, use_bias=c.bias)
