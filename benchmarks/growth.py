"""How the cost of a training step grows with context, depth, width, vocabulary and batch.

Each is halved and doubled by itself, from --shape on, with heads as wide as there; all steps are
compiled, then take turns in one process. Prints the exponents that fit seconds, memory and FLOPs
best (a line through their logarithms); with --out writes OUT/growth-SHAPE.md and .json.

  python benchmarks/growth.py --shape=tiny --out=benchmarks/speed
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from benchmarks import turns
from benchmarks.turns import Shape
from crate_jax import cli

ARCHITECTURES = flags.DEFINE_list("architectures", ["crate", "gpt2"], "Presets.")
FACTORS = flags.DEFINE_list("factors", ["0.5", "1", "2"], "That each size is multiplied by.")
SIZES = ("context", "layers", "width", "vocabulary", "batch")


def main() -> None:
  """Times all, and fits."""
  factors = [float(factor) for factor in FACTORS.value]
  steps: dict[tuple[str, str, float], tuple[Callable[[int], Any], float, float]] = {}
  for architecture in ARCHITECTURES.value:
    whole = _step(architecture, turns.shape())
    for size in SIZES:
      for factor in factors:
        one = _scaled(turns.shape(), size, factor)
        key = architecture, size, factor
        steps[key] = whole if factor == 1 else _step(architecture, one)
  seconds: dict[tuple[str, str, float], list[float]] = {key: [] for key in steps}
  for _ in range(turns.ROUNDS.value):
    for key, (take, _, _) in steps.items():
      begin, count = time.perf_counter(), 0
      while not count or time.perf_counter() - begin < turns.SECONDS.value:
        take(1)
        count += 1
      seconds[key].append((time.perf_counter() - begin) / count)
  _report(factors, steps, seconds)


def _scaled(shape: Shape, size: str, factor: float) -> Shape:
  sizes: dict[str, Any] = {size: round(getattr(shape, size) * factor)}
  if size == "width":
    sizes["heads"] = round(shape.heads * factor)
  return shape._replace(**sizes)


def _step(architecture: str, shape: Shape) -> tuple[Callable[[int], Any], float, float]:
  """Takes so many steps; bytes that one needs, and its FLOPs."""

  from crate_jax.model import flops
  from crate_jax.training import plan, program

  c = turns.config(architecture, shape)
  built = program.build(c)
  measured = plan.measure(built, c)
  take = turns.updates(built, c, measured.update)
  take(2)
  count = flops.training_flops_per_token(c.model) * shape.batch * shape.context
  return take, measured.state_bytes + measured.step_bytes, count


def _exponent(factors: list[float], values: list[float]) -> float:
  return float(np.polyfit(np.log(factors), np.log(values), 1)[0])


def _report(factors: list[float], steps: dict, seconds: dict) -> None:
  one = turns.shape()
  lines = [
    f"From {one.layers} layers, width {one.width}, {one.heads} heads, context {one.context}, "
    f"vocabulary {one.vocabulary:,}, {one.batch} windows, {one.dtype}; each times "
    f"{', '.join(FACTORS.value)}. Exponents: the median of {turns.ROUNDS.value} rounds, lowest to "
    "highest in brackets. Memory is XLA's own count, with the state.",
    "",
    "| | of | exponent of seconds | of memory | of FLOPs | milliseconds |",
    "|---|---|---|---|---|---|",
  ]
  for architecture in ARCHITECTURES.value:
    for size in SIZES:
      keys = [(architecture, size, factor) for factor in factors]
      rounds = zip(*(seconds[key] for key in keys), strict=True)
      cells = [
        turns.spread([_exponent(factors, list(values)) for values in rounds]),
        f"{_exponent(factors, [steps[key][1] for key in keys]):.2f}",
        f"{_exponent(factors, [steps[key][2] for key in keys]):.2f}",
        ", ".join(f"{1e3 * np.median(seconds[key]):,.0f}" for key in keys),
      ]
      lines.append(f"| {architecture} | {size} | {' | '.join(cells)} |")
  named = {" ".join(map(str, key)): values for key, values in seconds.items()}
  turns.write(f"growth-{turns.SHAPE.value}", "Growth of the cost", lines, {"seconds": named})


if __name__ == "__main__":
  cli.run(main, required=[])
