import jax
import jax.numpy as jnp
import numpy as np
import reference

from crate_jax.model.mixing.tssa import tssa


def test_agrees_with_numpy_in_float64():
  rng = np.random.default_rng(0)
  w, temperature = 3 * rng.standard_normal((2, 9, 3, 5)), rng.uniform(0.5, 2, 3)
  with jax.enable_x64(True):
    got = tssa(jnp.asarray(w), jnp.asarray(temperature))
  for row in range(2):
    want = reference.tssa(w[row].transpose(1, 0, 2), temperature).transpose(1, 0, 2)
    np.testing.assert_allclose(got[row], want, rtol=1e-10, atol=1e-12)


def test_is_accurate_in_float32_far_from_zero():
  rng = np.random.default_rng(1)
  w = (1000 + 30 * rng.standard_normal((1, 64, 4, 8))).astype(np.float32)
  got = tssa(jnp.asarray(w), jnp.ones(4))
  want = reference.tssa(w[0].astype(np.float64).transpose(1, 0, 2), np.ones(4)).transpose(1, 0, 2)
  np.testing.assert_allclose(got[0], want, rtol=1e-5)


def test_directions_without_power_stay_zero():
  w = jnp.asarray(np.random.default_rng(2).standard_normal((1, 6, 2, 4)), jnp.float32)
  w = w.at[..., 3].set(0)
  y, pull = jax.vjp(lambda w: tssa(w, jnp.ones(2)), w)
  assert not np.any(y[..., 3]) and np.all(y[..., :3] != 0)
  assert np.all(np.isfinite(pull(jnp.ones_like(y))[0]))


def test_is_computed_in_float32_for_bfloat16():
  w = jnp.asarray(np.random.default_rng(3).standard_normal((1, 256, 2, 4)), jnp.bfloat16)
  got = tssa(w, jnp.ones(2))
  want = tssa(w.astype(jnp.float32), jnp.ones(2))
  assert got.dtype == jnp.bfloat16
  np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=2**-8)
