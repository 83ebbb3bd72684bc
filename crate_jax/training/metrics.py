"""What a run measures as it goes: its clock, a progress line, and what goes to its sinks."""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TextIO

import jax
import tqdm

from crate_jax.config import Config
from crate_jax.data import pipeline
from crate_jax.model import flops
from crate_jax.training import hardware, processes, sinks
from crate_jax.training.report import duration, is_lead, say
from crate_jax.training.sinks import Sink, Value
from crate_jax.training.step import Metrics


class Clock:
  """Wall time of a run over all its restarts, and the part of it spent in training steps.

  A process's first step and what happens in `paused` (evaluating, saving) do not count as
  training; compilation is over before the first step.
  """

  def __init__(self, before: dict[str, Any]) -> None:
    """Starts the clock; `before` is what `totals` said at the checkpoint resumed from."""
    self._seconds = before.get("seconds", 0.0)
    self._train_tokens = before.get("train_tokens", 0)
    # Runs of before batches could change did not count tokens: their speed is that since then.
    self._train_seconds = before.get("train_seconds", 0.0) if self._train_tokens else 0.0
    self._started = time.monotonic()
    self._last: float | None = None
    self._own_seconds, self._own_steps = 0.0, 0

  def step_done(self, tokens: int) -> None:
    """Called whenever the device has finished one more step, of so many tokens."""
    now = time.monotonic()
    if self._last is not None:
      self._train_seconds += now - self._last
      self._train_tokens += tokens
      self._own_seconds += now - self._last
      self._own_steps += 1
    self._last = now

  @contextmanager
  def paused(self) -> Iterator[None]:
    """Time in here is not training."""
    yield
    self._last = time.monotonic()

  def tokens_per_second(self) -> float:
    """Mean over the run; NaN before the second step."""
    return self._train_tokens / self._train_seconds if self._train_tokens else math.nan

  def seconds_per_step(self) -> float:
    """Mean since this start, on the devices that are here; NaN before its second step."""
    return self._own_seconds / self._own_steps if self._own_steps else math.nan

  def totals(self) -> dict[str, Any]:
    """What the clock of a resumed run starts from."""
    seconds = self._seconds + time.monotonic() - self._started
    return {
      "seconds": seconds,
      "train_seconds": self._train_seconds,
      "train_tokens": self._train_tokens,
    }


