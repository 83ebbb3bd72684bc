import jax
import jax.numpy as jnp
import models
import numpy as np
import pytest
import reference

from crate_jax.model import lm

both = pytest.mark.parametrize("architecture", ["crate", "gpt2"])


@both
def test_recorded_neurons_are_those_of_the_equations(architecture):
  model = models.small(architecture)
  params, tokens = models.random_params(model), models.tokens(model)
  logits, seen = model.apply({"params": params}, tokens, mutable=["codes", "gauges"])
  np.testing.assert_array_equal(logits, model.apply({"params": params}, tokens))
  want = np.zeros((3, 2, 12, 64))
  for row in range(2):

    def record(layer, codes, row=row):
      want[layer, row] = codes
      return codes

    reference.logits(reference.wide(params), tokens[row], architecture, record)
  np.testing.assert_allclose(lm.codes(seen), want, rtol=1e-4, atol=1e-5)
  share = np.mean(want != 0, axis=-1)
  assert 0.2 < share.mean() < 0.8
  # A code within rounding of zero may fall on either side: one of 64 at most.
  np.testing.assert_allclose(lm.nonzero(seen), share, atol=1.01 / 64)
  np.testing.assert_allclose(lm.nonzero(seen), np.mean(lm.codes(seen) != 0, axis=-1))


@both
@pytest.mark.parametrize("remat", ["none", "full"])
def test_steering_overwrites_neurons_before_they_are_decoded(architecture, remat):
  model = models.small(architecture, remat=remat)
  params, tokens = models.random_params(model), models.tokens(model, rows=1)
  value_LC = np.full((3, 64), np.nan, np.float32)
  value_LC[1, 5], value_LC[1, 6], value_LC[2, 0] = 3.0, 0.0, 1.5
  variables = {"params": params, "steering": lm.steering(jnp.asarray(value_LC))}

  def overwrite(layer, codes):
    return np.where(np.isnan(value_LC[layer]), codes, value_LC[layer])

  want = reference.logits(reference.wide(params), tokens[0], architecture, overwrite)
  got = jax.jit(lambda variables: model.apply(variables, tokens))(variables)
  np.testing.assert_allclose(got[0], want, rtol=1e-4, atol=1e-4)
  plain = model.apply({"params": params}, tokens)
  assert np.abs(got - plain).max() > 0.1


def test_training_and_cached_decoding_record_nothing():
  model = models.small()
  params = models.random_params(model)
  tokens = models.tokens(model)
  _, state = models.cached_logits(model, {"params": params}, tokens, jnp.zeros((2, 12), int))
  assert set(state) == {"cache"}
  assert set(models.init(model)) == {"blocks", "norm", "positions", "tokens"}
