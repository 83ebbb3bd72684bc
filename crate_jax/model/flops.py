"""Floating-point operations per token, counted from the matrix products.

A multiply-add is two operations. Only matrix products count: element-wise work, TSSA's sums among
it, is a few per cent at width 768 and less above. The causal convention: attention scores are
counted whole, T by T, as the plain kernel computes them; a kernel that skips the masked half does
less.

Note that 6 * N * D is wrong for CRATE: its block does 36 d^2 operations per token forward
with 6 d^2 parameters, three times as many per parameter as GPT-2's 24 d^2 with 12 d^2.
"""

from crate_jax.model.config import ModelConfig


def forward_flops_per_token(config: ModelConfig) -> int:
  """Operations of one forward pass over a full context, divided by its tokens."""
  head = 2 * config.width * config.vocab_size
  return config.layers * (mixing_flops(config) + feature_flops(config)) + head


def mixing_flops(config: ModelConfig) -> int:
  """Operations per token of one layer's mixing step."""
  square = 2 * config.width * config.width
  if config.mixing == "tssa":
    return 2 * square  # one projection, one output projection
  scores = 2 * 2 * config.context * config.width  # q k^T and weights times v
  if config.mixing == "mha":
    return 4 * square + scores  # query, key, value, output
  query = 0
  if config.mixing == "mssa_query":
    query = 2 * 2 * config.width * config.query_rank or square
  return 2 * square + query + scores


def feature_flops(config: ModelConfig) -> int:
  """Operations per token of one layer's feature step."""
  if config.features == "none":
    return 0
  product = 2 * config.codes * config.width
  if config.features != "ista":
    return 2 * product
  coding = 2 * config.ista_steps - (0 if config.warm_start else 1)
  return (coding + (config.decoder != "none")) * product


def recomputed_flops_per_token(config: ModelConfig) -> int:
  """Operations that the backward pass does again, because `config.remat` keeps less for it.

  "dots" keeps products with weights, and computes attention again; "full" computes whole layers
  again but their last product, which only the next layer wants.
  """
  attention = 0 if config.mixing == "tssa" else 2 * 2 * config.context * config.width
  if config.remat == "none":
    return 0
  if config.remat == "dots":
    return config.layers * attention
  if config.features == "none":
    last = 2 * config.width * config.width  # of the attention
  else:
    last = 2 * config.codes * config.width if config.decoder != "none" else 0
  return config.layers * (mixing_flops(config) + feature_flops(config) - last)


def training_flops_per_token(config: ModelConfig) -> int:
  """Operations of a forward and a backward pass, per token.

  Each product A B costs two more in the backward pass, one for the gradient of A and one for
  B's, and every product here has two factors that need one: exactly three times the forward
  pass. What rematerialisation computes again is not counted.
  """
  return 3 * forward_flops_per_token(config)
