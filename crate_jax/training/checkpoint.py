"""Checkpoints: Orbax saves parameters, optimizer state, and what they belong to."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from crate_jax.config import CheckpointConfig
from crate_jax.errors import UserError
from crate_jax.training import processes
from crate_jax.training.step import TrainState


class Checkpoints:
  """The checkpoints of one run, WORKDIR/checkpoints/STEP, written asynchronously.

  Each holds the items "params", "optimizer", and "meta" (JSON: step, config, data facts,
  logical axis names of the parameters, clock). A step is there whole or not at all: Orbax
  commits it by renaming.
  """

  def __init__(self, workdir: Path, config: CheckpointConfig | None = None) -> None:
    options = ocp.CheckpointManagerOptions(
      max_to_keep=config.keep if config else None, enable_async_checkpointing=config is not None
    )
    self._manager = ocp.CheckpointManager(
      directory(workdir), options=options, item_names=("params", "optimizer", "meta")
    )

  def save(self, state: TrainState, meta: dict[str, Any]) -> None:
    """Starts to save a state under its step; returns once the state may be donated."""
    args = ocp.args.Composite(
      params=ocp.args.StandardSave(state.params),
      optimizer=ocp.args.StandardSave(state.opt_state),
      meta=ocp.args.JsonSave({"step": int(state.step), **meta}),
    )
    with _interrupt_held_back():
      self._manager.save(int(state.step), args=args)

  def save_params(self, step: int, params: Any, meta: dict[str, Any]) -> None:
    """Saves parameters that have no optimizer state, because they were trained elsewhere."""
    args = ocp.args.Composite(
      params=ocp.args.StandardSave(params), meta=ocp.args.JsonSave({"step": step, **meta})
    )
    self._manager.save(step, args=args)

  def restore(self, step: int, like: TrainState) -> TrainState:
    """The state of a step, with the shapes, types and shardings of `like`."""
    items = self._manager.restore(
      step,
      args=ocp.args.Composite(
        params=ocp.args.StandardRestore(_abstract(like.params)),
        optimizer=ocp.args.StandardRestore(_abstract(like.opt_state)),
      ),
    )
    count = jax.device_put(jax.numpy.asarray(step, like.step.dtype), like.step.sharding)
    return TrainState(count, items["params"], items["optimizer"])

  def restore_params(self, step: int, like: Any) -> Any:
    """The parameters alone; leaves of `like` without a sharding go to the first device."""
    here = SingleDeviceSharding(jax.devices()[0])

    def placed(x: Any) -> jax.ShapeDtypeStruct:
      return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None) or here)

    like = jax.tree.map(placed, like)
    args = ocp.args.Composite(params=ocp.args.StandardRestore(_abstract(like)))
    return self._manager.restore(step, args=args)["params"]

  def meta(self, step: int) -> dict[str, Any]:
    """What was saved beside the arrays."""
    args = ocp.args.Composite(meta=ocp.args.JsonRestore())
    return self._manager.restore(step, args=args)["meta"]

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception: object) -> None:
    """Waits until everything is on disk, whatever ended the run."""
    self._manager.wait_until_finished()
    self._manager.close()


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

  def due(self, step: int) -> bool:
    """True if the state after update number `step` is to be saved; then the clock restarts."""
    c = self._config
    by_step = c.every_steps > 0 and step % c.every_steps == 0
    by_time = False
    if c.every_minutes > 0 and step % self._agree_every == 0:
      by_time = processes.first_says(self._clock() - self._last >= 60 * c.every_minutes)
    if by_step or by_time:
      self._last = self._clock()
    return by_step or by_time


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


@contextmanager
def _interrupt_held_back() -> Iterator[None]:
  """Lets Ctrl-C take effect after this: interrupted itself, Orbax logs tracebacks of its own."""
  if threading.current_thread() is not threading.main_thread():  # where signals never arrive
    yield
    return
  held: list[int] = []
  before = signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
  try:
    yield
  finally:
    signal.signal(signal.SIGINT, before)
  if held:
    raise KeyboardInterrupt


def _abstract(tree: Any) -> Any:
  return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
