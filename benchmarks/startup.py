"""Seconds from the command to its first step: nothing compiled, and what the last run compiled.

In each round the real command trains two steps twice: with an empty cache of compiled programs
(JAX_COMPILATION_CACHE_DIR), and with the one that this has filled. Prints a table; with --out
writes OUT/startup.md and .json.

  python benchmarks/startup.py --config=configs/tiny.py --out=benchmarks/speed
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import flags

from benchmarks import turns
from crate_jax import cli
from crate_jax.errors import UserError

CONFIG = flags.DEFINE_string("config", "configs/tiny.py", "As of crate_jax.main.")
TEXT = flags.DEFINE_string("text", "", "Its data.train, if not the config's.")
MARKS = {  # how a line of the command begins, by what is done when it appears
  "imports and text": "compiling the step",
  "the step compiled and tried": "  time ",
  "the first step": "step 1/",
}


def main() -> None:
  """Starts the command, cold and warm in turns."""
  seconds: dict[str, dict[str, list[float]]] = {"cold": {}, "warm": {}}
  with tempfile.TemporaryDirectory() as folder:
    for number in range(turns.ROUNDS.value):
      for kind, marks in seconds.items():
        run = Path(folder) / f"{kind}-{number}"
        for mark, value in _start(run, Path(folder) / f"compiled-{number}").items():
          marks.setdefault(mark, []).append(value)
      print(f"round {number + 1} of {turns.ROUNDS.value}", file=sys.stderr, flush=True)
  lines = [
    f"{CONFIG.value}: seconds from the command until then. Medians of {turns.ROUNDS.value} rounds "
    "in turns, lowest to highest in brackets; the text's tokens are kept from an earlier run.",
    "",
    "| until | nothing compiled | compiled by the last run |",
    "|---|---|---|",
  ]
  for mark in MARKS:
    cells = [turns.spread(seconds[kind][mark], 1) for kind in seconds]
    lines.append(f"| {mark} | {' | '.join(cells)} |")
  turns.write("startup", "Starting", lines, {"seconds": seconds})


def _start(run: Path, compiled: Path) -> dict[str, float]:
  """Seconds until each mark of one run."""
  steps = ["--config.train.steps=2", "--config.train.log_every_steps=1"]
  steps += ["--config.optimizer.warmup_steps=1", "--config.evaluation.every_steps=2"]
  text = [f"--config.data.train={TEXT.value}"] if TEXT.value else []
  flags = [f"--config={CONFIG.value}", f"--workdir={run}", *steps, *text]
  environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(compiled)}
  environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
  began, found = time.perf_counter(), dict[str, float]()
  with subprocess.Popen(
    [sys.executable, "-m", "crate_jax.main", *flags],
    cwd=turns.ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout
    for line in process.stdout:
      for mark, start in MARKS.items():
        if line.startswith(start):
          found.setdefault(mark, time.perf_counter() - began)
  if process.returncode or set(found) != set(MARKS):
    raise UserError(f"The command ended with status {process.returncode}; it says why above.")
  return found


if __name__ == "__main__":
  cli.run(main, required=[])
