import math

import models
import numpy as np
import pytest
import reference

from crate_jax.evaluation import loss as loss_lib


@pytest.mark.parametrize("count", [2, 12, 13, 14, 25, 60])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_token_but_the_first_is_scored_once(count, batch_size):
  model = models.small()
  params = models.random_params(model)
  tokens = models.tokens(model, rows=1, length=count)[0]
  byte_lengths = np.arange(31)
  got = loss_lib.text_loss(
    model,
    params,
    tokens,
    byte_lengths,
    context=12,
    batch_size=batch_size,
  )
  wide = reference.wide(params)
  total, nonzero = 0.0, np.zeros(3)

  def count_nonzero(layer, name, value):
    if name == "A2":
      nonzero[layer] += np.sum(value > 0) / value.shape[1]
    return value

  for first in range(0, count - 1, 12):
    window = tokens[first : first + 13]
    total += reference.loss(wide, [window], model.config) * (len(window) - 1)
    reference.logits(wide, window[:-1], model.config, count_nonzero)
  assert got.tokens == count - 1
  assert got.bytes == byte_lengths[tokens[1:]].sum()
  assert got.nats == pytest.approx(total / (count - 1), rel=1e-5)
  assert got.bits_per_byte == pytest.approx(total / math.log(2) / got.bytes, rel=1e-5)
  assert got.nonzero == pytest.approx(nonzero / (count - 1), rel=1e-5)
