import jax
import jax.numpy as jnp
import models
import numpy as np
import optax
import pytest

from crate_jax.training import step
from crate_jax.training.step import TrainState


def make_update(*args):
  return jax.jit(step.make_update(*args))


def _state(model, optimizer):
  params = models.random_params(model)
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def test_nll_is_that_of_the_softmax():
  model = models.small()
  params, tokens = models.random_params(model), models.tokens(model)
  logits = np.asarray(models.logits(model, params, tokens[:, :-1]), np.float64)
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  want = -np.log(np.take_along_axis(p, tokens[:, 1:, None], -1)[..., 0])
  np.testing.assert_allclose(models.token_nll(model, params, tokens), want, rtol=1e-5)


@pytest.mark.parametrize("parts", [2, 6])
def test_accumulation_equals_one_large_batch(parts):
  model, optimizer = models.small(), optax.sgd(0.1)
  rate = optax.constant_schedule(0.1)
  batch = models.tokens(model, rows=6)
  once, metrics = make_update(model, optimizer, rate, 1)(_state(model, optimizer), batch)
  split, split_metrics = make_update(model, optimizer, rate, parts)(_state(model, optimizer), batch)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), once.params, split.params
  )
  for name in metrics:
    np.testing.assert_allclose(metrics[name], split_metrics[name], rtol=1e-5)
  assert int(split.step) == 1  # one update, however many parts


def test_metrics_are_of_the_parameters_before_the_update():
  model, optimizer = models.small(), optax.sgd(0.1)
  state, batch = _state(model, optimizer), models.tokens(model, rows=6)
  rate = optax.linear_schedule(1.0, 0.0, 10)
  new, metrics = make_update(model, optimizer, rate, 1)(state, batch)
  loss, gradient = jax.value_and_grad(lambda p: jnp.mean(models.token_nll(model, p, batch)))(
    state.params
  )
  np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
  norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(gradient)))
  np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
  assert metrics["learning_rate"] == 1.0
  _, metrics = make_update(model, optimizer, rate, 1)(new, batch)
  assert metrics["loss"] < loss
  assert metrics["learning_rate"] == pytest.approx(0.9)


def test_parameters_stay_float32_in_bfloat16_training():
  model, optimizer = models.small(dtype="bfloat16"), optax.adamw(1e-3)
  batch = models.tokens(model, rows=4)
  state, metrics = make_update(model, optimizer, lambda s: 1e-3, 1)(_state(model, optimizer), batch)
  assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
  assert metrics["loss"].dtype == jnp.float32
  exact = models.small()
  _, want = make_update(exact, optimizer, lambda s: 1e-3, 1)(_state(exact, optimizer), batch)
  np.testing.assert_allclose(metrics["loss"], want["loss"], rtol=0.01)
  np.testing.assert_allclose(metrics["grad_norm"], want["grad_norm"], rtol=0.05)


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_changes_nothing(where, bad, monkeypatch):
  model, optimizer = models.small(), optax.adamw(0.1)
  real = step.objective

  def objective(model, params, tokens):
    loss, nll = real(model, params, tokens)
    poisoned = jnp.any(tokens == 3)
    if where == "loss":
      loss += jnp.where(poisoned, bad, 0)
      return loss, nll + jnp.where(poisoned, bad, 0)
    # Finite, while its gradient is not: the square root has none at zero.
    zero = jnp.where(poisoned, 0.0, 1.0) * jnp.abs(params["norm"]["scale"][0])
    return loss + (jnp.sqrt(zero) if bad == np.inf else jnp.sqrt(zero) * zero), nll

  monkeypatch.setattr(step, "objective", objective)
  update = make_update(model, optimizer, optax.constant_schedule(0.1), 1)
  clean = jnp.where(models.tokens(model, rows=6) == 3, 4, models.tokens(model, rows=6))
  state, metrics = update(_state(model, optimizer), clean)
  assert metrics["applied"] and int(state.step) == 1
  after, metrics = update(state, clean.at[2, 5].set(3))
  assert not metrics["applied"]
  assert not np.isfinite(metrics["loss"] if where == "loss" else metrics["grad_norm"])
  jax.tree.map(np.testing.assert_array_equal, after, state)
  after, metrics = update(after, clean)
  assert metrics["applied"] and int(after.step) == 2
