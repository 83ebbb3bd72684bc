"""Speed of a training step: ours, the released arithmetic in PyTorch, matrix products alone.

Every contestant is a process of its own that has compiled its step and waits; in each round each
takes some steps while the others are still, so that the two sides of a ratio were measured on the
same machine in the same minute. Prints a table; with --out writes OUT/step-SHAPE.md and .json.

  python benchmarks/step.py --shape=small --out=benchmarks/speed
  python benchmarks/step.py --shape=small --before=../old   # another checkout's step beside ours

Needs torch, except for --contestants="jax crate,jax gpt2".
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from crate_jax import cli
from crate_jax.errors import UserError

# layers, width, heads, context, vocabulary, windows in a batch, type: "tiny" and "small" on a CPU.
SHAPES = {
  "tiny": (2, 128, 2, 256, 8192, 8, "float32"),
  "small": (6, 384, 6, 256, 8192, 8, "float32"),
  "base": (12, 768, 12, 1024, 50304, 32, "bfloat16"),
}
ALL = [
  f"{name} {architecture}"
  for architecture in ("crate", "gpt2")
  for name in ("jax", "torch eager", "torch compiled")
]
PRODUCTS = ["jax product", "torch product"]

SHAPE = flags.DEFINE_enum("shape", "tiny", list(SHAPES), "Of the models: see SHAPES.")
CONTESTANTS = flags.DEFINE_list(
  "contestants", ALL + PRODUCTS, "What is timed; 'deterministic crate' is for GPUs."
)
BEFORE = flags.DEFINE_string("before", "", "Another checkout: its crate and gpt2 are timed too.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "Times that each has its turn.", lower_bound=1)
SECONDS = flags.DEFINE_float("seconds", 5.0, "Length of a turn, about.", lower_bound=0.1)
OUT = flags.DEFINE_string("out", "", "Folder of the table; made if it is not there.")
AS = flags.DEFINE_string("as", "", "Be this contestant: for this script's own use.")


def main() -> None:
  """Lets all contestants compile, then times them in turns."""
  if AS.value:
    return contend(AS.value)
  names = list(CONTESTANTS.value)
  if BEFORE.value:
    names += [f"before {name}" for name in ("crate", "gpt2") if f"jax {name}" in names]
  contestants = {name: Contestant(name) for name in names}
  try:
    facts, seconds = _take_turns(contestants)
  finally:
    for contestant in contestants.values():
      contestant.process.kill()
  _report(facts, seconds)


def _take_turns(
  contestants: dict[str, "Contestant"],
) -> tuple[dict[str, dict[str, Any]], dict[str, list[float]]]:
  """What each says of itself, and its seconds a step in every round."""
  facts = {name: contestant.answer() for name, contestant in contestants.items()}
  steps = {name: max(1, round(SECONDS.value / c.take(1))) for name, c in contestants.items()}
  seconds: dict[str, list[float]] = {name: [] for name in contestants}
  for number in range(ROUNDS.value):
    for name, contestant in contestants.items():
      seconds[name].append(contestant.take(steps[name]) / steps[name])
    print(f"round {number + 1} of {ROUNDS.value}", file=sys.stderr, flush=True)
  for name, contestant in contestants.items():
    facts[name] |= contestant.stop()
  return facts, seconds


class Contestant:
  """A process that takes as many steps as it is told, and says how long they took."""

  def __init__(self, name: str) -> None:
    command = [sys.executable, __file__, f"--as={name}", f"--shape={SHAPE.value}"]
    environment = dict(os.environ)
    root = Path(BEFORE.value if name.startswith("before") else Path(__file__).parents[1])
    environment["PYTHONPATH"] = f"{root.resolve()}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    # Several share one GPU: none takes more of its memory than it needs.
    environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if name.startswith("deterministic"):
      xla = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"
      environment["XLA_FLAGS"] = xla
    self.name = name
    self.process = subprocess.Popen(
      command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

  def answer(self) -> dict[str, Any]:
    """What the process says next."""
    assert self.process.stdout
    for line in self.process.stdout:
      if line.startswith("{"):  # not what a library prints
        answer: dict[str, Any] = json.loads(line)
        return answer
    raise UserError(f"{self.name!r} ended with status {self.process.wait()}; it says why above.")

  def take(self, steps: int) -> float:
    """Seconds that so many steps take."""
    self._tell(steps)
    return float(self.answer()["seconds"])

  def stop(self) -> dict[str, Any]:
    """Ends the process: the memory that it took, where that is known."""
    self._tell(0)
    last = self.answer()
    self.process.wait(60)
    return last

  def _tell(self, steps: int) -> None:
    assert self.process.stdin
    print(steps, file=self.process.stdin, flush=True)


def contend(name: str) -> None:
  """The other side of a `Contestant`."""
  framework, *kind, what = name.split()
  start = time.perf_counter()
  if framework == "torch":
    facts, take, memory = _torch(what, compiled=kind == ["compiled"])
  else:
    facts, take, memory = _jax(what, deterministic=framework == "deterministic")
  take(2)
  print(json.dumps(facts | {"seconds_to_first_step": time.perf_counter() - start}), flush=True)
  for line in sys.stdin:
    if line.strip() == "0":
      break
    start = time.perf_counter()
    take(int(line))
    print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)
  print(json.dumps({"peak_bytes": memory()}), flush=True)


Made = tuple[dict[str, Any], Callable[[int], Any], Callable[[], int | None]]


def _jax(what: str, *, deterministic: bool) -> Made:
  import jax
  import jax.numpy as jnp
  import numpy as np

  from configs import base
  from crate_jax import config as config_lib
  from crate_jax.model import flops
  from crate_jax.training import program

  layers, width, heads, context, vocabulary, batch, dtype = SHAPES[SHAPE.value]
  device = jax.devices()[0]
  facts = {"device": device.device_kind, "jax": jax.__version__}

  def memory() -> int | None:
    return (device.memory_stats() or {}).get("peak_bytes_in_use")

  if what == "product":
    n = _product_width()
    a = jnp.asarray(np.random.default_rng(0).normal(size=(n, n)), dtype)
    product = jax.jit(lambda a, b: (a @ b) / n**0.5)

    def multiply(steps: int) -> None:
      b = a
      for _ in range(steps):
        b = product(a, b)
      b.block_until_ready()

    return facts | {"flops": 2 * n**3}, multiply, memory
  config = base.get_config(f"12L,{what}")
  config.model.update(layers=layers, width=width, heads=heads, context=context)
  config.model.update(vocab_size=vocabulary, dtype=dtype)
  config.train.batch_size = batch
  if deterministic:
    config.model.attention = "plain"  # XLA fails with cuDNN's
  c = config_lib.resolve_without_text(config)
  built = program.build(c)
  rows = np.random.default_rng(0).integers(0, vocabulary, (batch, context + 1), dtype=np.int32)
  tokens = jax.device_put(rows, built.batch_sharding)
  state = built.init(jax.random.key(0))

  def train(steps: int) -> None:
    nonlocal state
    for _ in range(steps):
      state, _ = built.update(state, tokens)
    jax.block_until_ready(state)

  count = flops.training_flops_per_token(c.model)
  return facts | {"flops": count * batch * context, "tokens": batch * context}, train, memory


def _torch(what: str, *, compiled: bool) -> Made:
  import torch

  from benchmarks import released

  layers, width, heads, context, vocabulary, batch, dtype = SHAPES[SHAPE.value]
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

    return facts | {"flops": 2 * n**3}, multiply, memory
  block = {"crate": released.CrateBlock, "gpt2": released.GPT2Block}[what]
  model = released.Model(block, width, heads, layers, context, vocabulary)
  tokens = torch.randint(vocabulary, (batch, context + 1), device=device)
  step = released.Step(model, tokens, half=dtype == "bfloat16", compiled=compiled)

  def train(steps: int) -> None:
    for _ in range(steps):
      step.run()
    synchronise()

  return facts | {"tokens": batch * context}, train, memory


def _product_width() -> int:
  return 8192 if SHAPES[SHAPE.value][-1] == "bfloat16" else 2048


def _report(facts: dict[str, dict[str, Any]], seconds: dict[str, list[float]]) -> None:
  from crate_jax.training import hardware, report
  from crate_jax.training import workdir as files

  layers, width, heads, context, vocabulary, batch, dtype = SHAPES[SHAPE.value]
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
    ours = seconds.get(f"jax {what}")
    ratio = "" if not ours or what == "product" else _spread([b / a for a, b in zip(times, ours)])  # noqa: B905
    count = facts.get(f"jax {what}", fact).get("flops")
    rate = count / statistics.median(times) if count else None
    ceiling = ceilings.get(name.split()[0].replace("before", "jax"))
    tokens = f"{fact['tokens'] / statistics.median(times):,.0f}" if "tokens" in fact else ""
    peak = next((p.flops for k, p in hardware.PEAKS if fact["device"].startswith(k)), None)
    cells = [
      _spread([1e3 * t for t in times], 1),
      tokens,
      ratio,
      f"{rate / 1e12:.3f}" if rate else "",
      f"{rate / ceiling:.0%}" if rate and ceiling and what != "product" else "",
      f"{rate / peak:.1%}" if rate and peak else "",
      report.size(fact["peak_bytes"]) if fact["peak_bytes"] else "",
    ]
    lines.append(f"| {name} | {' | '.join(cells)} |")
  made: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), **report.environment()}
  versions = {key: f[key] for f in facts.values() for key in ("device", "jax", "torch") if key in f}
  lines += ["", *(f"{key}: {value}  " for key, value in (made | versions).items())]
  print("\n".join(lines))
  if OUT.value:
    out = Path(OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    stem = out / f"step-{SHAPE.value}"
    stem.with_suffix(".md").write_text("# A training step\n\n" + "\n".join(lines) + "\n")
    files.write_json(
      stem.with_suffix(".json"),
      {"seconds": seconds, "contestants": facts, **made, **versions},
    )


def _spread(values: list[float], digits: int = 2) -> str:
  median = statistics.median(values)
  return f"{median:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
  cli.run(main, required=[])
