"""The two-layer perceptron of the GPT-2 baseline."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from crate_jax.model.config import ModelConfig


class MLP(nn.Module):
  """Linear, ReLU, linear, without biases. ReLU, not GELU: the paper's GPT-2 baseline.

  Its neurons are the hidden units after the ReLU (Bai and Ma 2025, arXiv 2410.16443).
  """

  config: ModelConfig

  @nn.compact
  def __call__(self, z_BTD: jax.Array) -> jax.Array:
    c = self.config
    normal = nn.initializers.normal
    param_dtype = jnp.promote_types(z_BTD.dtype, jnp.float32)
    encoder_DC = self.param(
      "encoder",
      nn.with_logical_partitioning(normal(0.02), ("embed", "codes")),
      (c.width, c.codes),
      param_dtype,
    )
    decoder_CD = self.param(
      "decoder",
      nn.with_logical_partitioning(normal(0.02 / (2 * c.layers) ** 0.5), ("codes", "embed")),
      (c.codes, c.width),
      param_dtype,
    )
    a_BTC = jax.nn.relu(jnp.einsum("btd,dc->btc", z_BTD, encoder_DC.astype(z_BTD.dtype)))
    return jnp.einsum("btc,cd->btd", a_BTC, decoder_CD.astype(z_BTD.dtype))
