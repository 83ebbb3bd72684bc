"""That memory a step frees is there for the next."""

import ctypes
import subprocess
import sys

import conftest
import pytest

# Prints the fewest page faults of a step that makes 64 MB, once others went before.
FAULTS = """
import resource, sys
from crate_jax import memory
if sys.argv[1] == "kept":
  memory.keep_freed()
import jax
import jax.numpy as jnp
step = jax.jit(lambda x: jnp.outer(x, x))
x = jnp.arange(4096.0)
faults = []
for _ in range(24):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  step(x).block_until_ready()
  faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults[12:]))
"""


def faults(how):
  done = subprocess.run(
    [sys.executable, "-c", FAULTS, how],
    cwd=conftest.ROOT, capture_output=True, text=True, timeout=120,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_what_a_step_freed_is_used_again():
  kept, given_back = faults("kept"), faults("given back")
  assert kept < 500
  assert given_back > 10 * kept  # or there is nothing to keep, and the function can go
