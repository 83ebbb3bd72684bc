"""Sampling from a model: prefill once, then one token at a time against the cache, in one loop."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from crate_jax.model.lm import LM, Params


def sample(
  model: LM,
  variables: Params,
  prompts: Sequence[np.ndarray],
  length: int,
  key: jax.Array,
  *,
  temperature: float,
  top_k: int,
  vocab_size: int,
) -> list[np.ndarray]:
  """Continues prompts, of any lengths, side by side.

  The model sees at most `context` tokens of each. When they are full, the last half of them becomes
  the prompt that the next stretch starts from, so a sample may be of any length. What follows a
  prompt depends on it and on its place among the prompts, not on the others.

  Args:
    model: the model.
    variables: "params", and "edits" to change activations (`activations.collection`).
    prompts: of each at least one token id.
    length: tokens to add to each.
    key: of the random choices.
    temperature: divides the logits; 0 takes the most likely token.
    top_k: only so many of the most likely tokens are drawn from; 0 for all.
    vocab_size: ids from here on are padding of the embedding and never drawn.

  Returns:
    Each prompt and `length` new token ids, int32.
  """
  context = model.config.context
  texts = [np.asarray(prompt, np.int32) for prompt in prompts]
  starts = [0] * len(texts)  # of what the model sees
  left = length
  while left:
    for row, text in enumerate(texts):
      if len(text) - starts[row] >= context:
        starts[row] = len(text) - max(context // 2, 1)
    seen = [text[start:] for text, start in zip(texts, starts, strict=True)]
    window_BS = np.zeros((len(texts), context), np.int32)
    for row_S, tokens in zip(window_BS, seen, strict=True):
      row_S[: len(tokens)] = tokens
    seen_B = np.array([len(tokens) for tokens in seen], np.int32)
    count = min(left, context - max(seen_B))
    drawn_B = np.array([len(text) for text in texts], np.int32)
    out_BS = _fill(
      model, variables, window_BS, seen_B, count, key, drawn_B, temperature, vocab_size, top_k=top_k
    )
    filled_BS = multihost_utils.process_allgather(out_BS, tiled=True)  # of several processes or one
    texts = [
      np.concatenate([text, row_S[end : end + count]])
      for text, row_S, end in zip(texts, filled_BS, seen_B, strict=True)
    ]
    left -= count
  return texts


@functools.partial(jax.jit, static_argnums=0, static_argnames="top_k")
def _fill(
  model: LM,
  variables: Params,
  window_BS: jax.Array,
  seen_B: jax.Array,
  count: jax.Array,
  key: jax.Array,
  index_B: jax.Array,
  temperature: jax.Array,
  vocab_size: jax.Array,
  *,
  top_k: int,
) -> jax.Array:
  """Fills `count` positions of the windows, in each row those from `seen` on.

  Compiled once for all counts and lengths. `index` numbers the token at `seen` in its whole text:
  the random choice of a token depends on its row and this number.
  """
  B, S = window_BS.shape
  rows_B = jnp.arange(B)

  def choose(logits_B1V: jax.Array, number: jax.Array) -> jax.Array:
    logits_BV = logits_B1V[:, 0]
    logits_BV = jnp.where(jnp.arange(logits_BV.shape[1]) < vocab_size, logits_BV, -jnp.inf)
    if top_k:
      least_B1 = jax.lax.top_k(logits_BV, min(top_k, logits_BV.shape[1]))[0][:, -1:]
      logits_BV = jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)

    def draw(logits_V: jax.Array, row: jax.Array, index: jax.Array) -> jax.Array:
      this_key = jax.random.fold_in(jax.random.fold_in(key, row), index)
      return jax.random.categorical(this_key, logits_V / jnp.maximum(temperature, 1e-6))

    drawn_B = jax.vmap(draw)(logits_BV, rows_B, index_B + number)
    return jnp.where(temperature > 0, drawn_B, jnp.argmax(logits_BV, axis=1)).astype(jnp.int32)

  # Tokens from `seen` on are padding: the causal mask hides them from those before, and every
  # one of them is overwritten in the window and in the cache before it becomes visible.
  positions_BS = jnp.broadcast_to(jnp.arange(S), (B, S))
  logits_B1V, cache = model.apply(variables, window_BS, positions_BS, seen_B - 1, mutable=["cache"])
  window_BS = window_BS.at[rows_B, seen_B].set(choose(logits_B1V, jnp.asarray(0)))

  def body(carry: tuple) -> tuple:
    window_BS, cache, number = carry
    positions_B1 = (seen_B + number)[:, None]
    token_B1 = jnp.take_along_axis(window_BS, positions_B1, axis=1)
    logits_B1V, cache = model.apply(
      {**variables, **cache}, token_B1, positions_B1, mutable=["cache"]
    )
    next_B = choose(logits_B1V, number + 1)
    return window_BS.at[rows_B, seen_B + number + 1].set(next_B), cache, number + 1

  carry = window_BS, cache, jnp.asarray(0)
  return jax.lax.while_loop(lambda carry: carry[2] + 1 < count, body, carry)[0]
