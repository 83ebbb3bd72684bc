import jax.numpy as jnp
import models
import numpy as np
import pytest

from crate_jax.model import activations, lm
from crate_jax.training.step import objective


@pytest.mark.parametrize("name", ["crate", "gpt2", "signed", "topk"])
def test_gauges_are_of_the_neurons(name):
  model = models.member(name)
  params, tokens = models.random_params(model), models.tokens(model)
  _, seen = model.apply({"params": params}, tokens, mutable=["gauges", "activations"])
  neurons = activations.neurons(model.config)
  codes = seen["activations"]["blocks"]["features"][neurons][0]
  share = lm.nonzero(seen, tokens)
  np.testing.assert_allclose(share, np.mean(codes != 0, axis=-1), rtol=1e-6)
  assert 0.01 < share.mean() < 1
  if name == "topk":
    assert np.all(np.sum(codes != 0, axis=-1) <= 5)


def test_without_neurons_there_is_no_gauge():
  model = models.small("aot")
  params, tokens = models.random_params(model), models.tokens(model)
  _, seen = model.apply({"params": params}, tokens, mutable=["gauges"])
  assert lm.nonzero(seen, tokens).shape == (0, *tokens.shape)


def test_the_l1_penalty_is_added_to_the_objective():
  plain, penalised = models.small("gpt2"), models.small("gpt2", l1=0.25)
  params, tokens = models.random_params(plain), models.tokens(plain)
  total, nll = objective(penalised, params, tokens)
  np.testing.assert_allclose(nll, jnp.mean(models.token_nll(plain, params, tokens)), rtol=1e-6)
  _, seen = plain.apply({"params": params}, tokens[:, :-1], mutable=["activations"])
  sizes = np.asarray(seen["activations"]["blocks"]["features"]["A1"][0], np.float64)
  want = 0.25 * np.abs(sizes).sum(-1).mean((1, 2)).sum()
  np.testing.assert_allclose(total - nll, want, rtol=1e-5)
  assert objective(plain, params, tokens)[0] == objective(plain, params, tokens)[1]
