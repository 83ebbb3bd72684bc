"""What the C library does with memory that is freed."""

import ctypes
import importlib.util
import os

# What `mallopt` of glibc calls its settings (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGEST = 1 << 30  # bytes; an int, as mallopt wants it
# Without these installed, JAX finds no accelerator.
_ACCELERATORS = ("jax_plugins", "libtpu")


def keep_freed() -> None:
  """Has this process keep memory that is freed, to use it again; to be called before JAX is used.

  XLA's CPU backend allocates the buffers of every step anew. Blocks as large as these glibc gives
  back to the kernel when they are freed, and the next step waits for pages to be zeroed again
  (docs/speed.md says how long). Kept, they are there; the process stays as large as it once was.
  Where an accelerator may do the work nothing changes, nor where the C library is not glibc.
  """
  if os.environ.get("JAX_PLATFORMS") != "cpu" and any(map(importlib.util.find_spec, _ACCELERATORS)):
    return
  library = ctypes.CDLL(None)
  if hasattr(library, "mallopt"):
    # A thread that has its own arena keeps 64 MB at most there; threads begun later share one.
    library.mallopt(_ARENA_MAX, 1)
    library.mallopt(_TRIM_THRESHOLD, _LARGEST)
    library.mallopt(_MMAP_THRESHOLD, _LARGEST)
