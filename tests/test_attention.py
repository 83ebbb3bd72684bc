import functools
import types

import jax
import jax.numpy as jnp
import models
import numpy as np
import pytest
import reference
from jax.experimental.pallas.ops.tpu import splash_attention

from crate_jax.errors import UserError
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
  ("platform", "capability", "dtype", "width", "context", "kernel"),
  [
    ("cpu", None, jnp.bfloat16, 64, 1024, "plain"),
    ("tpu", None, jnp.bfloat16, 64, 1024, "splash"),
    ("tpu", None, jnp.float32, 16, 256, "splash"),
    ("tpu", None, jnp.bfloat16, 64, 1000, "plain"),
    ("gpu", "9.0", jnp.float32, 64, 1024, "plain"),
    ("gpu", "9.0", jnp.bfloat16, 64, 1024, "cudnn"),
    ("gpu", "10.0", jnp.bfloat16, 64, 1024, "cudnn"),
    ("gpu", "gfx942", jnp.bfloat16, 64, 1024, "plain"),
    ("gpu", "7.5", jnp.bfloat16, 64, 1024, "plain"),
    ("gpu", "8.0", jnp.bfloat16, 256, 1024, "plain"),
    ("gpu", "8.0", jnp.bfloat16, 36, 1024, "plain"),
  ],
)
def test_the_kernel_fits_the_device(platform, capability, dtype, width, context, kernel):
  device = types.SimpleNamespace(platform=platform, compute_capability=capability)
  c = models.config(width=2 * width, context=context, dtype=jnp.dtype(dtype).name, attention="auto")
  assert attention.choose_kernel(device, c) == kernel


def test_a_kernel_of_another_device_is_refused():
  cpu = jax.devices()[0]
  assert attention.choose_kernel(cpu, models.config(attention="plain")) == "plain"
  for name, platform in (("cudnn", "gpu"), ("splash", "tpu")):
    c = models.config(attention=name, context=128)
    with pytest.raises(UserError, match=f"attention='{name}' runs on a {platform}, not on a cpu"):
      attention.choose_kernel(cpu, c)
  with pytest.raises(UserError, match="a multiple of 128, not 100"):
    models.config(attention="splash", context=100)


def test_the_splash_kernel_agrees_with_numpy(monkeypatch):
  """The kernel itself in Pallas' interpreter, on this CPU; test_plan.py compiles it for TPUs."""
  make = functools.partial(splash_attention.make_splash_mha_single_device, interpret=True)
  monkeypatch.setattr(splash_attention, "make_splash_mha_single_device", make)
  rng = np.random.default_rng(0)
  q, k, v = (jnp.asarray(rng.standard_normal((2, 256, 3, 16)), jnp.float32) for _ in range(3))
  got, pull = jax.vjp(functools.partial(attention.causal_attention, kernel="splash"), q, k, v)
  gradients = pull(jnp.cos(got))
  for head in range(3):
    want = reference.attend(*(np.asarray(x[1, :, head], np.float64) for x in (q, k, v)))
    np.testing.assert_allclose(got[1, :, head], want, rtol=1e-4, atol=1e-5)
  want, pull = jax.vjp(attention.causal_attention, q, k, v)
  for one, other in zip(gradients, pull(jnp.cos(want)), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_this_machine_takes_the_plain_kernel():
  q, k, v = _qkv(jnp.bfloat16)
  np.testing.assert_array_equal(
    attention.causal_attention(q, k, v, kernel="auto"), attention.causal_attention(q, k, v)
  )
