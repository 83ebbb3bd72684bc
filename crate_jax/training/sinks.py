"""Where a run's numbers go: metrics.jsonl, TensorBoard, Weights & Biases."""

import json
import math
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from crate_jax import config as config_lib
from crate_jax.config import Config
from crate_jax.data import atomic
from crate_jax.errors import UserError
from crate_jax.training import report
from crate_jax.training import workdir as files

Value = float | str | Sequence[float]  # a sequence has one entry a layer


class Sink(Protocol):
  """Where numbers go."""

  def write(self, step: int, values: dict[str, Value]) -> None:
    """Takes the values of a step."""

  def flush(self) -> None:
    """Puts on disk what was written."""

  def close(self) -> None:
    """Ends it."""


class JsonLines:
  """metrics.jsonl; a restart takes back the lines past the point that it starts from.

  Attributes:
    evaluated: steps whose evaluations it held then.
  """

  def __init__(self, workdir: Path, step: int, skipped: int) -> None:
    path = workdir / files.METRICS

    def stays(line: dict[str, Any]) -> bool:
      # The updates refused last were to be that of the next step, and do not come again.
      refused = line["step"] == step + 1 and line.get("skipped", skipped + 1) <= skipped
      return bool(line["step"] <= step or refused)

    kept = [line for line in files.read_metrics(workdir) if stays(line)]
    self.evaluated = {line["step"] for line in kept if "val_loss" in line}
    atomic.write(path, "".join(json.dumps(line) + "\n" for line in kept))
    self._file = path.open("a")

  def write(self, step: int, values: dict[str, Value]) -> None:
    self._file.write(json.dumps(report.finite({"step": step, **values})) + "\n")

  def flush(self) -> None:
    self._file.flush()
    os.fsync(self._file.fileno())

  def close(self) -> None:
    self._file.close()


class TensorBoard:
  """Event files in WORKDIR/tensorboard; a restart tells TensorBoard what it takes back.

  Not by tensorboardX's SummaryWriter: its thread dies of a full disk, and what it left unread
  then stops the run for ever.
  """

  def __init__(self, workdir: Path, step: int) -> None:
    folder = workdir / files.TENSORBOARD
    folder.mkdir(exist_ok=True)
    suffix = f".{step:09d}"  # another file even for a restart within the same second
    self._writer = EventsWriter(str(folder / "events"), suffix)
    start = SessionLog(status=SessionLog.START)
    # Takes back all from this step on; also at 0: a run that never saved starts again.
    self._writer.write_event(Event(wall_time=time.time(), step=step + 1, session_log=start))

  def write(self, step: int, values: dict[str, Value]) -> None:
    now = time.time()
    for tag, value in scalars(values).items():
      self._writer.write_event(Event(wall_time=now, step=step, summary=scalar(tag, value)))

  def flush(self) -> None:
    self._writer.flush()

  def close(self) -> None:
    self._writer.close()


class WeightsAndBiases:
  """A run on Weights & Biases, the same one after a restart."""

  def __init__(self, workdir: Path, config: Config, project: str) -> None:
    wandb = require_wandb()
    try:
      self._run = wandb.init(
        project=project,
        dir=str(workdir),
        id=_wandb_id(workdir / files.WANDB_ID),
        name=workdir.name,
        resume="allow",
        config=config_lib.to_dict(config),
        settings=wandb.Settings(silent=True, console="off"),
      )
    except wandb.Error as error:
      raise UserError(
        f"--wandb={project}: {str(error).rstrip('.')}; or set WANDB_MODE=offline."
      ) from error

  def write(self, step: int, values: dict[str, Value]) -> None:
    self._run.log(scalars(values), step=step)

  def flush(self) -> None:
    """Nothing to do: its own process has what was logged."""

  def close(self) -> None:
    self._run.finish()


def require_wandb() -> Any:
  """The module, imported only where it is asked for.

  Raises:
    UserError: it is not installed.
  """
  try:
    import wandb
  except ImportError as error:
    raise UserError(
      '--wandb needs the package wandb: run "EXTRAS=wandb launch/local.sh --help" once.'
    ) from error
  return wandb


def _wandb_id(path: Path) -> str:
  """The run's name at Weights & Biases, made once."""
  if not path.exists():
    path.write_text(secrets.token_hex(8))
  return path.read_text()


def scalars(values: dict[str, Value]) -> dict[str, float]:
  """Finite numbers by name: a gauge of each layer is NAME/layer_01, NAME/layer_02, ..."""
  flat: dict[str, float] = {}
  for name, value in values.items():
    if isinstance(value, str):  # TensorBoard draws numbers
      continue
    if not isinstance(value, float | int):
      flat |= {f"{name}/layer_{i + 1:02d}": x for i, x in enumerate(value)}
    else:
      flat[name] = value
  return {name: value for name, value in flat.items() if math.isfinite(value)}
