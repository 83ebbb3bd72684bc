"""Contestants that take turns: each a process of its own, ready, and still while others work.

So the two sides of a ratio were measured on the same machine in the same minute, and neither has
the other's threads or memory.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from crate_jax.config import Config
from crate_jax.errors import UserError

ROOT = Path(__file__).parents[1]


class Shape(NamedTuple):
  """Of a model and its batch."""

  layers: int
  width: int
  heads: int
  context: int
  vocabulary: int
  batch: int  # windows
  dtype: str


SHAPES = {  # tiny and small are for a CPU
  "tiny": Shape(2, 128, 2, 256, 8192, 8, "float32"),
  "small": Shape(6, 384, 6, 256, 8192, 8, "float32"),
  "base": Shape(12, 768, 12, 1024, 50304, 32, "bfloat16"),
}

SHAPE = flags.DEFINE_enum("shape", "tiny", list(SHAPES), "Of the models: see SHAPES in turns.py.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "Times that each has its turn.", lower_bound=1)
SECONDS = flags.DEFINE_float("seconds", 5.0, "Length of a turn, about.", lower_bound=0.1)
OUT = flags.DEFINE_string("out", "", "Folder of the table; made if it is not there.")
AS = flags.DEFINE_string("as", "", "Be this contestant: for the script's own use.")


def shape() -> Shape:
  """What --shape names."""
  return SHAPES[SHAPE.value]


def config(architecture: str, one: Shape | None = None, **model: Any) -> Config:
  """The config of a model of a shape, by default that of --shape, and of its training."""
  from configs import base
  from crate_jax import config as config_lib

  one, config = one or shape(), base.get_config(f"12L,{architecture}")
  config.model.update(layers=one.layers, width=one.width, heads=one.heads, context=one.context)
  config.model.update(vocab_size=one.vocabulary, dtype=one.dtype, **model)
  config.train.batch_size = one.batch
  return config_lib.resolve_without_text(config)


def updates(program: Any, config: Config, update: Callable[..., Any]) -> Callable[[int], None]:
  """What makes so many updates of a `Program`, to the end, all on one batch of random tokens."""
  import jax
  import numpy as np

  size = config.train.batch_size, config.model.context + 1
  rows = np.random.default_rng(0).integers(0, config.model.vocab_size, size, dtype=np.int32)
  tokens = jax.device_put(rows, program.batch_sharding)
  state = program.init(jax.random.key(0))

  def make(count: int) -> None:
    nonlocal state
    for _ in range(count):
      state, _ = update(state, tokens)
    jax.block_until_ready(state)

  return make


class Ready(NamedTuple):
  """A contestant, in its process: what it is, how it works, the memory that it took if known."""

  facts: dict[str, Any]
  take: Callable[[int], Any]  # does its work so many times, to the end
  peak_bytes: Callable[[], int | None]


class Contestant:
  """The process of a contestant, seen from outside.

  The script is started again with --as=NAME, which makes it call `contend`.
  """

  def __init__(
    self,
    script: str,
    name: str,
    *arguments: str,
    root: Path = ROOT,
    environment: Mapping[str, str] | None = None,
  ) -> None:
    """Starts it.

    Args:
      script: file of the script.
      name: which of its contestants.
      arguments: flags of the script beside --shape.
      root: checkout whose package it imports.
      environment: variables to change.
    """
    path = f"{root.resolve()}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    # Several share one GPU: none takes more of its memory than it needs.
    shared = {"PYTHONPATH": path, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    self.name = name
    self.process = subprocess.Popen(
      [sys.executable, script, f"--as={name}", f"--shape={SHAPE.value}", *arguments],
      env={**os.environ, **shared, **(environment or {})},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )

  def answer(self) -> dict[str, Any]:
    """What the process says next."""
    assert self.process.stdout
    for line in self.process.stdout:
      if line.startswith("{"):  # not what a library prints
        answer: dict[str, Any] = json.loads(line)
        return answer
    raise UserError(f"{self.name!r} ended with status {self.process.wait()}; it says why above.")

  def take(self, times: int) -> float:
    """Seconds that its work takes so many times."""
    self._tell(times)
    return float(self.answer()["seconds"])

  def stop(self) -> dict[str, Any]:
    """Ends the process: the memory that it took, where that is known."""
    self._tell(0)
    last = self.answer()
    self.process.wait(60)
    return last

  def _tell(self, times: int) -> None:
    assert self.process.stdin
    print(times, file=self.process.stdin, flush=True)


Facts = dict[str, dict[str, Any]]
Seconds = dict[str, list[float]]


def measure(contestants: list[Contestant]) -> tuple[Facts, Seconds]:
  """What each says of itself, and the seconds that its work takes once, in every round.

  All are killed in the end, whatever happens.
  """
  try:
    facts = {one.name: one.answer() for one in contestants}
    times = {one.name: max(1, round(SECONDS.value / one.take(1))) for one in contestants}
    spent: Seconds = {one.name: [] for one in contestants}
    for number in range(ROUNDS.value):
      for one in contestants:
        spent[one.name].append(one.take(times[one.name]) / times[one.name])
      print(f"round {number + 1} of {ROUNDS.value}", file=sys.stderr, flush=True)
    for one in contestants:
      facts[one.name] |= one.stop()
    return facts, spent
  finally:
    for one in contestants:
      one.process.kill()


def contend(make: Callable[[], Ready]) -> None:
  """The other side of a `Contestant`: makes it ready, then works as often as it is told."""
  start = time.perf_counter()
  ready = make()
  ready.take(2)
  print(json.dumps(ready.facts | {"seconds_to_be_ready": time.perf_counter() - start}), flush=True)
  for line in sys.stdin:
    if line.strip() == "0":
      break
    start = time.perf_counter()
    ready.take(int(line))
    print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)
  print(json.dumps({"peak_bytes": ready.peak_bytes()}), flush=True)


def spread(values: list[float], digits: int = 2) -> str:
  """The median, and the lowest and highest in brackets."""
  median = statistics.median(values)
  return f"{median:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def ratios(seconds: Seconds, name: str, other: str) -> list[float]:
  """How many times as fast `name` was as `other`, in every round."""
  return [b / a for a, b in zip(seconds[name], seconds[other], strict=True)]


def write(stem: str, title: str, lines: list[str], measured: dict[str, Any]) -> None:
  """Prints a table, with what it was made by and on; writes it as OUT/STEM.md, and .json."""
  from crate_jax.training import report
  from crate_jax.training import workdir as files

  made: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), **report.environment()}
  keys = ("device", "jax", "torch", "transformers")
  contestants = measured.get("contestants", {}).values()
  made |= {key: fact[key] for fact in contestants for key in keys if key in fact}
  lines = [*lines, "", *(f"{key}: {value}  " for key, value in made.items())]
  print("\n".join(lines))
  if OUT.value:
    folder = Path(OUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.md").write_text(f"# {title}\n\n" + "\n".join(lines) + "\n")
    files.write_json(folder / f"{stem}.json", {**measured, **made})
