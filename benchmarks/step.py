"""Speed of a training step: ours, the released arithmetic in PyTorch, matrix products alone.

Every contestant is a process of its own (`benchmarks/turns.py`). Prints a table; with --out writes
OUT/step-SHAPE.md and .json.

  python benchmarks/step.py --shape=small --out=benchmarks/speed
  python benchmarks/step.py --shape=small --before=../old   # another checkout's step beside ours

Needs torch, except for --contestants="jax crate,jax gpt2".
"""

import os
import statistics
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks import turns
from benchmarks.turns import Ready
from crate_jax import cli

ALL = [
  f"{name} {architecture}"
  for architecture in ("crate", "gpt2")
  for name in ("jax", "torch eager", "torch compiled")
]
PRODUCTS = ["jax product", "torch product"]

CONTESTANTS = flags.DEFINE_list(
  "contestants", ALL + PRODUCTS, "What is timed; 'deterministic crate' is for GPUs."
)
BEFORE = flags.DEFINE_string("before", "", "Another checkout: its crate and gpt2 are timed too.")


def main() -> None:
  """Lets all contestants compile, then times them in turns."""
  if turns.AS.value:
    return turns.contend(_make)
  names = list(CONTESTANTS.value)
  if BEFORE.value:
    names += [f"before {name}" for name in ("crate", "gpt2") if f"jax {name}" in names]
  contestants = []
  for name in names:
    root = Path(BEFORE.value) if name.startswith("before") else turns.ROOT
    environment = {}
    if name.startswith("deterministic"):
      xla = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"
      environment["XLA_FLAGS"] = xla
    contestants.append(turns.Contestant(__file__, name, root=root, environment=environment))
  _report(*turns.measure(contestants))


def _make() -> Ready:
  framework, *kind, what = turns.AS.value.split()
  if framework == "torch":
    return _torch(what, compiled=kind == ["compiled"])
  return _jax(what, deterministic=framework == "deterministic")


def _jax(what: str, *, deterministic: bool) -> Ready:
  import jax
  import jax.numpy as jnp
  import numpy as np

  from crate_jax.model import flops
  from crate_jax.training import program

  device = jax.devices()[0]
  facts = {"device": device.device_kind, "jax": jax.__version__}

  def memory() -> int | None:
    return (device.memory_stats() or {}).get("peak_bytes_in_use")

  if what == "product":
    n = _product_width()
    a = jnp.asarray(np.random.default_rng(0).normal(size=(n, n)), turns.shape().dtype)
    product = jax.jit(lambda a, b: (a @ b) / n**0.5)

    def multiply(steps: int) -> None:
      b = a
      for _ in range(steps):
        b = product(a, b)
      b.block_until_ready()

    return Ready(facts | {"flops": 2 * n**3}, multiply, memory)
  # XLA's deterministic operations fail with cuDNN's attention.
  c = turns.config(what, attention="plain" if deterministic else "auto")
  built = program.build(c)
  tokens = c.train.batch_size * c.model.context
  sizes = {"flops": flops.training_flops_per_token(c.model) * tokens, "tokens": tokens}
  return Ready(facts | sizes, turns.updates(built, c, built.update), memory)


def _torch(what: str, *, compiled: bool) -> Ready:
  import torch

  from benchmarks import released

  layers, width, heads, context, vocabulary, batch, dtype = turns.shape()
  gpu = torch.cuda.is_available()
  device = torch.device("cuda" if gpu else "cpu")
  torch.set_float32_matmul_precision("high" if dtype == "bfloat16" else "highest")
  name = torch.cuda.get_device_name() if gpu else "cpu"
  facts = {"device": name, "torch": torch.__version__}

  def memory() -> int | None:
    return torch.cuda.max_memory_allocated() if gpu else None

  def synchronise() -> None:
    if gpu:
      torch.cuda.synchronize()

  torch.manual_seed(0)
  if what == "product":
    n = _product_width()
    a = torch.randn(n, n, dtype=getattr(torch, dtype), device=device)

    def multiply(steps: int) -> None:
      b = a
      for _ in range(steps):
        b = (a @ b) / n**0.5
      synchronise()

    return Ready(facts | {"flops": 2 * n**3}, multiply, memory)
  block = {"crate": released.CrateBlock, "gpt2": released.GPT2Block}[what]
  model = released.Model(block, width, heads, layers, context, vocabulary)
  tokens = torch.randint(vocabulary, (batch, context + 1), device=device)
  step = released.Step(model, tokens, half=dtype == "bfloat16", compiled=compiled)

  def train(steps: int) -> None:
    for _ in range(steps):
      step.run()
    synchronise()

  return Ready(facts | {"tokens": batch * context}, train, memory)


def _product_width() -> int:
  return 8192 if turns.shape().dtype == "bfloat16" else 2048


def _report(facts: dict[str, dict[str, Any]], seconds: dict[str, list[float]]) -> None:
  from crate_jax.training import hardware, report

  layers, width, heads, context, vocabulary, batch, dtype = turns.shape()
  ceilings = {
    name.split()[0]: facts[name]["flops"] / statistics.median(seconds[name])
    for name in PRODUCTS
    if name in facts
  }
  lines = [
    f"{layers} layers, width {width}, {heads} heads, context {context}, vocabulary {vocabulary:,}, "
    f"batch {batch}, {dtype}. Medians of {len(next(iter(seconds.values())))} rounds in turns, "
    "lowest to highest in brackets; a ratio is of two turns of one round. FLOPs are the model's "
    "own, counted once for all (docs/speed.md), also where more or fewer were done.",
    "",
    "| | ms a step | tokens/s | times ours | TFLOP/s | of the product's | MFU | memory |",
    "|---|---|---|---|---|---|---|---|",
  ]
  for name, times in seconds.items():
    what, fact = name.split()[-1], facts[name]
    ours = f"jax {what}" in seconds and what != "product"
    ratio = turns.spread(turns.ratios(seconds, name, f"jax {what}")) if ours else ""
    count = facts.get(f"jax {what}", fact).get("flops")
    rate = count / statistics.median(times) if count else None
    ceiling = ceilings.get("torch" if name.startswith("torch") else "jax")
    tokens = f"{fact['tokens'] / statistics.median(times):,.0f}" if "tokens" in fact else ""
    peak = next((p.flops for k, p in hardware.PEAKS if fact["device"].startswith(k)), None)
    cells = [
      turns.spread([1e3 * t for t in times], 1),
      tokens,
      ratio,
      f"{rate / 1e12:.3f}" if rate else "",
      f"{rate / ceiling:.0%}" if rate and ceiling and what != "product" else "",
      f"{rate / peak:.1%}" if rate and peak else "",
      report.size(fact["peak_bytes"]) if fact["peak_bytes"] else "",
    ]
    lines.append(f"| {name} | {' | '.join(cells)} |")
  measured = {"seconds": seconds, "contestants": facts}
  turns.write(f"step-{turns.SHAPE.value}", "A training step", lines, measured)


if __name__ == "__main__":
  cli.run(main, required=[])
