"""Multi-head subspace self-attention: the compression step of CRATE."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from crate_jax.model import attention
from crate_jax.model.config import ModelConfig
from crate_jax.model.parameter import parameter


def mssa(u_BTKH: jax.Array, *, kernel: str = "plain") -> jax.Array:
  """Compresses tokens toward their subspaces: one gradient step on the coding rate R^c.

  Query, key and value are the same projection u = U^T z, so a token's weights are its
  similarity to its past within each subspace (Yu et al. 2023, arXiv 2306.01129, the MSSA
  operator; causal form of Bai and Ma 2025, arXiv 2410.16443). The factor
  p / ((N + 1) eps^2) of the derivation is absorbed by the output projection that follows.

  Args:
    u_BTKH: coordinates of every token in each of K subspaces of dimension H.
    kernel: see `attention.causal_attention`.

  Returns:
    Array of the same shape: per token and subspace, a causal average of u.
  """
  return attention.causal_attention(u_BTKH, u_BTKH, u_BTKH, kernel=kernel)


class MSSA(nn.Module):
  """Projects tokens onto the subspaces, compresses them, and returns to the stream.

  One projection without bias, an output projection with bias. Decoding caches one tensor,
  the coordinates u, since key equals value.
  """

  config: ModelConfig

  @nn.compact
  def __call__(self, x_BTD: jax.Array, positions_BT: jax.Array | None = None) -> jax.Array:
    c = self.config
    normal, dtype = nn.initializers.normal, x_BTD.dtype
    heads = {"heads": c.heads, "head_width": c.head_width}
    embed = {"embed": c.width}
    subspaces_DKH = parameter(self, "subspaces", normal(0.02), embed | heads, dtype)
    output_init = normal(0.02 / (2 * c.layers) ** 0.5)
    output_KHD = parameter(self, "output", output_init, heads | embed, dtype)
    bias_D = parameter(self, "output_bias", nn.initializers.zeros, embed, dtype)
    u_BTKH = jnp.einsum("btd,dkh->btkh", x_BTD, subspaces_DKH.astype(dtype))
    if positions_BT is None:
      y_BTKH = mssa(u_BTKH, kernel=c.attention)
    else:
      past_BSKH = attention.cached(self, "u", u_BTKH, positions_BT, c.context)
      y_BTKH = attention.causal_attention(u_BTKH, past_BSKH, past_BSKH, positions_BT=positions_BT)
    y_BTD = jnp.einsum("btkh,khd->btd", y_BTKH, output_KHD.astype(dtype))
    return y_BTD + bias_D.astype(dtype)
