"""Checkpoints: Orbax saves parameters, optimizer state, and what they belong to."""

import contextlib
import functools
import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import jax
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from crate_jax.config import CheckpointConfig
from crate_jax.data import seal
from crate_jax.errors import UserError
from crate_jax.training import processes, report
from crate_jax.training.digest import digests
from crate_jax.training.step import TrainState


class Damaged(Exception):
  """A checkpoint is not what was saved; the message names the file, item or array."""


class Checkpoints:
  """The checkpoints of one run, WORKDIR/checkpoints/STEP, written asynchronously.

  Each holds the items "params", "optimizer", and "meta" (JSON: step, config, data facts,
  logical axis names of the parameters, clock, digests of all arrays, and the SHA-256 of all that).
  A step is there whole or not at all: Orbax commits it by renaming. What is read is checked
  against the digests, because nothing below this does: a flipped bit in an array's file would be
  read as another number.
  """

  def __init__(self, workdir: Path, config: CheckpointConfig | None = None) -> None:
    self._workdir, self._config = workdir, config

  @functools.cached_property
  def _manager(self) -> ocp.CheckpointManager:
    """What writes; it is not asked to read, because one damaged step is too much for it."""
    config = self._config
    options = ocp.CheckpointManagerOptions(
      max_to_keep=config.keep if config else None, enable_async_checkpointing=config is not None
    )
    names = ("params", "optimizer", "meta")
    return ocp.CheckpointManager(directory(self._workdir), options=options, item_names=names)

  def save(self, state: TrainState, meta: dict[str, Any]) -> None:
    """Starts to save a state under its step; returns once the state may be donated.

    One that is saved already is left as it is (Orbax saves none but later steps).

    Raises:
      UserError: this or the save before it could not be written.
    """
    self._save(int(state.step), {"params": state.params, "optimizer": state.opt_state}, meta)

  def save_params(self, step: int, params: Any, meta: dict[str, Any]) -> None:
    """Saves parameters that have no optimizer state, because they were trained elsewhere."""
    self._save(step, {"params": jax.device_put(params)}, meta)

  def _save(self, step: int, items: dict[str, Any], meta: dict[str, Any]) -> None:
    sums = {name: digests(tree) for name, tree in items.items()}
    described = seal.sealed({"step": step, **meta, "digests": sums})
    args = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
    with self._writing():
      self._manager.save(step, args=ocp.args.Composite(**args, meta=ocp.args.JsonSave(described)))

  def finish(self) -> None:
    """Returns once all that was saved is on disk.

    Raises:
      UserError: it could not be written.
    """
    if "_manager" in self.__dict__:
      with self._writing():
        self._manager.wait_until_finished()

  def restore(self, step: int, like: TrainState) -> TrainState:
    """The state of a step, with the shapes, types and shardings of `like`, as `restore_params`.

    Raises:
      Damaged: it is not what was saved.
    """
    items = self._restore(step, {"params": like.params, "optimizer": like.opt_state})
    count = jax.device_put(jax.numpy.asarray(step, like.step.dtype), like.step.sharding)
    return TrainState(count, items["params"], items["optimizer"])

  def restore_params(self, step: int, like: Any) -> Any:
    """The parameters alone; leaves of `like` without a sharding go to the first device.

    Raises:
      Damaged: they are not what was saved.
    """
    return self._restore(step, {"params": like})["params"]

  def meta(self, step: int) -> dict[str, Any]:
    """What was saved beside the arrays.

    Raises:
      Damaged: it is not what was saved.
    """
    folder = self._folder(step, "meta")

    def read() -> dict[str, Any]:
      _check_files(self._folder(step))
      meta = json.loads((folder / "metadata").read_text())  # as Orbax's JsonSave names it
      if not isinstance(meta, dict) or meta.get("step") != step:
        raise Damaged(f"{folder} is not that of step {step}")
      # Those of version 0.1.0 have neither digests nor a seal.
      if set(meta) & {"digests", seal.KEY} and not seal.is_whole(meta):
        raise Damaged(f"{folder} does not have the SHA-256 that it names")
      return {key: value for key, value in meta.items() if key != seal.KEY}

    return _read_by_all(folder, read)

  def _restore(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
    """Items by name, as `like` has them, each checked."""
    saved = self.meta(step).get("digests")
    items = {}
    for name, tree in like.items():  # one by one, to say which is damaged
      folder = self._folder(step, name)
      read = functools.partial(self._read_item, step, name, tree)
      items[name] = _read_by_all(folder, read)
      now = digests(items[name])
      if saved is not None and now != saved[name]:
        wrong = [path for path in now if now[path] != saved[name].get(path)]
        where = f"the array {wrong[0]}" if wrong else "an array"
        raise Damaged(f"{where} of {folder} does not have the digest it had")
    return items

  def _read_item(self, step: int, name: str, like: Any) -> Any:
    here = SingleDeviceSharding(jax.devices()[0])

    def placed(x: Any) -> jax.ShapeDtypeStruct:
      return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None) or here)

    _check_shapes(self._folder(step, name), like)
    args = ocp.args.StandardRestore(jax.tree.map(placed, like))
    # Each process reads by itself: one that cannot must not leave the others waiting inside.
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(me, {me}, barrier_sync_key_prefix=f"reader{me}")
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
      return reader.restore(self._folder(step, name), args=args)

  def _folder(self, step: int, item: str = "") -> Path:
    return directory(self._workdir) / str(step) / item

  @contextmanager
  def _writing(self) -> Iterator[None]:
    """Says what a failed save means. It may be that of the save before, which ran beside."""
    try:
      yield
    except (ValueError, OSError, RuntimeError) as error:
      if not re.search(_FULL, str(error)):
        raise
      raise UserError(
        f"A checkpoint could not be written, because the disk that holds {self._workdir} is full; "
        f"whole ones are those of the steps {steps(self._workdir)}. With more room the same "
        "command goes on from the newest."
      ) from error

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception: object) -> None:
    """Waits until everything is on disk, whatever ended the run."""
    if "_manager" not in self.__dict__:  # nothing was written
      return
    with contextlib.nullcontext() if exception[0] is None else contextlib.suppress(Exception):
      self.finish()
    with contextlib.suppress(Exception):  # says the same again
      self._manager.close()


