"""Many processes as one program: how they find each other, agree, and stop together."""

import glob
import hashlib
import importlib.util
import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, Self

import jax
import numpy as np
from jax.experimental import multihost_utils

from crate_jax.errors import UserError

SILENT_SECONDS = 20  # a process that nothing was heard of for so long is dead, and all end
SEEN_SECONDS = 40  # in which a file written by one process must be seen by all
SIGNALS = (signal.SIGTERM, signal.SIGINT)  # that ask a run to stop
END_SECONDS = 45  # that the others are waited for at the end


def start(coordinator: str, count: int | None, index: int | None, *, wait_seconds: int) -> None:
  """Joins this process to the others of its job; before anything else asks JAX for devices.

  Without arguments the job is found by itself: on TPU pods, GKE, and under Slurm's srun. Outside
  of these this is a job of one process, and nothing is done.

  Args:
    coordinator: HOST:PORT of process 0; "" to find everything by itself.
    count: processes of the job.
    index: which of them this is.
    wait_seconds: how long to wait for all to arrive.

  Raises:
    UserError: the arguments are not complete, or the other processes are not to be found. Of
      those that do not arrive in time JAX itself speaks, and aborts (exit status 134).
  """
  if coordinator or count is not None or index is not None:
    if not coordinator or count is None or index is None:
      raise UserError(
        "--coordinator, --num_processes and --process_id go together: give all three."
      )
    if not 0 <= index < count:
      raise UserError(f"--process_id={index} is not one of 0 to {count - 1}.")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
      raise UserError(f"--coordinator={coordinator} is not HOST:PORT.")
  elif not _in_a_job():
    return
  try:
    jax.distributed.initialize(
      coordinator or None,
      count,
      index,
      initialization_timeout=wait_seconds,
      heartbeat_timeout_seconds=SILENT_SECONDS,
      shutdown_timeout_seconds=END_SECONDS,
    )
  except (RuntimeError, ValueError) as error:  # the runtime's own are RuntimeErrors
    if not coordinator and isinstance(error, ValueError):  # TPUs, but no others to be found
      return
    reason = str(error).strip().splitlines()[0].rstrip(".")
    raise UserError(f"The processes of this job did not find each other: {reason}.") from error


def _in_a_job() -> bool:
  """Whether `jax.distributed` can find the other processes by itself."""
  slurm = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1
  gke = "TPU_WORKER_HOSTNAMES" in os.environ or "MEGASCALE_COORDINATOR_ADDRESS" in os.environ
  tpus = "tpu" in (os.environ.get("JAX_PLATFORMS") or "tpu")
  return slurm or (tpus and (gke or _has_tpu()))


def _has_tpu() -> bool:
  """Whether a TPU is plugged into this machine: a device of Google's (PCI vendor 1ae0)."""
  vendors = (Path(name) for name in glob.glob("/sys/bus/pci/devices/*/vendor"))
  return bool(importlib.util.find_spec("libtpu")) and any(
    "0x1ae0" in vendor.read_text() for vendor in vendors
  )


def agree(what: str, value: str) -> None:
  """Refuses to go on unless every process has the same value.

  Raises:
    UserError: another process has another one.
  """
  if jax.process_count() == 1:
    return
  digest = np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint32)
  everyone = multihost_utils.process_allgather(digest)
  if different := [i for i, other in enumerate(everyone) if not np.array_equal(other, everyone[0])]:
    raise UserError(f"Process {different[0]} has another {what} than process 0.")


def first_says(yes: bool) -> bool:
  """What process 0 has said, in every process."""
  if jax.process_count() == 1:
    return yes
  return bool(multihost_utils.broadcast_one_to_all(np.array(yes)))


def all_say(yes: bool) -> bool:
  """Whether every process says yes."""
  if jax.process_count() == 1:
    return yes
  return bool(np.all(multihost_utils.process_allgather(np.array(yes))))


def written_by_first(path: Path) -> str:
  """What process 0 has just written to a file, in every process; "" where it does not arrive.

  Some shared file systems show a new file to others only after a while.
  """
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices("crate_jax")
  deadline = time.monotonic() + SEEN_SECONDS
  while not path.exists() and time.monotonic() < deadline:
    time.sleep(0.2)
  return path.read_text() if path.exists() else ""


def finish() -> None:
  """Waits for the others, so that no process takes the end of another for its death."""
  if jax.distributed.is_initialized():
    jax.distributed.shutdown()


class Stopping:
  """Whether SIGTERM or Ctrl-C asks the run to stop: after the same step in every process.

  With one process the first signal asks, and the second ends the process at once. With several
  `jax.distributed` takes SIGTERM, and tells all which step to stop at
  (`multihost_utils.reached_preemption_sync_point`); Ctrl-C is handed on to it.

  Attributes:
    asked_by: the signal; SIGTERM where it was another process that was asked.
  """

  asked_by = signal.SIGTERM

  def __enter__(self) -> Self:
    self._asked, self._times = False, 0
    self._before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
      taken = [signal.SIGINT] if jax.distributed.is_initialized() else [*SIGNALS]
      for number in taken:
        if signal.getsignal(number) != signal.SIG_IGN:  # as of a shell's jobs in the background
          self._before[number] = signal.signal(number, self._ask)
    return self

  def __exit__(self, *exception: object) -> None:
    for number, before in self._before.items():
      signal.signal(number, before)

  def _ask(self, number: int, frame: FrameType | None) -> None:
    if self._asked:
      os._exit(128 + number)
    self._asked, self.asked_by = True, signal.Signals(number)
    if number == signal.SIGINT:  # a person, who may wait for it; no print, which may be under way
      os.write(2, b"\nstopping after this step; once more to end at once\n")
      if jax.distributed.is_initialized():
        os.kill(os.getpid(), signal.SIGTERM)

  def now(self) -> bool:
    """True if the run is to end here; to be asked after every update, in every process."""
    self._times += 1
    if jax.distributed.is_initialized():
      return multihost_utils.reached_preemption_sync_point(self._times)
    return self._asked
