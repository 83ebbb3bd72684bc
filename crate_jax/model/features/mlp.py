"""The two-layer perceptrons: the GPT-2 baseline's, and those that are made sparse otherwise."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from crate_jax.model.config import ModelConfig
from crate_jax.model.features.neurons import neurons
from crate_jax.model.parameter import parameter


def keep_largest(a_BTC: jax.Array, k: int) -> jax.Array:
  """Every token's k largest units, the others zero (Gao et al. 2024, arXiv 2406.04093, TopK).

  Units equal to the k-th largest are all kept.

  Args:
    a_BTC: hidden units, not negative.
    k: from 1 to C.
  """
  least_BT1 = jax.lax.top_k(a_BTC, k)[0][..., -1:]
  return jnp.where(a_BTC >= least_BT1, a_BTC, 0)


class MLP(nn.Module):
  """Linear, ReLU, linear, without biases. ReLU, not GELU: the paper's GPT-2 baseline.

  Its neurons are the hidden units after the ReLU (Bai and Ma 2025, arXiv 2410.16443); with
  `config.features` "topk" the `config.topk` largest of them. `config.l1` penalises their sum, which
  the training loss adds (`training.step`).
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
    a_BTC = jax.nn.relu(jnp.einsum("btd,dc->btc", z_BTD, encoder_DC))
    if c.features == "topk":
      a_BTC = keep_largest(a_BTC, c.topk)
    return jnp.einsum("btc,cd->btd", neurons(self, "A1", a_BTC), decoder_CD)