_FULL = "RESOURCE_EXHAUSTED|No space left|Disk quota exceeded|ENOSPC"
# What may pass, or lies with whoever runs this: no reason to do without a checkpoint.
_NOT_DAMAGE = "PERMISSION_DENIED|Permission denied|RESOURCE_EXHAUSTED|UNAVAILABLE|DEADLINE|Too many"


T = TypeVar("T")


def _read_by_all(what: Path, read: Callable[[], T]) -> T:
  """What `read` returns, if it does so in every process.

  Whatever a broken file makes it raise in one, all raise `Damaged`, so that they go on together.
  """
  found, damage = None, None
  try:
    found = read()
  except Damaged as error:
    damage = error
  except (UserError, MemoryError):
    raise
  except Exception as error:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    reason = reason.partition(". See full TensorStore details")[0].rstrip(".")
    if re.search(_NOT_DAMAGE, str(error)):
      raise UserError(f"{what} cannot be read: {reason}.") from error
    damage = Damaged(f"{what} cannot be read: {reason[:200]}")
  if not processes.all_say(damage is None):
    raise damage or Damaged(f"{what} cannot be read by another process")
  return found  # type: ignore[return-value]


def _check_files(folder: Path) -> None:
  """Refuses links: what they lead to is no part of the checkpoint."""
  for path in [folder, *folder.rglob("*")]:
    if path.is_symlink():
      raise Damaged(f"{path} is a link")


def _check_shapes(folder: Path, like: Any) -> None:
  """Refuses arrays of other shapes than those expected, before memory is taken for them.

  The files say the shape of an array, and of the chunks that it is read in: a few bytes of them
  could ask for any amount of memory.
  """
  with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
    found = jax.tree.leaves(handler.metadata(folder).tree)
  for array in found:
    chunk = array.storage.chunk_shape if array.storage else array.shape
    if math.prod(chunk) > math.prod(array.shape):
      raise Damaged(f"{folder}: {array.name} is of shape {array.shape} in chunks of {chunk}")
  sizes = sorted((tuple(x.shape), str(x.dtype)) for x in jax.tree.leaves(like))
  if sorted((tuple(x.shape), str(x.dtype)) for x in found) != sizes:
    raise Damaged(f"{folder} holds arrays of other shapes than its config says")
  asked = sum(math.prod(shape) * jax.numpy.dtype(kind).itemsize for shape, kind in sizes)
  there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * jax.process_count()
  if asked > there:
    raise UserError(
      f"{folder} holds {report.size(asked)} of arrays; there are {report.size(there)} of memory."
    )


