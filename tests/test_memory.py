import ctypes
import subprocess
import sys

import conftest
import pytest

# Prints the page faults of taking a block, filling and freeing it, for the third time.
FAULTS = """
import ctypes, resource, sys
from crate_jax.training import memory
if sys.argv[1] == "kept":
  memory.keep_freed()
c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
c.free.argtypes = [ctypes.c_void_p]
size, faults = 100 << 20, []
for _ in range(3):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  block = c.malloc(size)
  ctypes.memset(block, 1, size)
  c.free(block)
  faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[-1])
"""


def faults(how):
  done = subprocess.run(
    [sys.executable, "-c", FAULTS, how],
    cwd=conftest.ROOT, capture_output=True, text=True, timeout=120,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_a_block_that_was_freed_is_used_again():
  kept, given_back = faults("kept"), faults("given back")
  assert kept < 10
  assert given_back > 3 * kept + 20  # or there is nothing to keep, and the function can go
