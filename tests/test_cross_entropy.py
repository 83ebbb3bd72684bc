import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from crate_jax.model import cross_entropy


def arrays(rows=3, tokens=5, width=8, vocab=31, dtype=jnp.float32):
  rng = np.random.default_rng(0)
  x_BTD = jnp.asarray(rng.standard_normal((rows, tokens, width)), dtype)
  head_VD = jnp.asarray(rng.standard_normal((vocab, width)), dtype)
  return x_BTD, head_VD, jnp.asarray(rng.integers(0, vocab, (rows, tokens)))


def plain(x_BTD, head_VD, targets_BT):
  wide = jnp.promote_types(x_BTD.dtype, jnp.float32)
  logits = jnp.einsum("btd,vd->btv", x_BTD, head_VD, preferred_element_type=wide)
  return optax.softmax_cross_entropy_with_integer_labels(logits, targets_BT)


def in_numpy(x_BTD, head_VD, targets_BT):
  x, head = (np.asarray(array, np.float64) for array in (x_BTD, head_VD))
  logits = x @ head.T
  logsumexp = np.log(np.exp(logits).sum(axis=-1))
  return logsumexp - np.take_along_axis(logits, np.asarray(targets_BT)[..., None], -1)[..., 0]


@pytest.mark.parametrize("chunk", [1, 4, 7, 15, 1024])
def test_agrees_with_numpy_in_any_chunks(chunk, monkeypatch):
  monkeypatch.setattr(cross_entropy, "CHUNK", chunk)
  x_BTD, head_VD, targets_BT = arrays()
  got = cross_entropy.token_nll(x_BTD, head_VD, targets_BT)
  np.testing.assert_allclose(got, in_numpy(x_BTD, head_VD, targets_BT), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", [4, 1024])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_value_and_gradient_are_the_plain_ones(chunk, dtype, monkeypatch):
  monkeypatch.setattr(cross_entropy, "CHUNK", chunk)
  x_BTD, head_VD, targets_BT = arrays(dtype=dtype)

  def differentiate(function):
    mean = lambda x, head: 3 * jnp.mean(function(x, head, targets_BT))  # noqa: E731
    return jax.jit(jax.value_and_grad(mean, argnums=(0, 1)))(x_BTD, head_VD)

  (got, gradients), (want, others) = map(differentiate, (cross_entropy.mean_nll, plain))
  np.testing.assert_allclose(got, want, rtol=1e-6)
  # Of bfloat16 the last of its 8 bits may differ.
  close = {"rtol": 1e-5, "atol": 1e-7} if dtype == "float32" else {"rtol": 2**-6, "atol": 1e-3}
  for one, other in zip(gradients, others, strict=True):
    assert one.dtype == dtype
    np.testing.assert_allclose(np.float32(one), np.float32(other), **close)


def test_logits_far_from_zero_do_not_overflow():
  x_BTD, head_VD, targets_BT = arrays()
  value, gradient = jax.value_and_grad(cross_entropy.mean_nll)(1e3 * x_BTD, head_VD, targets_BT)
  assert np.isfinite(value) and np.isfinite(gradient).all()


SIZES = {"rows": 8, "tokens": 1024, "width": 64, "vocab": 50304}
LOGITS = SIZES["rows"] * SIZES["tokens"] * SIZES["vocab"] * 4


def test_the_compiler_needs_less_memory_by_more_than_the_logits():
  def temporary(function):
    mean = lambda *args: jnp.mean(function(*args))  # noqa: E731
    program = jax.jit(jax.value_and_grad(mean, argnums=(0, 1)))
    shapes = jax.eval_shape(functools.partial(arrays, **SIZES))
    return program.lower(*shapes).compile().memory_analysis().temp_size_in_bytes

  assert temporary(plain) - temporary(cross_entropy.mean_nll) > LOGITS


PEAK = """
import re, sys
import jax, jax.numpy as jnp
import test_cross_entropy as t
function = {"plain": t.plain, "chunked": t.cross_entropy.mean_nll}[sys.argv[1]]
mean = lambda *args: jnp.mean(function(*args))
args = t.arrays(**t.SIZES)
print(float(jax.jit(jax.value_and_grad(mean, argnums=(0, 1)))(*args)[0]))
# Not getrusage, which counts what the process that started this one held.
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_peak_of_the_process_is_lower_by_more_than_the_logits():
  said = []
  for name in ("plain", "chunked"):
    done = subprocess.run(
      [sys.executable, "-c", PEAK, name], cwd=os.path.dirname(__file__),
      capture_output=True, text=True, timeout=390,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said.append(done.stdout.split())
  (plain_loss, plain_peak), (loss, peak) = said
  assert float(loss) == pytest.approx(float(plain_loss), rel=1e-6)
  assert (int(plain_peak) - int(peak)) * 1024 > LOGITS
  print(f"peak {int(plain_peak) / 2**20:.2f} GiB whole, {int(peak) / 2**20:.2f} GiB in chunks")