class Reporter:
  """Says how training goes, from process 0 alone.

  On a terminal one progress line that is drawn over, elsewhere a plain line every
  `train.log_every_steps`; evaluations have lines of their own. The numbers go to metrics.jsonl (a
  JSON object a line), to TensorBoard's event files, and to Weights & Biases if that is asked for.

  "tokens_per_second" is a mean since this start, and so is "mfu", the share of the devices' peak
  that the model's exact FLOPs make up; it is there where the peak is known (`training.hardware`).

  A step's metrics are fetched when the next step is under way, so the device never waits for
  the host, and the host is never more than one step ahead of the device.

  Attributes:
    steps: updates applied, of those that are reported.
    skipped: batches drawn whose updates were not applied, because they were not finite.
    refused_in_a_row: how many of these were the last.
  """

  def __init__(
    self,
    workdir: Path,
    config: Config,
    step: int,
    clock: Clock,
    *,
    skipped: int = 0,
    wandb: str = "",
  ) -> None:
    """Opens the files, dropping what lies past the step that a run resumes at.

    Args:
      workdir: the run's folder.
      config: the run's.
      step: updates applied so far.
      clock: the run's.
      skipped: batches drawn so far whose updates were not.
      wandb: project on Weights & Biases to log to; "" for none.

    Raises:
      UserError: Weights & Biases is asked for and not installed.
    """
    self._config, self._clock = config, clock
    self.steps, self.skipped, self.refused_in_a_row = step, skipped, 0
    self._flops_per_token = flops.training_flops_per_token(config.model)
    peaks = hardware.peaks(jax.devices()[0])
    self._peak_flops = jax.device_count() * peaks.flops if peaks else 0.0
    self._pending: tuple[int, Metrics] | None = None
    self._sinks: list[Sink] = []
    self._evaluated: set[int] = set()
    self._bar: tqdm.tqdm | None = None
    if not is_lead():
      return
    if wandb:  # first, because it is the one that may refuse
      self._sinks.append(sinks.WeightsAndBiases(workdir, config, wandb))
    lines = sinks.JsonLines(workdir, step, skipped)
    self._evaluated = lines.evaluated
    self._sinks += [lines, sinks.TensorBoard(workdir, step)]
    if sys.stdout.isatty():
      self._bar = _progress_line(sys.stdout, step, config.train.steps)

  def note(self, examples: int, metrics: Metrics) -> None:
    """Notes the metrics of an update just dispatched, and reports the update before it.

    Args:
      examples: windows drawn up to its end.
      metrics: what it returned.
    """
    self._report()
    self._pending = (examples, metrics)

  def flush(self) -> None:
    """Waits for the last update, reports it, and puts everything on disk."""
    self._report()
    self._flush()

  def has_evaluated(self, step: int) -> bool:
    """True if a run resumed here has the numbers of its evaluation after this step."""
    return processes.first_says(step in self._evaluated)

  def evaluation(self, step: int, values: dict[str, Value]) -> None:
    """Reports an evaluation: val_loss, bits_per_byte, and gauges that have one value a layer.

    It is on disk before this returns: a checkpoint of the same step may follow, and what is
    trained again after a kill begins past it.
    """
    self._write(step, values)
    self._flush()
    self._say(
      f"step {step:,}  val_loss {values['val_loss']:.4f}  "
      f"{values['bits_per_byte']:.4f} bits per byte"
    )
    kind = "codes" if self._config.model.features == "ista" else "units"
    if values["nonzero"]:
      shares = "  ".join(f"{share:.1%}" for share in values["nonzero"])  # type: ignore[union-attr]
      self._say(f"  non-zero {kind} by layer      {shares}")
    if "eta_sigma2" in values:
      gauges = "  ".join(f"{x:.2f}" for x in values["eta_sigma2"])  # type: ignore[union-attr]
      self._say(f"  eta sigma_max(D)^2 by layer  {gauges}  (convergence is sure below 2)")

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception: object) -> None:
    """Closes everything; an update still pending when a run breaks off is not reported."""
    if self._bar is not None:
      self._bar.close()
    for sink in self._sinks:
      sink.close()

  def _report(self) -> None:
    if self._pending is None:
      return
    examples, metrics = self._pending
    self._pending, step = None, self.steps + 1
    fetched = dict(jax.device_get(metrics))
    batch_hash = pipeline.hexadecimal(fetched.pop("batch_hash"))
    applied = bool(fetched.pop("applied"))
    values = {name: float(value) for name, value in fetched.items()}
    train = self._config.train
    tokens = train.batch_size * self._config.model.context
    self._clock.step_done(tokens)
    if not applied:
      self._refused(step, values, batch_hash)
      return
    self.steps, self.refused_in_a_row = step, 0
    seconds = self._clock.seconds_per_step()
    pace = ""
    if math.isfinite(seconds):  # not before the second step
      pace = f"  {tokens / seconds:,.0f} tokens/s  {duration(seconds * (train.steps - step))} left"
    if self._bar is not None:
      self._bar.set_description_str(f"loss {values['loss']:.4f}{pace}", refresh=False)
      self._bar.update()
    if step % train.log_every_steps and step != train.steps:
      return
    if math.isfinite(seconds) and self._peak_flops:
      values["mfu"] = tokens / seconds * self._flops_per_token / self._peak_flops
      pace = f"  MFU {values['mfu']:.1%}{pace}"
    values["tokens"] = examples * self._config.model.context
    self._write(step, {**values, "tokens_per_second": tokens / seconds, "batch_hash": batch_hash})
    if self._bar is None:
      say(
        f"step {step:,}/{train.steps:,}  loss {values['loss']:.4f}  "
        f"grad {values['grad_norm']:.2f}  rate {values['learning_rate']:.2e}{pace}"
      )

  def _refused(self, step: int, values: dict[str, float], batch_hash: str) -> None:
    self.skipped += 1
    self.refused_in_a_row += 1
    self._say(
      f"step {step:,}  loss {values['loss']:.4f}  grad {values['grad_norm']:.2f}: not finite, so "
      f"nothing was changed, and its batch is passed over ({self.skipped:,} so far)"
    )
    self._write(step, {"skipped": self.skipped, "batch_hash": batch_hash})

  def _write(self, step: int, values: dict[str, Value]) -> None:
    for sink in self._sinks:
      sink.write(step, values)

  def _flush(self) -> None:
    for sink in self._sinks:
      sink.flush()

  def _say(self, text: str) -> None:
    """A line of its own; on a terminal above the progress line."""
    if self._bar is not None:
      self._bar.write(text, file=sys.stdout)
    else:
      say(text)


def _progress_line(file: TextIO, step: int, steps: int) -> tqdm.tqdm:
  """A bar that stands where it is and is redrawn ten times a second at most."""
  return tqdm.tqdm(
    initial=step,
    total=steps,
    file=file,
    dynamic_ncols=True,
    bar_format="step {n:,}/{total:,} |{bar:30}| {desc}",
  )