def read_newest(
  workdir: Path, read: Callable[[Checkpoints, int], T], step: int | None = None
) -> tuple[int, T]:
  """Reads the newest checkpoint that is what was saved; says so where it is not the newest.

  Args:
    workdir: the run's folder.
    read: of the checkpoints and a step; several processes call it together.
    step: the only one wanted; by default whichever is whole.

  Returns:
    Its step, and what `read` returned.

  Raises:
    UserError: there is no checkpoint, or none that is whole.
  """
  choose_step(workdir, step)
  damage = ""
  with Checkpoints(workdir) as store:
    for candidate in [step] if step is not None else reversed(steps(workdir)):
      try:
        return candidate, read(store, candidate)
      except Damaged as error:
        damage = str(error)
      sentence = f"The checkpoint of step {candidate} is damaged: {damage}."
      print(sentence, file=sys.stderr, flush=True)
  which = f"the checkpoint of step {step}" if step is not None else "no checkpoint"
  verb = "is damaged" if step is not None else "is whole"
  raise UserError(
    f"{workdir}: {which} {verb} ({damage}). To start over, move its checkpoints away."
  )


def set_aside(workdir: Path, after: int) -> None:
  """Moves the checkpoints past a step out of the way, to WORKDIR/damaged, and removes leftovers.

  Args:
    workdir: the run's folder, which nobody else writes to.
    after: the step that the run goes on from.
  """
  if not directory(workdir).exists():
    return
  for path in directory(workdir).iterdir():
    if ocp.utils.TMP_DIR_SUFFIX in path.name:  # of a save that was killed
      shutil.rmtree(path)
    elif path.name.isdigit() and int(path.name) > after:
      place = workdir / "damaged" / path.name
      place.parent.mkdir(exist_ok=True)
      shutil.rmtree(place, ignore_errors=True)
      path.rename(place)
      report.say(f"{path} was moved to {place}")


class SavePolicy:
  """When to save: every so many steps, and every so many minutes of process 0's clock."""

  def __init__(
    self, config: CheckpointConfig, agree_every: int, clock: Callable[[], float] = time.monotonic
  ) -> None:
    """Starts the clock.

    Args:
      config: the intervals.
      agree_every: steps after which several processes ask the first what time it is; their own
        clocks differ, and all must save after the same step. One process asks at every step.
      clock: seconds.
    """
    self._config, self._clock, self._last = config, clock, clock()
    self._agree_every = agree_every if jax.process_count() > 1 else 1

  def saved(self) -> None:
    """Restarts the clock."""
    self._last = self._clock()

  def due(self, step: int) -> bool:
    """True if the state after update number `step` is to be saved."""
    c = self._config
    by_time = False
    if c.every_minutes > 0 and step % self._agree_every == 0:
      by_time = processes.first_says(self._clock() - self._last >= 60 * c.every_minutes)
    return by_time or (c.every_steps > 0 and step % c.every_steps == 0)


def directory(workdir: Path) -> Path:
  """Where a run's checkpoints lie; absolute, as Orbax demands."""
  return (workdir / "checkpoints").absolute()


def steps(workdir: Path) -> list[int]:
  """The steps that a run has whole checkpoints of, in order."""
  folder = directory(workdir)
  return sorted(ocp.utils.checkpoint_steps(folder)) if folder.exists() else []


def choose_step(workdir: Path, step: int | None) -> int:
  """The step asked for, or the newest.

  Raises:
    UserError: there is no checkpoint, or none of that step.
  """
  saved = steps(workdir)
  if not saved:
    raise UserError(f"{workdir} holds no checkpoint: it is not the work directory of a run.")
  if step is not None and step not in saved:
    raise UserError(f"{workdir} has no checkpoint of step {step}; it has {saved}.")
  return saved[-1] if step is None else step
