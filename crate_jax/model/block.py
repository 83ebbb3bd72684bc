"""One layer: a mixing step and a feature step, each on a normalised input."""

import flax.linen as nn
import jax

from crate_jax.model.activations import tap
from crate_jax.model.config import ModelConfig
from crate_jax.model.features.ista import ISTA
from crate_jax.model.features.mlp import MLP
from crate_jax.model.layout import constrain
from crate_jax.model.mixing.mha import MultiHeadAttention
from crate_jax.model.mixing.mssa import MSSA
from crate_jax.model.mixing.tssa import TSSA
from crate_jax.model.norm import LayerNorm

MIXING: dict[str, type[nn.Module]] = {
  "mssa": MSSA,
  "mssa_query": MSSA,
  "mha": MultiHeadAttention,
  "tssa": TSSA,
}
FEATURES: dict[str, type[nn.Module]] = {"ista": ISTA, "mlp": MLP, "topk": MLP}

STREAM = ("batch", "tokens", "embed")  # the axes of what goes from block to block


class Block(nn.Module):
  """A layer of the family: x <- x + mixing(LN(x)), then x <- [x +] features(LN(x)).

  The parts are `config.mixing` and `config.features`; the second step is added to the stream with
  `config.residual` and replaces it without (CRATE). `model.presets` gives the published models.

  Every layer has the same parts by name (norm_1, mixing, norm_2, features), and returns (x, None)
  because `nn.scan` runs it.
  """

  config: ModelConfig

  @nn.compact
  def __call__(
    self, x_BTD: jax.Array, positions_BT: jax.Array | None = None
  ) -> tuple[jax.Array, None]:
    c = self.config
    x_BTD = constrain(tap(self, "stream", x_BTD), STREAM)
    u_BTD = LayerNorm(use_bias=c.bias, name="norm_1")(x_BTD)
    y_BTD = MIXING[c.mixing](c, name="mixing")(u_BTD, positions_BT)
    x_BTD = x_BTD + constrain(tap(self, "attention", y_BTD), STREAM)
    if c.features == "none":
      return x_BTD, None
    z_BTD = LayerNorm(use_bias=c.bias, name="norm_2")(x_BTD)
    decoded_BTD = tap(self, "decoded", FEATURES[c.features](c, name="features")(z_BTD))
    decoded_BTD = constrain(decoded_BTD, STREAM)
    return (x_BTD + decoded_BTD if c.residual else decoded_BTD), None
