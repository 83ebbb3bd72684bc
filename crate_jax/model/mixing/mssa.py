"""Multi-head subspace self-attention: the compression step of CRATE."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from crate_jax.model import attention
from crate_jax.model.config import ModelConfig


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
    D, K, H = c.width, c.heads, c.head_width
    normal = nn.initializers.normal
    param_dtype = jnp.promote_types(x_BTD.dtype, jnp.float32)
    subspaces_DKH = self.param(
      "subspaces",
      nn.with_logical_partitioning(normal(0.02), ("embed", "heads", "head_width")),
      (D, K, H),
      param_dtype,
    )
    output_KHD = self.param(
      "output",
      nn.with_logical_partitioning(
        normal(0.02 / (2 * c.layers) ** 0.5), ("heads", "head_width", "embed")
      ),
      (K, H, D),
      param_dtype,
    )
    bias_D = self.param(
      "output_bias",
      nn.with_logical_partitioning(nn.initializers.zeros, ("embed",)),
      (D,),
      param_dtype,
    )
    u_BTKH = jnp.einsum("btd,dkh->btkh", x_BTD, subspaces_DKH.astype(x_BTD.dtype))
    if positions_BT is None:
      y_BTKH = mssa(u_BTKH, kernel=c.attention)
    else:
      past_BSKH = attention.cached(self, "u", u_BTKH, positions_BT, c.context)
      y_BTKH = attention.causal_attention(u_BTKH, past_BSKH, past_BSKH, positions_BT=positions_BT)
    y_BTD = jnp.einsum("btkh,khd->btd", y_BTKH, output_KHD.astype(x_BTD.dtype))
    return y_BTD + bias_D.astype(x_BTD.dtype)
