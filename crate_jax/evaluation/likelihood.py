"""Log-likelihood of continuations, in batches of similar length."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from crate_jax.model.lm import LM, Params

_TOKENS_AT_A_TIME = 4096
_SHORTEST = 16


@dataclasses.dataclass(frozen=True)
class Request:
  """A continuation to score.

  Attributes:
    context: token ids before it, at least one.
    continuation: token ids of it, at least one.
  """

  context: np.ndarray
  continuation: np.ndarray


@dataclasses.dataclass(frozen=True)
class Likelihood:
  """How likely a continuation is.

  Attributes:
    nats: its log-likelihood, summed over its tokens.
    greedy: True if each of its tokens is the likeliest one.
  """

  nats: float
  greedy: bool


@dataclasses.dataclass(frozen=True)
class _Piece:
  """A part of a continuation that fits one window, with as much before it as fits too."""

  request: int
  tokens: np.ndarray
  scored: int  # the last so many of the tokens


def likelihoods(
  model: LM, params: Params, requests: Sequence[Request], vocab_size: int
) -> list[Likelihood]:
  """Scores every request.

  A token is predicted from what precedes it, context and continuation, as far as the model's
  context T reaches. A continuation longer than T is scored in pieces of T tokens, each behind all
  that fits before it, as lm-evaluation-harness rolls through a text.

  Args:
    model: the model.
    params: its parameters.
    requests: what to score.
    vocab_size: of the tokenizer; ids from here on are padding of the embedding, which a greedy
      choice passes over.
  """
  pieces = [p for i, request in enumerate(requests) for p in _pieces(i, request, model)]
  pieces.sort(key=lambda piece: len(piece.tokens))
  nats, greedy = np.zeros(len(requests)), np.ones(len(requests), bool)
  start = 0
  bar = tqdm.tqdm(total=len(pieces), disable=None, delay=2, leave=False)  # on a terminal only
  while start < len(pieces):
    T = _padded(len(pieces[start].tokens) - 1, model.config.context)
    rows = max(1, _TOKENS_AT_A_TIME // T)
    batch = [p for p in pieces[start : start + rows] if len(p.tokens) - 1 <= T]
    tokens_BT1 = np.zeros((rows, T + 1), np.int32)
    scored_BT = np.zeros((rows, T), bool)
    for row, piece in enumerate(batch):
      last = len(piece.tokens) - 1
      tokens_BT1[row, : last + 1] = piece.tokens
      scored_BT[row, last - piece.scored : last] = True
    nats_B, greedy_B = jax.device_get(_score(model, params, tokens_BT1, scored_BT, vocab_size))
    for row, piece in enumerate(batch):
      nats[piece.request] += float(nats_B[row])
      greedy[piece.request] &= bool(greedy_B[row])
    start += len(batch)
    bar.update(len(batch))
  bar.close()
  return [Likelihood(*pair) for pair in zip(nats.tolist(), greedy.tolist(), strict=True)]


def _pieces(i: int, request: Request, model: LM) -> Iterator[_Piece]:
  T = model.config.context
  tokens = np.concatenate([request.context, request.continuation])
  for first in range(len(request.context), len(tokens), T):
    end = min(first + T, len(tokens))
    yield _Piece(i, tokens[max(end - T - 1, 0) : end], end - first)


def _padded(length: int, context: int) -> int:
  """The length that a batch is padded to: 16, 24, 32, 48, 64, ..., so that few are compiled."""
  power = 1 << (length - 1).bit_length()
  return min(max(_SHORTEST, 3 * power // 4 if length <= 3 * power // 4 else power), context)


@functools.partial(jax.jit, static_argnums=0)
def _score(
  model: LM, params: Params, tokens_BT1: jax.Array, scored_BT: jax.Array, vocab_size: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Log-likelihood_B of the scored tokens, and whether all of them are the likeliest."""
  logits_BTV: jax.Array = model.apply({"params": params}, tokens_BT1[:, :-1])  # type: ignore[assignment]
  target_BT = tokens_BT1[:, 1:]
  nll_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, target_BT)
  real_V = jnp.arange(logits_BTV.shape[-1]) < vocab_size
  likeliest_BT = jnp.argmax(jnp.where(real_V, logits_BTV, -jnp.inf), axis=-1)
  nats_B = -jnp.sum(jnp.where(scored_BT, nll_BT, 0), axis=1)
  return nats_B, jnp.all((likeliest_BT == target_BT) | ~scored_BT, axis=1)
