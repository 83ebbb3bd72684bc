import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from crate_jax.model import attention


def _qkv(dtype=jnp.float32):
  rng = np.random.default_rng(0)
  return [jnp.asarray(rng.standard_normal((2, 8, 3, 8)), dtype) for _ in range(3)]


def test_agrees_with_numpy():
  q, k, v = _qkv()
  got = attention.causal_attention(q, k, v)
  for head in range(3):
    want = reference.attend(*(np.asarray(x[1, :, head], np.float64) for x in (q, k, v)))
    np.testing.assert_allclose(got[1, :, head], want, rtol=1e-5, atol=1e-6)


def test_agrees_with_the_library():
  q, k, v = _qkv()
  want = jax.nn.dot_product_attention(q, k, v, is_causal=True)
  np.testing.assert_allclose(attention.causal_attention(q, k, v), want, rtol=1e-5, atol=1e-6)


def test_queries_at_given_positions_see_keys_up_to_there():
  q, k, v = _qkv()
  whole = attention.causal_attention(q, k, v)
  positions = jnp.array([[2, 5], [7, 0]])
  rows = jnp.arange(2)[:, None]
  some = attention.causal_attention(q[rows, positions], k, v, positions_BT=positions)
  np.testing.assert_allclose(some, whole[rows, positions], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
  ("platform", "capability", "dtype", "width", "kernel"),
  [
    ("cpu", None, jnp.bfloat16, 64, "plain"),
    ("tpu", None, jnp.bfloat16, 64, "plain"),
    ("gpu", "9.0", jnp.float32, 64, "plain"),
    ("gpu", "9.0", jnp.bfloat16, 64, "cudnn"),
    ("gpu", "10.0", jnp.bfloat16, 64, "cudnn"),
    ("gpu", "gfx942", jnp.bfloat16, 64, "plain"),
    ("gpu", "7.5", jnp.bfloat16, 64, "plain"),
    ("gpu", "8.0", jnp.bfloat16, 256, "plain"),
    ("gpu", "8.0", jnp.bfloat16, 36, "plain"),
  ],
)
def test_the_kernel_fits_the_device(platform, capability, dtype, width, kernel):
  device = types.SimpleNamespace(platform=platform, compute_capability=capability)
  assert attention.choose_kernel(device, jnp.dtype(dtype), width) == kernel


def test_this_machine_takes_the_plain_kernel():
  q, k, v = _qkv(jnp.bfloat16)
  np.testing.assert_array_equal(
    attention.causal_attention(q, k, v, kernel="auto"), attention.causal_attention(q, k, v)
  )
