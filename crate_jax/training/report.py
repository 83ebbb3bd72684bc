"""What a run says: lines on the terminal, metrics.jsonl, result.json."""

import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import jax

from crate_jax.config import Config
from crate_jax.evaluation.loss import Loss
from crate_jax.model import flops, lm
from crate_jax.training.step import Metrics


class Clock:
  """Wall time of a run over all its restarts, and the part of it spent in training steps.

  A process's first step (compilation) and what happens in `paused` do not count as training.
  """

  def __init__(self, before: dict[str, Any]) -> None:
    """Starts the clock; `before` is what `totals` said at the checkpoint resumed from."""
    self._seconds = before.get("seconds", 0.0)
    self._train_seconds = before.get("train_seconds", 0.0)
    self._train_steps = before.get("train_steps", 0)
    self._started = time.monotonic()
    self._last: float | None = None

  def step_done(self) -> None:
    """Called whenever the device has finished one more step."""
    now = time.monotonic()
    if self._last is not None:
      self._train_seconds += now - self._last
      self._train_steps += 1
    self._last = now

  @contextmanager
  def paused(self) -> Iterator[None]:
    """Time in here is not training."""
    yield
    self._last = time.monotonic()

  def seconds_per_step(self) -> float:
    """Mean over the run; NaN before the second step."""
    return self._train_seconds / self._train_steps if self._train_steps else math.nan

  def totals(self) -> dict[str, Any]:
    """What the clock of a resumed run starts from."""
    seconds = self._seconds + time.monotonic() - self._started
    return {
      "seconds": seconds,
      "train_seconds": self._train_seconds,
      "train_steps": self._train_steps,
    }


class Reporter:
  """Says how training goes: lines on the terminal, and metrics.jsonl, a JSON object a line.

  A step's metrics are fetched when the next step is under way, so the device never waits for
  the host, and the host is never more than one step ahead of the device.
  """

  def __init__(self, path: Path, config: Config, step: int, clock: Clock) -> None:
    """Opens the metrics file, dropping what lies past the step that a run resumes at."""
    kept = []
    for line in path.read_text().splitlines() if path.exists() else []:
      try:
        if json.loads(line)["step"] <= step:
          kept.append(line + "\n")
      except json.JSONDecodeError:  # a line that was cut short
        continue
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("".join(kept))
    os.replace(temporary, path)
    self._file = path.open("a")
    self._config, self._clock = config, clock
    self._pending: tuple[int, Metrics] | None = None

  def step(self, step: int, metrics: Metrics) -> None:
    """Notes the metrics of an update just dispatched, and reports the update before it."""
    self._report()
    self._pending = (step, metrics)

  def flush(self) -> None:
    """Waits for the last update, reports it, and puts every line on disk."""
    self._report()
    self._file.flush()
    os.fsync(self._file.fileno())

  def evaluation(self, step: int, loss: Loss) -> None:
    """Reports an evaluation."""
    self._write(step, val_loss=loss.nats, bits_per_byte=loss.bits_per_byte)
    say(f"step {step:,}  val_loss {loss.nats:.4f}  {loss.bits_per_byte:.4f} bits per byte")

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception: object) -> None:
    """Closes the file; an update that is still pending when a run breaks off is not reported."""
    self._file.close()

  def _report(self) -> None:
    if self._pending is None:
      return
    step, metrics = self._pending
    self._pending = None
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    self._clock.step_done()
    train = self._config.train
    if step % train.log_every_steps and step != train.steps:
      return
    seconds = self._clock.seconds_per_step()
    tokens = train.batch_size * self._config.model.context
    self._write(step, **values, tokens=step * tokens, tokens_per_second=tokens / seconds)
    pace = ""
    if math.isfinite(seconds):  # not before the second step: the first one compiles
      pace = f"  {tokens / seconds:,.0f} tokens/s  {duration(seconds * (train.steps - step))} left"
    say(
      f"step {step:,}/{train.steps:,}  loss {values['loss']:.4f}  "
      f"grad {values['grad_norm']:.2f}  rate {values['learning_rate']:.2e}{pace}"
    )

  def _write(self, step: int, **values: float) -> None:
    self._file.write(json.dumps(finite({"step": step, **values})) + "\n")


