"""Loss of a model on a text, every token counted once."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.model.lm import LM, Params
from crate_jax.training.step import token_nll

RowNll = Callable[[Params, np.ndarray, np.ndarray], jax.Array]


@dataclasses.dataclass(frozen=True)
class Loss:
  """Loss on a text.

  Attributes:
    nats: mean negative log-likelihood of a scored token.
    bits_per_byte: nats of all scored tokens in bits, over the UTF-8 bytes they stand for.
      End-of-text costs bits and stands for no byte.
    tokens: tokens scored: all but the first, which nothing predicts.
    bytes: the bytes they stand for.
  """

  nats: float
  bits_per_byte: float
  tokens: int
  bytes: int


def make_row_nll(model: LM) -> RowNll:
  """A jitted (params, windows_BT1, targets_B) -> nats_B: each row's first targets_B targets."""

  @jax.jit
  def row_nll(params: Params, tokens_BT1: jax.Array, targets_B: jax.Array) -> jax.Array:
    nll_BT = token_nll(model, params, tokens_BT1)
    scored_BT = jnp.arange(nll_BT.shape[1]) < targets_B[:, None]
    return jnp.sum(jnp.where(scored_BT, nll_BT, 0), axis=1)

  return row_nll


def text_loss(
  row_nll: RowNll,
  params: Params,
  tokens: np.ndarray,
  byte_lengths: np.ndarray,
  *,
  context: int,
  batch_size: int,
) -> Loss:
  """Scores every token of a text but the first, once.

  Windows of `context` inputs stand one after the other (the stride is the window), so a token
  is predicted from at least one and at most `context` tokens before it. The last window may
  be shorter. Sums are taken in float64.

  Args:
    row_nll: from `make_row_nll`.
    params: the model's parameters.
    tokens: token ids of the text, at least two.
    byte_lengths: bytes per token id (`Tokenizer.byte_lengths`).
    context: the model's context T.
    batch_size: windows at a time.
  """
  count = len(tokens) - 1
  total = 0.0
  for first in range(0, math.ceil(count / context), batch_size):
    windows_BT1 = np.zeros((batch_size, context + 1), np.int32)
    targets_B = np.zeros(batch_size, np.int32)
    for row in range(batch_size):
      window = tokens[(first + row) * context : (first + row + 1) * context + 1]
      windows_BT1[row, : len(window)] = window
      targets_B[row] = max(len(window) - 1, 0)
    total += float(np.sum(np.asarray(row_nll(params, windows_BT1, targets_B), np.float64)))
  size = int(byte_lengths[tokens[1:]].sum())
  return Loss(total / count, total / math.log(2) / max(size, 1), count, size)
