"""A preparation on this machine: one process reads, one on each core tokenises."""

import collections
import contextlib
import errno
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import tqdm

from crate_jax.data import preparation, shards
from crate_jax.data.preparation import Encoded, Encoder, Preparation, Unit
from crate_jax.data.sources import Part, Source
from crate_jax.data.splits import Selection
from crate_jax.errors import UserError


def prepare(work: Preparation) -> dict[str, Any]:
  """Does all that is left of a preparation on this machine's cores; returns the manifest.

  Raises:
    UserError: a source cannot be read, the disk is full, or a worker was killed; what is done
      stays, and the next call goes on from it.
  """
  if work.finished:
    work.clean()
    return shards.read_manifest(work.out, "--out")
  total = sum(part.size for parts in work.parts.values() for part in parts)
  with _explained(work.out), _Progress(total) as progress:
    for chosen in work.selections:
      _prepare_split(work, chosen, progress)
    return work.finish()


def _prepare_split(work: Preparation, chosen: Selection, progress: "_Progress") -> None:
  gathered: list[Encoded] = []
  for unit, encoded in _encode_all(work, chosen, progress):
    gathered.append(encoded)
    if unit.last or len(gathered) == preparation.SHARD_UNITS:
      number = unit.number // preparation.SHARD_UNITS
      work.write_shard(chosen.split, unit.part, number, gathered, unit.last)
      gathered = []


def _encode_all(
  work: Preparation, chosen: Selection, progress: "_Progress"
) -> Iterator[tuple[Unit, Encoded]]:
  """Every unit that no shard holds yet, in order, tokenised by as many processes as cores."""
  workers = _cores()
  waiting: collections.deque[tuple[Unit, int, Future[Encoded]]] = collections.deque()
  pool = ProcessPoolExecutor(
    workers,
    mp_context=multiprocessing.get_context("spawn"),  # a fork would copy the threads' locks
    initializer=_start_worker,
    initargs=(work.encoder(chosen),),
  )

  def first_waiting() -> tuple[Unit, Encoded]:
    unit, size, future = waiting.popleft()
    encoded = future.result()
    progress.add(work.parts[chosen.split][unit.part], unit, size)
    return unit, encoded

  try:
    for unit in _units_left(work, chosen.split, chosen.source, progress):
      size = sum(len(record.data) for record in unit.records)
      waiting.append((unit._replace(records=[]), size, pool.submit(_encode, unit)))
      if len(waiting) > 2 * workers:  # enough to keep them busy; more would only take memory
        yield first_waiting()
    while waiting:
      yield first_waiting()
  finally:
    pool.shutdown(wait=False, cancel_futures=True)


def _units_left(
  work: Preparation, split: str, source: Source, progress: "_Progress"
) -> Iterator[Unit]:
  for index, part in enumerate(work.parts[split]):
    done = work.records(split, index)
    if done and done[-1]["last"]:
      progress.skip(part)
      continue
    for unit in preparation.units(source, index, part):
      if unit.number >= len(done) * preparation.SHARD_UNITS:
        yield unit


def _cores() -> int:
  """Those that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


_encoder: Encoder | None = None  # of a worker process


def _start_worker(encoder: Encoder) -> None:
  global _encoder
  _encoder = encoder
  os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each core has a process of its own
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that reads
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  """Ends this process when the one that started it has ended, however that was."""
  parent = multiprocessing.parent_process()
  if parent is not None:
    parent.join()
    os._exit(1)


def _encode(unit: Unit) -> Encoded:
  assert _encoder is not None
  return _encoder(unit)


class _Progress:
  """A line on a terminal, a line every half minute elsewhere: share done, MB/s, time left."""

  def __init__(self, total: int) -> None:
    terminal = sys.stderr.isatty()
    self._bar = tqdm.tqdm(
      total=total,
      file=sys.stderr,
      dynamic_ncols=terminal,
      mininterval=0.1 if terminal else 30,
      maxinterval=0.1 if terminal else 30,
      bar_format="{percentage:3.0f}% |{bar:30}| {desc}  {remaining} left",
    )
    self._started, self._bytes, self._before = time.monotonic(), 0, 0

  def add(self, part: Part, unit: Unit, size: int) -> None:
    """A unit of so many bytes of text is tokenised."""
    self._bytes += size
    speed = self._bytes / 1e6 / (time.monotonic() - self._started)
    self._bar.set_description_str(f"{speed:.1f} MB/s", refresh=False)
    self._bar.update(self._before + unit.done - self._bar.n)
    if unit.last:
      self._before += part.size

  def skip(self, part: Part) -> None:
    """A part was done before."""
    self._before += part.size
    self._bar.initial += part.size  # so that it does not count as speed
    self._bar.update(part.size)

  def __enter__(self) -> "_Progress":
    return self

  def __exit__(self, *exception: object) -> None:
    self._bar.close()


@contextlib.contextmanager
def _explained(out: Path) -> Iterator[None]:
  """Turns what the machine raises into a sentence."""
  again = "What is prepared stays; run the same command again to go on."
  try:
    yield
  except OSError as error:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    what = "the disk is full" if full else str(error)
    raise UserError(f"--out={out} cannot be written: {what}. {again}") from error
  except BrokenProcessPool as error:
    raise UserError(
      f"A process that tokenises was killed, perhaps for lack of memory. {again}"
    ) from error
