"""Cells trained in processes of their own, some at a time, each on its share of the cores."""

import collections
import dataclasses
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType

import jax
from ml_collections import ConfigDict

from crate_jax import memory
from crate_jax.errors import Stopped, UserError
from crate_jax.scaling import cell as cell_lib
from crate_jax.scaling import grid as grid_lib
from crate_jax.scaling.grid import Cell
from crate_jax.training import report

COMPILED = "compiled"  # folder of JAX's cache of programs
ATTEMPTS = 3  # of a cell that breaks; what a sentence explains would be the same again
EXPLAINED = 64  # exit status of a process that printed such a sentence
STOP_SECONDS = 120  # that cells have to save where they are


@dataclasses.dataclass
class _Job:
  chain: collections.deque[Cell]  # its first is under way
  process: SpawnProcess
  attempt: int


def train(
  config: ConfigDict,
  cells: Sequence[Cell],
  workdir: Path,
  jobs: int,
  ended: Callable[[Cell], None],
  *,
  straight: bool = False,
) -> list[str]:
  """Trains cells, those of a trunk one after the other.

  Args:
    config: of the sweep, with `data.prepared`.
    cells: which, in the order in which their trunks are begun.
    workdir: the sweep's.
    jobs: processes at a time.
    ended: called with each cell that has ended.
    straight: each from its start.

  Returns:
    The names of those that broke.

  Raises:
    Stopped: a SIGTERM or Ctrl-C ended it, and every cell under way has saved where it is.
  """
  waiting = collections.deque(map(collections.deque, grid_lib.chains(cells)))
  running: dict[int, _Job] = {}
  broken: list[str] = []
  asked: list[int] = []

  def ask(number: int, frame: FrameType | None) -> None:
    asked.append(number)

  def start(slot: int, chain: collections.deque[Cell], attempt: int) -> None:
    arguments = (config, chain[0], workdir, _share(slot, jobs), straight)
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks
    process = context.Process(target=_work, args=arguments)
    process.start()
    running[slot] = _Job(chain, process, attempt)

  before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
  try:
    while (waiting or running) and not asked:
      for slot in range(jobs):
        if slot not in running and waiting:
          start(slot, waiting.popleft(), 1)
      time.sleep(0.1)
      for slot, job in list(running.items()):
        if asked or job.process.is_alive():
          continue
        del running[slot]
        cell = job.chain[0]
        if job.process.exitcode == 0 and cell_lib.result_path(workdir, cell.name).exists():
          job.chain.popleft()
          ended(cell)
        elif job.attempt < ATTEMPTS and job.process.exitcode != EXPLAINED:
          _say_broken(cell, workdir, job)
          start(slot, job.chain, job.attempt + 1)
          continue
        else:
          _say_broken(cell, workdir, job)
          broken.append(job.chain.popleft().name)  # the longer ones do not need it
        if job.chain:
          start(slot, job.chain, 1)
    if asked:
      raise Stopped("Stopped; the same command goes on.", 128 + asked[0])
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
    for job in running.values():
      job.process.terminate()
    for job in running.values():
      job.process.join(STOP_SECONDS)
      job.process.kill()
  return broken


def _say_broken(cell: Cell, workdir: Path, job: _Job) -> None:
  log = cell_lib.log(workdir, cell)
  said = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
  report.say(
    f"{cell.name} broke, attempt {job.attempt} of {ATTEMPTS}: "
    f"{said[-1] if said else 'nothing printed'} (exit status {job.process.exitcode})"
  )


def cores(jobs: int) -> int:
  """How many cores each of so many jobs has: as many as any other, because bits depend on it."""
  there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
  return max(1, there // jobs)


def _share(slot: int, jobs: int) -> set[int]:
  """The cores of one of the jobs; none where the system does not hand them out."""
  if not hasattr(os, "sched_getaffinity"):
    return set()
  there, count = sorted(os.sched_getaffinity(0)), cores(jobs)
  return {there[(slot * count + i) % len(there)] for i in range(count)}


def _work(config: ConfigDict, cell: Cell, workdir: Path, own: set[int], straight: bool) -> None:
  """Trains a cell in this process, which is made for it."""
  os.setsid()  # so that Ctrl-C reaches the sweep alone, which then asks each cell once
  if own:
    os.sched_setaffinity(0, own)  # before JAX makes its threads
  memory.keep_freed()
  threading.Thread(target=_end_with_parent, daemon=True).start()
  path = cell_lib.log(workdir, cell)
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("a") as log:
    os.dup2(log.fileno(), sys.stdout.fileno())
    os.dup2(log.fileno(), sys.stderr.fileno())
  # Cells of a shape are one program: the first compiles it.
  jax.config.update("jax_compilation_cache_dir", str((workdir / COMPILED).absolute()))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  try:
    cell_lib.train(config, cell, workdir, straight=straight)
  except Stopped as stopped:
    print(stopped, flush=True)
    os._exit(stopped.status)
  except UserError as error:
    print(f"error: {error}", flush=True)
    os._exit(EXPLAINED)


def _end_with_parent() -> None:
  """Ends this process when the one that started it has ended, however that was."""
  parent = multiprocessing.parent_process()
  if parent is not None:
    parent.join()
    os._exit(1)
