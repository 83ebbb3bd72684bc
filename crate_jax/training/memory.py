"""What the C library does with memory that a step frees."""

import ctypes

# What `mallopt` of glibc calls its settings (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGEST = 1 << 30  # bytes; the most that an int can say


def keep_freed() -> None:
  """Has this process keep memory that is freed, to use it again; where there is glibc.

  XLA's CPU backend allocates the buffers of every step anew. Blocks as large as these glibc gives
  back to the kernel when they are freed, and the next step waits for pages to be zeroed again
  (docs/speed.md says how long). Kept, they are there; the process stays as large as it once was.
  """
  library = ctypes.CDLL(None)
  if hasattr(library, "mallopt"):
    # Other threads' arenas hold 64 MB at most, and take what is larger from the kernel all the same.
    library.mallopt(_ARENA_MAX, 1)
    library.mallopt(_TRIM_THRESHOLD, _LARGEST)
    library.mallopt(_MMAP_THRESHOLD, _LARGEST)
