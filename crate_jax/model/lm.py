"""The language model: embedding, a scan over blocks, a tied head.

Shapes stand in the names: B batch, T tokens, S cached tokens, D model width, K heads, H head
width, C codes, V vocabulary, L layers.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from crate_jax.model import activations, cross_entropy, layout
from crate_jax.model.block import STREAM, Block
from crate_jax.model.config import ModelConfig
from crate_jax.model.norm import LayerNorm
from crate_jax.model.parameter import parameter

Params = dict[str, Any]


class LM(nn.Module):
  """A causal language model over tokens; of the family by `config` (`model.presets`).

  Parameters of the blocks are stacked along a leading "layers" axis. That tree, with the
  logical axis names of every parameter, is the format on disk.
  """

  config: ModelConfig

  # Besides "params" and "cache" there are four collections: "activations" (`activations.tap`),
  # "gauges" and "losses" (`features.neurons`) are made when they are mutable, "edits" changes
  # activations where it is given (`activations.collection`).

  def setup(self) -> None:
    c = self.config
    init, embed = nn.initializers.normal(0.02), {"embed": c.width}
    wide = jnp.promote_types(c.dtype, jnp.float32)  # embeddings are added before they are rounded
    self.tokens_VD = parameter(self, "tokens", init, {"vocab": c.vocab_size} | embed, wide)
    self.positions_SD = parameter(self, "positions", init, {"positions": c.context} | embed, wide)
    self.blocks = nn.scan(
      _remat(Block, c.remat),
      variable_axes=dict.fromkeys(
        ("params", "cache", "activations", "edits", "gauges", "losses"), 0
      ),
      split_rngs={"params": True},
      in_axes=nn.broadcast,
      length=c.layers,
      unroll=c.layers if c.unroll else 1,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )(c)
    self.norm = LayerNorm(use_bias=c.bias)

  def __call__(
    self,
    tokens_BT: jax.Array,
    positions_BT: jax.Array | None = None,
    only_B: jax.Array | None = None,
  ) -> jax.Array:
    """Logits of the next token at every position.

    Args:
      tokens_BT: token ids, at most `config.context` of them in a row.
      positions_BT: positions of the tokens, to decode with the collection "cache" (which
        `apply(..., mutable=["cache"])` creates and updates); None for 0, 1, ..., T - 1.
      only_B: which token of each row the logits are wanted of; None for all.

    Returns:
      logits_BTV, float32 or wider; T is 1 with `only_B`.
    """
    return self.decode(self.embed(tokens_BT, positions_BT), positions_BT, only_B)

  def token_nll(self, tokens_BT1: jax.Array) -> jax.Array:
    """Negative log-likelihood of every token but a window's first, nll_BT (`cross_entropy`)."""
    x_BTD = self._last(self.embed(tokens_BT1[:, :-1]))
    return cross_entropy.token_nll(x_BTD, self.tokens_VD.astype(x_BTD.dtype), tokens_BT1[:, 1:])

  def mean_nll(self, tokens_BT1: jax.Array) -> jax.Array:
    """Mean of `token_nll`, at the cost that training can afford."""
    x_BTD = self._last(self.embed(tokens_BT1[:, :-1]))
    return cross_entropy.mean_nll(x_BTD, self.tokens_VD.astype(x_BTD.dtype), tokens_BT1[:, 1:])

  def embed(self, tokens_BT: jax.Array, positions_BT: jax.Array | None = None) -> jax.Array:
    """The stream before the first block, x_BTD, in the compute dtype."""
    T = tokens_BT.shape[1]
    if self.config.context < T:
      raise ValueError(f"{T} tokens do not fit the model's context of {self.config.context}.")
    position_BTD = (
      self.positions_SD[None, :T] if positions_BT is None else self.positions_SD[positions_BT]
    )
    # Placed once more for the gradient's sake: each device adds up that of its own tokens, rather
    # than being sent all tokens for its part of the width.
    tokens_VD = layout.constrain(self.tokens_VD, ("vocab", "embed"))
    x_BTD = (tokens_VD[tokens_BT] + position_BTD).astype(self.config.dtype)
    return layout.constrain(x_BTD, STREAM)

  def decode(
    self,
    x_BTD: jax.Array,
    positions_BT: jax.Array | None = None,
    only_B: jax.Array | None = None,
  ) -> jax.Array:
    """Logits from the stream before the first block; the rest of `__call__`."""
    x_BTD = self._last(x_BTD, positions_BT)
    if only_B is not None:
      x_BTD = jnp.take_along_axis(x_BTD, only_B[:, None, None], axis=1)
    wide = jnp.promote_types(x_BTD.dtype, jnp.float32)
    tokens_VD = self.tokens_VD.astype(x_BTD.dtype)
    logits_BTV = jnp.einsum("btd,vd->btv", x_BTD, tokens_VD, preferred_element_type=wide)
    return activations.tap(self, activations.LOGITS, logits_BTV)

  def _last(self, x_BTD: jax.Array, positions_BT: jax.Array | None = None) -> jax.Array:
    """The normalised stream after the last block."""
    x_BTD, _ = self.blocks(x_BTD, positions_BT)
    return self.norm(x_BTD)


def _remat(block: type[Block], policy: str) -> type[Block]:
  """The block with a named policy of what its backward pass recomputes.

  "none" keeps every activation (over several devices only casts are repeated), "dots" keeps the
  matrix products and recomputes the rest, "full" keeps only the block's input. None of them keeps
  parameters that were gathered for the layer.
  """
  if policy == "none" and not layout.on_a_mesh():
    return block
  keep = {
    "none": layout.keep_what_is_in_place,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": None,
  }[policy]
  return nn.remat(block, policy=keep, prevent_cse=False)


def nonzero(variables: Mapping[str, Any], tokens_BT: jax.Array) -> jax.Array:
  """nonzero_LBT, each token's share of non-zero neurons, from the collection "gauges".

  L is 0 in a model without a feature step.
  """
  if "gauges" not in variables:
    return jnp.zeros((0, *tokens_BT.shape))
  return variables["gauges"]["blocks"]["features"]["nonzero"][0]


def init_params(model: LM, key: jax.Array) -> Params:
  """Fresh parameters: a plain nested dict of arrays, blocks stacked along axis 0."""
  return nn.unbox(model.init(key, jnp.zeros((1, 1), jnp.int32))["params"])


def abstract_params(model: LM) -> Params:
  """The tree of `init_params` as shapes and types, at no cost."""
  return jax.eval_shape(lambda: init_params(model, jax.random.key(0)))


def logical_axes(model: LM) -> Params:
  """The tree of `init_params` with each array replaced by its tuple of logical axis names."""
  abstract = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))
  boxed = abstract["params"]
  return jax.tree.map(lambda box: box.names, boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned))


def count_parameters(config: ModelConfig) -> dict[str, int]:
  """Numbers of parameters by part.

  Returns:
    "total" leaves the positions out, as the paper's table and nanoGPT do; "blocks",
    "embedding" (tied with the head) and "positions" are what their names say.
  """
  tree = abstract_params(LM(config))
  sizes = {name: sum(a.size for a in jax.tree.leaves(part)) for name, part in tree.items()}
  return {
    "total": sum(sizes.values()) - sizes["positions"],
    "blocks": sizes["blocks"],
    "embedding": sizes["tokens"],
    "positions": sizes["positions"],
  }
