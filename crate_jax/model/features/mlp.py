"""The two-layer perceptron of the GPT-2 baseline."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from crate_jax.model.config import ModelConfig
from crate_jax.model.features.neurons import neurons
from crate_jax.model.parameter import parameter


class MLP(nn.Module):
  """Linear, ReLU, linear, without biases. ReLU, not GELU: the paper's GPT-2 baseline.

  Its neurons are the hidden units after the ReLU (Bai and Ma 2025, arXiv 2410.16443).
  """

  config: ModelConfig

  @nn.compact
  def __call__(self, z_BTD: jax.Array) -> jax.Array:
    c = self.config
    normal, dtype = nn.initializers.normal, z_BTD.dtype
    embed, codes = {"embed": c.width}, {"codes": c.codes}
    encoder_DC = parameter(self, "encoder", normal(0.02), embed | codes, dtype)
    decoder_init = normal(0.02 / (2 * c.layers) ** 0.5)
    decoder_CD = parameter(self, "decoder", decoder_init, codes | embed, dtype)
    a_BTC = jax.nn.relu(jnp.einsum("btd,dc->btc", z_BTD, encoder_DC.astype(dtype)))
    return jnp.einsum("btc,cd->btd", neurons(self, a_BTC), decoder_CD.astype(dtype))
