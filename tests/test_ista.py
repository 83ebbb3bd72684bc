import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from crate_jax.model.features.ista import eta_sigma2, ista


def _problem(tokens=7, width=16, codes=64, dtype=np.float64):
  rng = np.random.default_rng(0)
  z = rng.standard_normal((1, tokens, width)).astype(dtype)
  bound = np.sqrt(6 / width)
  return z, rng.uniform(-bound, bound, (codes, width)).astype(dtype)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_codes_agree_with_numpy_in_float64(steps):
  z, dictionary = _problem()
  with jax.enable_x64(True):
    got = ista(jnp.asarray(z), jnp.asarray(dictionary), steps=steps, eta=0.05, lam=0.3)
  want = reference.ista(z[0], dictionary, steps, eta=0.05, lam=0.3)
  np.testing.assert_allclose(got[0], want, rtol=1e-10, atol=1e-12)


def test_codes_are_the_released_arithmetic():
  # crate-lm's overcomplete block spells its two steps out with five products.
  z, w = _problem()
  eta = lam = 0.1
  first = np.maximum(eta * z @ w.T - eta * lam, 0)
  gradient = first @ w @ w.T
  second = np.maximum(first + eta * (z @ w.T - gradient) - eta * lam, 0)
  with jax.enable_x64(True):
    got = ista(jnp.asarray(z), jnp.asarray(w), steps=2, eta=eta, lam=lam)
  np.testing.assert_allclose(got, second, rtol=1e-12, atol=1e-12)


def test_the_step_size_stands_beside_the_largest_singular_value():
  dictionaries = np.stack([s * _problem(dtype=np.float32)[1] for s in (0.5, 1, 2)])
  want = [0.1 * np.linalg.svd(d, compute_uv=False)[0] ** 2 for d in dictionaries]
  np.testing.assert_allclose(eta_sigma2(jnp.asarray(dictionaries), 0.1), want, rtol=1e-5)


def test_many_steps_reach_the_lasso_optimum():
  z, dictionary = _problem(tokens=3)
  eta = 0.9 / np.linalg.norm(dictionary, 2) ** 2
  codes = reference.ista(z[0], dictionary, steps=40, eta=eta, lam=0.5)
  with jax.enable_x64(True):
    got = ista(jnp.asarray(z), jnp.asarray(dictionary), steps=40, eta=eta, lam=0.5)
  np.testing.assert_allclose(got[0], codes, rtol=1e-9, atol=1e-12)
  codes = reference.ista(z[0], dictionary, steps=20_000, eta=eta, lam=0.5)
  correlation = (z[0] - codes @ dictionary) @ dictionary.T
  active = codes > 1e-8
  assert 0 < active.mean() < 0.5
  np.testing.assert_allclose(correlation[active], 0.5, atol=1e-5)  # optimality, from its theory
  assert np.all(correlation[~active] < 0.5 + 1e-5)


def test_the_objective_falls_with_every_step_below_the_bound():
  z, dictionary = _problem()
  eta = 0.99 / np.linalg.norm(dictionary, 2) ** 2

  def objective(steps):
    codes = reference.ista(z[0], dictionary, steps, eta, 0.3) if steps else np.zeros((7, 64))
    return 0.5 * np.sum((z[0] - codes @ dictionary) ** 2) + 0.3 * np.sum(codes)

  values = [objective(steps) for steps in range(6)]
  assert all(later < earlier for earlier, later in itertools.pairwise(values))


def test_correlation_is_computed_once():
  z, dictionary = _problem(dtype=np.float32)

  def decoded(z, dictionary):
    return ista(z, dictionary, steps=2, eta=0.1, lam=0.1) @ dictionary

  forward = str(jax.make_jaxpr(decoded)(z, dictionary))
  assert forward.count("dot_general") == 4
  gradient = jax.jit(jax.grad(lambda *a: jnp.sum(decoded(*a) ** 2), argnums=(0, 1)))
  assert gradient.lower(z, dictionary).compile().as_text().count(" dot(") <= 12
