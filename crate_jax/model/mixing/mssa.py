"""Multi-head subspace self-attention: the compression step of CRATE."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from crate_jax.model import attention
from crate_jax.model.activations import tap
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

  One projection without bias, and an output projection. Decoding caches one tensor, the coordinates
  u, since key equals value.

  With `config.mixing` "mssa_query" the query is a projection of its own (of rank
  `config.query_rank` if that is not 0) and only key and value are u. It is no published model: it
  asks what q = k = v costs, at the same cache.
  """

  config: ModelConfig

  @nn.compact
  def __call__(self, x_BTD: jax.Array, positions_BT: jax.Array | None = None) -> jax.Array:
    c = self.config
    subspaces_DKH, output_KHD = attention.subspaces(self, c), attention.output(self, c)
    u_BTKH = tap(self, "u", jnp.einsum("btd,dkh->btkh", x_BTD, subspaces_DKH))
    q_BTKH = self._query(x_BTD) if c.mixing == "mssa_query" else u_BTKH
    if positions_BT is None:
      y_BTKH = attention.causal_attention(q_BTKH, u_BTKH, u_BTKH, kernel=c.attention)
    else:
      past_BSKH = attention.cached(self, "u", u_BTKH, positions_BT, c.context)
      y_BTKH = attention.causal_attention(q_BTKH, past_BSKH, past_BSKH, positions_BT=positions_BT)
    return attention.to_stream(self, y_BTKH, output_KHD, use_bias=c.bias)

  def _query(self, x_BTD: jax.Array) -> jax.Array:
    c = self.config
    normal, dtype = nn.initializers.normal, x_BTD.dtype
    heads, embed = {"heads": c.heads, "head_width": c.head_width}, {"embed": c.width}
    if not c.query_rank:
      query_DKH = parameter(self, "query", normal(0.02), embed | heads, dtype)
      return jnp.einsum("btd,dkh->btkh", x_BTD, query_DKH)
    rank = {"rank": c.query_rank}
    # The product of the two has the standard deviation 0.02 of a full query.
    down_DR = parameter(self, "query_down", normal(0.02), embed | rank, dtype)
    up_RKH = parameter(self, "query_up", normal(c.query_rank**-0.5), rank | heads, dtype)
    low_BTR = jnp.einsum("btd,dr->btr", x_BTD, down_DR)
    return jnp.einsum("btr,rkh->btkh", low_BTR, up_RKH)
