import models
import numpy as np
import pytest
import reference

from crate_jax.evaluation import likelihood
from crate_jax.evaluation.likelihood import Request


def by_hand(c, params, request, context, vocab_size):
  """Token by token: everything before it, as far as a window of its piece reaches."""
  tokens = np.concatenate([request.context, request.continuation])
  nats, greedy = 0.0, True
  start = len(request.context)
  for first in range(start, len(tokens), context):
    end = min(first + context, len(tokens))
    window = tokens[max(end - context - 1, 0) : end]
    logits = reference.logits(params, window[:-1], c)
    for place in range(first, end):
      row = logits[place - end]
      nats += row[tokens[place]] - row.max() - np.log(np.exp(row - row.max()).sum())
      greedy &= np.argmax(row[:vocab_size]) == tokens[place]
  return nats, greedy


def test_likelihoods_are_those_of_the_softmax_in_the_order_asked():
  model = models.small(context=12)
  params = models.random_params(model)
  wide = reference.wide(params)
  rng = np.random.default_rng(0)
  requests = []
  for before, after in [(1, 1), (30, 3), (5, 6), (1, 40), (2, 12), (3, 13), (1, 2), (11, 1)]:
    requests.append(Request(rng.integers(0, 31, before), rng.integers(0, 31, after)))
  # One whose continuation is the likeliest, though padding of the embedding is likelier still.
  contexts = (rng.integers(0, 31, 4) for _ in range(1000))
  context, logits = next(
    (context, logits)
    for context in contexts
    if np.argmax(logits := reference.logits(wide, context, model.config)[-1]) >= 20
  )
  best = int(np.argmax(logits[:20]))
  requests.append(Request(context, np.array([best])))
  got = likelihood.likelihoods(model, params, requests, vocab_size=20)
  want = [by_hand(model.config, wide, request, 12, 20) for request in requests]
  assert [answer.nats for answer in got] == pytest.approx([nats for nats, _ in want], rel=1e-5)
  assert [answer.greedy for answer in got] == [greedy for _, greedy in want]
  assert got[-1].greedy and not got[3].greedy


def test_many_requests_are_scored_as_each_alone():
  model = models.small(context=64)
  params = models.random_params(model)
  rng = np.random.default_rng(1)
  requests = [
    Request(rng.integers(0, 31, rng.integers(1, 60)), rng.integers(0, 31, rng.integers(1, 9)))
    for _ in range(400)  # more than one batch
  ]
  got = likelihood.likelihoods(model, params, requests, vocab_size=31)
  for i in (0, 17, 399):
    alone = likelihood.likelihoods(model, params, requests[i : i + 1], vocab_size=31)[0]
    assert got[i].nats == pytest.approx(alone.nats, rel=1e-5)
    assert got[i].greedy == alone.greedy
