import jax
import jax.numpy as jnp
import numpy as np
import reference

from crate_jax.model.mixing.mssa import mssa


def test_agrees_with_numpy_in_float64():
  u = 3 * np.random.default_rng(0).standard_normal((2, 9, 3, 5))
  with jax.enable_x64(True):
    got = mssa(jnp.asarray(u))
  for b in range(2):
    for k in range(3):
      want = reference.attend(u[b, :, k], u[b, :, k], u[b, :, k])
      np.testing.assert_allclose(got[b, :, k], want, rtol=1e-10, atol=1e-12)


def test_is_accurate_in_float32_far_from_zero():
  rng = np.random.default_rng(1)
  u = (30 + 3 * rng.standard_normal((1, 16, 2, 8))).astype(np.float32)
  got = mssa(jnp.asarray(u))
  wide = u.astype(np.float64)
  for k in range(2):
    want = reference.attend(wide[0, :, k], wide[0, :, k], wide[0, :, k])
    # scores are near 2,500 here: their rounding in float32 moves weights by 1e-4 relative
    np.testing.assert_allclose(got[0, :, k], want, rtol=1e-4)


def test_the_first_token_attends_to_itself_alone():
  u = jnp.asarray(np.random.default_rng(2).standard_normal((1, 4, 2, 3)), jnp.float32)
  np.testing.assert_array_equal(mssa(u)[:, 0], u[:, 0])