def finite(value: Any) -> Any:
  """Nested dicts with None in place of NaN and infinities, which JSON does not have."""
  if isinstance(value, dict):
    return {key: finite(item) for key, item in value.items()}
  return None if isinstance(value, float) and not math.isfinite(value) else value


def say(text: str = "") -> None:
  """Prints a line from process 0."""
  if jax.process_index() == 0:
    print(text, flush=True)


def duration(seconds: float) -> str:
  """12s, 3m05s, 2h07m."""
  s = round(seconds)
  if s < 60:
    return f"{s}s"
  return f"{s // 60}m{s % 60:02d}s" if s < 3600 else f"{s // 3600}h{s % 3600 // 60:02d}m"


def model_facts(config: Config) -> dict[str, Any]:
  """Sizes of the model and what a token of training costs."""
  counts = lm.count_parameters(config.model)
  return {
    "architecture": config.model.architecture,
    "parameters": counts["total"],
    "block_parameters": counts["blocks"],
    "embedding_parameters": counts["embedding"],
    "position_parameters": counts["positions"],
    "flops_per_token": flops.training_flops_per_token(config.model),
  }


def environment() -> dict[str, str]:
  """Versions, device and commit that a number belongs to."""
  device = jax.devices()[0]
  kind = platform.machine() if device.platform == "cpu" else device.device_kind
  return {
    "python": platform.python_version(),
    "jax": jax.__version__,
    "flax": metadata.version("flax"),
    "device": f"{jax.device_count()} x {device.platform} ({kind}, {os.cpu_count()} cores)",
    "commit": _commit(),
  }


def _commit() -> str:
  """The package's git commit, marked if files have changed since; "unknown" outside git."""
  git = ["git", "-C", str(Path(__file__).parent)]
  try:
    run = {"capture_output": True, "text": True, "timeout": 10, "check": True}
    commit = subprocess.run([*git, "rev-parse", "HEAD"], **run).stdout.strip()  # type: ignore[call-overload]
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], **run).stdout.strip()  # type: ignore[call-overload]
  except (OSError, subprocess.SubprocessError):
    return "unknown"
  return commit + ("-dirty" if changed else "")


def before(config: Config, facts: dict[str, Any]) -> None:
  """Says what is about to be trained, on what."""
  model, train = model_facts(config), config.train
  tokens = train.steps * train.batch_size * config.model.context
  say(
    f"{model['architecture']}: {config.model.layers} layers, width {config.model.width}, "
    f"{model['parameters']:,} parameters ({model['block_parameters']:,} in blocks), "
    f"{model['flops_per_token'] / 1e6:.1f} MFLOP per training token"
  )
  say(
    f"text: {facts['text']}, {facts['train_tokens']:,} training and "
    f"{facts['validation_tokens']:,} validation tokens, sha256 {facts['train_sha256'][:12]}"
  )
  say(
    f"{train.steps:,} steps of {train.batch_size} x {config.model.context} tokens "
    f"= {tokens:,} tokens on {environment()['device']}"
  )


def after(result: dict[str, Any], workdir: Path) -> None:
  """Says how the run ended; what is not finite (None in the file) shows as nan."""
  result = {name: math.nan if value is None else value for name, value in result.items()}

  def beside(reference: str) -> str:
    gap = result["val_loss"] - result[reference]
    return (
      f"{result[reference]:.4f}  (val_loss is {abs(gap):.4f} {'above' if gap > 0 else 'below'})"
    )

  say(
    f"\nfinished: {result['steps']:,} steps, {result['tokens']:,} tokens in "
    f"{duration(result['seconds'])}, {result['tokens_per_second']:,.0f} tokens/s"
  )
  say(
    f"  val_loss     {result['val_loss']:.4f}  nats per token"
    f" = {result['bits_per_byte']:.4f} bits per byte"
  )
  say(f"  train_loss   {result['train_loss']:.4f}")
  say(f"  unigram_loss {beside('unigram_loss')}")
  say(f"  bigram_loss  {beside('bigram_loss')}")
  say(f"written to {workdir / 'result.json'}")
