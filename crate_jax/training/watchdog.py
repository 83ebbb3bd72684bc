"""Ends a run that stands still: a batch that never comes, an exchange that never ends."""

import faulthandler
import math
import os
import sys
import threading
import time
from typing import Self

from crate_jax.training.report import duration

STALLED = 134  # as when another process is gone (crate_jax.cli): worth another start


class Watchdog:
  """A thread that ends the process if `alive`, once called, is not called for some time.

  It prints where every thread stands, because that is what tells a slow disk from a lost peer.
  """

  def __init__(self, minutes: float) -> None:
    """Sets the time; 0 never ends anything."""
    self._seconds = 60 * minutes
    self._over = threading.Event()
    self._last = math.inf

  def alive(self) -> None:
    """A step, a save, a batch of an evaluation, or what else must end soon has just ended."""
    self._last = time.monotonic()

  def __enter__(self) -> Self:
    if self._seconds:
      threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
    return self

  def __exit__(self, *exception: object) -> None:
    self._over.set()

  def _watch(self) -> None:
    while not self._over.wait(min(self._seconds / 10, 10)):
      if time.monotonic() - self._last > self._seconds:
        print(
          f"error: No step, save or batch of an evaluation has ended for {duration(self._seconds)} "
          "(train.stall_minutes): the same command goes on from the newest checkpoint. "
          "Every thread stands here:",
          file=sys.stderr,
          flush=True,
        )
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        os._exit(STALLED)
