"""Loss of a model on a text, every token counted once."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from crate_jax.errors import UserError
from crate_jax.model import lm
from crate_jax.model.lm import LM, Params
from crate_jax.training import sharding as sharding_lib


@dataclasses.dataclass(frozen=True)
class Loss:
  """Loss on a text.

  Attributes:
    nats: mean negative log-likelihood of a scored token.
    bits_per_byte: nats of all scored tokens in bits, over the UTF-8 bytes they stand for.
      End-of-text costs bits and stands for no byte.
    tokens: tokens scored: all but the first, which nothing predicts.
    bytes: the bytes they stand for.
    nonzero: share of every layer's neurons that are not zero, over the tokens that the scored
      ones were predicted from; empty for a model without neurons.
  """

  nats: float
  bits_per_byte: float
  tokens: int
  bytes: int
  nonzero: tuple[float, ...]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _row_sums(
  model: LM, mesh: Mesh | None, params: Params, tokens_BT1: jax.Array, targets_B: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Sums over each row's first targets_B targets: nats_B, and shares of non-zero neurons_LB."""
  with sharding_lib.over(mesh) if mesh else contextlib.nullcontext():
    nll_BT, seen = model.apply(
      {"params": params}, tokens_BT1, mutable=["gauges"], method="token_nll"
    )
  scored_BT = jnp.arange(nll_BT.shape[1]) < targets_B[:, None]
  nonzero_LBT = jnp.where(scored_BT, lm.nonzero(seen, scored_BT), 0)
  return jnp.sum(jnp.where(scored_BT, nll_BT, 0), axis=-1), jnp.sum(nonzero_LBT, axis=-1)


def _place(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
  """An array that every process has whole, laid out over the devices of all."""
  return jax.make_array_from_callback(x.shape, sharding, lambda part: x[part])


def text_loss(
  model: LM,
  params: Params,
  tokens: np.ndarray,
  byte_lengths: np.ndarray,
  *,
  context: int,
  batch_size: int,
  sharding: NamedSharding | None = None,
  after_each: Callable[[], None] = lambda: None,
) -> Loss:
  """Scores every token of a text but the first, once.

  Windows of `context` inputs stand one after the other (the stride is the window), so a token
  is predicted from at least one and at most `context` tokens before it. The last window may
  be shorter. Sums over windows are taken in float64.

  Args:
    model: the model.
    params: its parameters.
    tokens: token ids of the text.
    byte_lengths: bytes per token id (`Tokenizer.byte_lengths`).
    context: the model's context T.
    batch_size: windows at a time.
    sharding: how the windows are laid out over devices; None for the default device.
    after_each: called after every batch of windows.

  Raises:
    UserError: there are fewer than two tokens.
  """
  count = len(tokens) - 1
  if count < 1:
    raise UserError("The text to score has fewer than two tokens, and the first is not scored.")
  # Nats, then the share of non-zero neurons of every layer that has some.
  total = np.zeros(1 + (model.config.layers if model.config.codes else 0))
  for first in range(0, math.ceil(count / context), batch_size):
    windows_BT1 = np.zeros((batch_size, context + 1), np.int32)
    targets_B = np.zeros(batch_size, np.int32)
    for row in range(batch_size):
      window = tokens[(first + row) * context : (first + row + 1) * context + 1]
      windows_BT1[row, : len(window)] = window
      targets_B[row] = max(len(window) - 1, 0)
    rows = (windows_BT1, targets_B)
    placed = [_place(x, sharding) for x in rows] if sharding else rows
    sums = _row_sums(model, sharding.mesh if sharding else None, params, *placed)
    nats_B, nonzero_LB = multihost_utils.process_allgather(sums, tiled=True)
    total += np.concatenate([nats_B[None], nonzero_LB]).sum(axis=1, dtype=np.float64)
    after_each()
  size = int(byte_lengths[tokens[1:]].sum())
  nats, *nonzero = (total / count).tolist()
  bits_per_byte = nats * count / math.log(2) / max(size, 1)
  return Loss(nats, bits_per_byte, count, size, tuple(nonzero))
