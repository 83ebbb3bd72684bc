import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from crate_jax.model.norm import layer_norm


@pytest.mark.parametrize(("mean", "scale"), [(0, 1), (30, 1), (1000, 100), (0, 1e3), (-0.1, 0.01)])
def test_float32_agrees_with_float64_at_any_mean_and_scale(mean, scale):
  rng = np.random.default_rng(0)
  x = (mean + scale * rng.standard_normal((4, 64))).astype(np.float32)
  gain, bias = rng.standard_normal((2, 64)).astype(np.float32)
  got = layer_norm(jnp.asarray(x), gain, bias)
  want = reference.layer_norm(x.astype(np.float64), gain, bias)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_float64_stays_float64():
  x = np.random.default_rng(1).standard_normal((3, 8))
  with jax.enable_x64(True):
    got = layer_norm(jnp.asarray(x), jnp.ones(8))
    assert got.dtype == jnp.float64
  np.testing.assert_allclose(got, reference.layer_norm(x, 1.0), rtol=1e-13)


def test_bfloat16_is_computed_in_float32():
  x = jnp.asarray(np.random.default_rng(2).standard_normal((3, 64)) + 30, jnp.bfloat16)
  got = layer_norm(x, jnp.ones(64))
  assert got.dtype == jnp.bfloat16
  want = reference.layer_norm(np.asarray(x, np.float64), 1.0)
  np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=2**-8, atol=1e-6)
