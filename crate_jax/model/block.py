"""One layer: a mixing step and a feature step, each on a normalised input."""

import flax.linen as nn
import jax

from crate_jax.model.config import ModelConfig
from crate_jax.model.features.ista import ISTA
from crate_jax.model.features.mlp import MLP
from crate_jax.model.mixing.mha import MultiHeadAttention
from crate_jax.model.mixing.mssa import MSSA
from crate_jax.model.norm import LayerNorm


class Block(nn.Module):
  """A layer of CRATE or of GPT-2, by `config.architecture`.

  CRATE (Bai and Ma 2025): x <- x + MSSA(LN(x)), then x <- ISTA(LN(x)), which replaces the
  stream. GPT-2: x <- x + MHA(LN(x)), then x <- x + MLP(LN(x)).

  Both have the same parts by name (norm_1, mixing, norm_2, features), and return (x, None)
  because `nn.scan` runs them.
  """

  config: ModelConfig

  @nn.compact
  def __call__(
    self, x_BTD: jax.Array, positions_BT: jax.Array | None = None
  ) -> tuple[jax.Array, None]:
    crate = self.config.architecture == "crate"
    mixing = (MSSA if crate else MultiHeadAttention)(self.config, name="mixing")
    features = (ISTA if crate else MLP)(self.config, name="features")
    norm_1 = LayerNorm(use_bias=crate, name="norm_1")
    norm_2 = LayerNorm(use_bias=crate, name="norm_2")
    x_BTD = x_BTD + mixing(norm_1(x_BTD), positions_BT)
    y_BTD = features(norm_2(x_BTD))
    return (y_BTD if crate else x_BTD + y_BTD), None
