"""Floating-point operations per token, counted from the matrix products.

A multiply-add is two operations. Only matrix products count: element-wise work is a few per
cent at width 768 and less above. The causal convention: attention scores are counted whole,
T by T, as the plain kernel computes them; a kernel that skips the masked half does less.

Note that 6 * N * D is wrong for CRATE: its block does 36 d^2 operations per token forward
with 6 d^2 parameters, three times as many per parameter as GPT-2's 24 d^2 with 12 d^2.
"""

from crate_jax.model.config import ModelConfig


def forward_flops_per_token(config: ModelConfig) -> int:
  """Operations of one forward pass over a full context, divided by its tokens."""
  d, codes, context = config.width, config.codes, config.context
  scores = 2 * 2 * context * d  # q k^T and weights times v
  if config.architecture == "crate":
    mixing = 2 * 2 * d * d  # one shared projection, one output projection
    features = 2 * 2 * config.ista_steps * codes * d  # 2 t - 1 products, and the decoding one
  else:
    mixing = 2 * 4 * d * d  # query, key, value, output
    features = 2 * 2 * codes * d
  head = 2 * d * config.vocab_size
  return config.layers * (mixing + scores + features) + head


def training_flops_per_token(config: ModelConfig) -> int:
  """Operations of a forward and a backward pass, per token.

  Each product A B costs two more in the backward pass, one for the gradient of A and one for
  B's, and every product here has two factors that need one: exactly three times the forward
  pass. What rematerialisation computes again is not counted.
  """
  return 3 * forward_flops_per_token(config)
