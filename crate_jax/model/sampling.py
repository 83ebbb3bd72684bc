"""Sampling from a model: prefill once, then one token at a time against the cache, all jitted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from crate_jax.model.lm import LM, Params


def sample(
  model: LM,
  variables: Params,
  prompt: np.ndarray,
  length: int,
  key: jax.Array,
  *,
  temperature: float,
  top_k: int,
  vocab_size: int,
) -> np.ndarray:
  """Continues a prompt.

  The model sees at most `context` tokens. When they are full, the last half of them becomes the
  prompt that the next stretch starts from, so a sample may be of any length.

  Args:
    model: the model.
    variables: "params", and "edits" to change activations (`activations.collection`).
    prompt: at least one token id.
    length: tokens to add.
    key: of the random choices.
    temperature: divides the logits; 0 takes the most likely token.
    top_k: only so many of the most likely tokens are drawn from; 0 for all.
    vocab_size: ids from here on are padding of the embedding and never drawn.

  Returns:
    The prompt and `length` new token ids, int32.
  """
  context = model.config.context
  tokens = np.asarray(prompt, np.int32)
  wanted = len(tokens) + length
  while len(tokens) < wanted:
    seen = tokens if len(tokens) < context else tokens[-max(context // 2, 1) :]
    window_BS = np.zeros((1, context), np.int32)
    window_BS[0, : len(seen)] = seen
    end = min(context, len(seen) + wanted - len(tokens))
    key, this_key = jax.random.split(key)
    out_BS = _fill(
      model, variables, window_BS, len(seen), end, this_key, temperature, vocab_size, top_k=top_k
    )
    filled_BS = multihost_utils.process_allgather(out_BS, tiled=True)  # of several processes or one
    tokens = np.concatenate([tokens, filled_BS[0, len(seen) : end]])
  return tokens


@functools.partial(jax.jit, static_argnums=0, static_argnames="top_k")
def _fill(
  model: LM,
  variables: Params,
  window_BS: jax.Array,
  start: jax.Array,
  end: jax.Array,
  key: jax.Array,
  temperature: jax.Array,
  vocab_size: jax.Array,
  *,
  top_k: int,
) -> jax.Array:
  """Fills positions [start, end) of the windows; compiled once for every length and prompt."""
  B, S = window_BS.shape

  def choose(logits_BV: jax.Array, position: jax.Array) -> jax.Array:
    logits_BV = jnp.where(jnp.arange(logits_BV.shape[1]) < vocab_size, logits_BV, -jnp.inf)
    if top_k:
      least_B1 = jax.lax.top_k(logits_BV, min(top_k, logits_BV.shape[1]))[0][:, -1:]
      logits_BV = jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)
    drawn_B = jax.random.categorical(
      jax.random.fold_in(key, position), logits_BV / jnp.maximum(temperature, 1e-6)
    )
    return jnp.where(temperature > 0, drawn_B, jnp.argmax(logits_BV, axis=1)).astype(jnp.int32)

  # Tokens after `start` are padding: the causal mask hides them from those before, and every
  # one of them is overwritten in the window and in the cache before it becomes visible.
  positions_BS = jnp.broadcast_to(jnp.arange(S), (B, S))
  logits_BSV, cache = model.apply(variables, window_BS, positions_BS, mutable=["cache"])
  first_B = choose(logits_BSV[:, start - 1], start)

  def body(carry: tuple) -> tuple:
    window_BS, cache, position = carry
    token_B1 = jax.lax.dynamic_slice_in_dim(window_BS, position, 1, axis=1)
    positions_B1 = jnp.full((B, 1), position)
    logits_B1V, cache = model.apply(
      {**variables, **cache}, token_B1, positions_B1, mutable=["cache"]
    )
    next_B = choose(logits_B1V[:, 0], position + 1)
    return window_BS.at[:, position + 1].set(next_B), cache, position + 1

  window_BS = window_BS.at[:, start].set(first_B)
  carry = window_BS, cache, jnp.asarray(start)
  return jax.lax.while_loop(lambda carry: carry[2] + 1 < end, body, carry)[0]
