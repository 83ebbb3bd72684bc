"""What a run says before its first step and after its last, and the facts in it."""

import math
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from crate_jax.config import Config
from crate_jax.model import flops, lm
from crate_jax.training import hardware
from crate_jax.training.plan import Plan, Roofline


def finite(value: Any) -> Any:
  """Nested values with None in place of NaN and infinities, which JSON does not have."""
  if isinstance(value, dict):
    return {key: finite(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [finite(item) for item in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value


def is_lead() -> bool:
  """True in process 0, the only one that prints and that writes a run's files."""
  return jax.process_index() == 0


def say(text: str = "") -> None:
  """Prints a line from process 0."""
  if is_lead():
    print(text, flush=True)


def printable(text: str) -> str:
  """A line of text with its control characters written out, so that none reaches a terminal."""
  return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def size(number: float) -> str:
  """Bytes for people: 12.3 MB, 4.5 GB (powers of 1,000)."""
  if math.isinf(number):
    return "unknown size"
  if number < 1e9:
    return f"{number / 1e6:.1f} MB"
  return f"{number / 1e9:.1f} GB"


def duration(seconds: float) -> str:
  """12s, 3m05s, 2h07m."""
  s = round(seconds)
  if s < 60:
    return f"{s}s"
  return f"{s // 60}m{s % 60:02d}s" if s < 3600 else f"{s // 3600}h{s % 3600 // 60:02d}m"


def _brief(seconds: float) -> str:
  """12.3 ms, 4.56 s."""
  return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


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


def before(config: Config, facts: dict[str, Any], plan: Plan, workdir: Path, step: int) -> None:
  """Says what is about to be trained, on what, and what it will take, as a table.

  Args:
    config: the run's.
    facts: its text's (`pipeline.Corpus.facts`).
    plan: the compiled step and what it measured.
    workdir: the run's folder.
    step: updates done so far.
  """
  model, m, train = model_facts(config), config.model, config.train
  count = model["parameters"]
  tokens = train.steps * train.batch_size * m.context
  exact, six_n = model["flops_per_token"], 6 * count
  epochs = tokens / facts["train_tokens"]
  norm = count - model["block_parameters"] - model["embedding_parameters"]
  mesh = ", ".join(f"{name} {size}" for name, size in plan.mesh.items())
  if plan.fits:
    left = plan.seconds_per_step * (train.steps - step)
    pace = train.batch_size * m.context / plan.seconds_per_step
    time = (
      f"about {duration(left)}, evaluations not counted: {pace:,.0f} tokens/s in "
      f"{plan.TRIALS} trial steps; compiled in {duration(plan.compile_seconds)}"
    )
  else:
    time = "not tried: the step does not fit the memory"
  rows = {
    "run": f"{workdir}" + (f", going on at step {step:,}" if step else ""),
    "architecture": f"{m.architecture}: {m.layers} layer{'s' * (m.layers > 1)}, "
    f"width {m.width}, {m.heads} heads, {m.codes:,} neurons a layer, context {m.context}, "
    f"{m.dtype}",
    "parameters": f"{count:,} = {model['block_parameters']:,} in blocks + "
    f"{model['embedding_parameters']:,} embedding (tied) + {norm:,} final norm; "
    f"{model['position_parameters']:,} positions not counted",
    "training FLOPs": f"{exact:,} per token, exact (6 N would say {six_n:,}, "
    f"{exact / six_n:.2f} times less); {exact * tokens:.2e} in all",
    "steps": f"{train.steps:,} of {train.batch_size} x {m.context} tokens"
    + (f" in {train.accumulation} parts" if train.accumulation > 1 else ""),
    "tokens": f"{tokens:,}: {tokens / count:.1f} per parameter, {epochs:.2f} epochs",
    "text": f"{facts['text']}: {facts['train_tokens']:,} training and "
    f"{facts['validation_tokens']:,} validation tokens",
    "sha256": f"training {facts['train_sha256'][:12]}, validation "
    f"{facts['validation_sha256'][:12]}, tokenizer {facts['tokenizer_sha256'][:12]}",
    "device": f"{environment()['device']}; mesh: {mesh}" + _peak(),
    "memory": f"{size(plan.state_bytes)} of state and {size(plan.step_bytes)} for a step"
    f", of {size(plan.device_bytes)} on each device",
    "time": time,
  }
  _table(rows)


def _peak() -> str:
  """The peak that utilisation is of, and who says so."""
  peaks = hardware.peaks(jax.devices()[0])
  return f"; peak {peaks.flops / 1e12:,.0f} TFLOP/s each ({peaks.source})" if peaks else ""


def _table(rows: dict[str, str]) -> None:
  say()
  for name, text in rows.items():
    say(f"  {name:<15} {text}")
  say()


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
    f"{duration(result['seconds'])}; training at {result['tokens_per_second']:,.0f} tokens/s"
  )
  say(
    f"  val_loss     {result['val_loss']:.4f}  nats per token"
    f" = {result['bits_per_byte']:.4f} bits per byte"
  )
  say(f"  train_loss   {result['train_loss']:.4f}")
  say(f"  unigram_loss {beside('unigram_loss')}")
  say(f"  bigram_loss  {beside('bigram_loss')}")
  say("\na sample, from the start of a document:")
  for line in result["sample"].strip().splitlines():
    say(f"  | {printable(line)}")
  say(f"\nwritten to {workdir}: result.json, loss.png, metrics.jsonl, tensorboard/, checkpoints/")


def planned(config: Config, topology: str, plan: Plan, roofline: Roofline | None) -> None:
  """Says what a step would take, and what that makes in a day; see `plan.compile_only`."""
  m, train = config.model, config.train
  devices = math.prod(plan.mesh.values())
  tokens = train.batch_size * m.context
  where = f"{plan.slices} x {topology}" if plan.slices > 1 else topology
  exchanges = plan.program.collectives()
  rows = {
    "model": f"{m.architecture}, {m.layers} layers of width {m.width}, context {m.context}, "
    f"{m.dtype}, remat {m.remat}: {model_facts(config)['parameters']:,} parameters",
    "devices": f"{devices} of {where or jax.devices()[0].device_kind}; mesh: "
    + ", ".join(f"{name} {size}" for name, size in plan.mesh.items()),
    "step": f"{train.batch_size:,} x {m.context:,} tokens"
    + (f" in {train.accumulation} parts" if train.accumulation > 1 else ""),
    "memory": f"{size(plan.state_bytes)} of state and {size(plan.step_bytes)} for a step, of "
    f"{size(plan.device_bytes)} on each device: {'fits' if plan.fits else 'DOES NOT FIT'}",
    "FLOPs": f"{tokens * flops.training_flops_per_token(m):.3e} in a step, "
    f"{tokens * flops.recomputed_flops_per_token(m):.3e} more for what is recomputed",
    "exchange": f"{size(sum(c.times * c.sent_bytes for c in exchanges))} sent by each device in "
    f"{sum(c.times for c in exchanges):,} exchanges of a step",
    "compiled in": duration(plan.compile_seconds),
  }
  if roofline:
    parts = ", ".join(f"{name} {_brief(seconds)}" for name, seconds in roofline.parts.items())
    rows |= {
      "at best": f"{_brief(roofline.seconds)} a step ({parts})",
      "that is": f"{roofline.mfu:.1%} of the devices' peak (MFU), "
      f"{86400 * tokens / roofline.seconds / 1e9:,.1f} B tokens a day",
      "peaks": f"{roofline.peaks.flops / 1e12:,.0f} TFLOP/s, "
      f"{roofline.peaks.memory_bandwidth / 1e9:,.0f} GB/s of memory, "
      f"{roofline.peaks.link_bandwidth / 1e9:,.0f} GB/s of links; {roofline.peaks.source}",
    }
  _table(rows)
