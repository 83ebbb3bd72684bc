"""How fast prepared data is read alone: shuffled windows of shards to batches, with every check.

Each round reads for some seconds in one process, then in several at once, each its own slice, as
the hosts of a pod do. Prints a table; with --out writes OUT/reading.md and .json.

  python benchmarks/reading.py --prepared=data/books --out=benchmarks/data
"""

import multiprocessing
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from absl import flags

from crate_jax import cli

PREPARED = flags.DEFINE_string("prepared", "", "A folder that crate_jax.prepare made.")
CONTEXTS = flags.DEFINE_list("contexts", ["256", "1024", "4096"], "Tokens of a window.")
BATCH = flags.DEFINE_integer("batch", 262_144, "Tokens of a process's batch.", lower_bound=4096)
SECONDS = flags.DEFINE_float("seconds", 8.0, "Time that each reads.", lower_bound=1.0)
ROUNDS = flags.DEFINE_integer("rounds", 3, "Times that each is done.", lower_bound=1)
OUT = flags.DEFINE_string("out", "", "Folder of the table; made if it is not there.")


def main() -> None:
  """Reads in turns."""
  rates: dict[tuple[int, int], list[float]] = {}
  for _ in range(ROUNDS.value):
    for context in map(int, CONTEXTS.value):
      for processes in (1, 2):
        work = [
          (PREPARED.value, context, BATCH.value, SECONDS.value, i, processes)
          for i in range(processes)
        ]
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
          each = statistics.mean(pool.map(_read, work, chunksize=1))
        rates.setdefault((context, processes), []).append(each)
        print(f"context {context}, {processes} processes: {each:,.0f} tokens/s each", flush=True)
  _report(rates)


def _read(work: tuple[str, int, int, float, int, int]) -> float:
  """Tokens a second that a process's slices arrive with, once the first is there."""
  from crate_jax.data import pipeline

  prepared, context, tokens, seconds, index, count = work
  size = tokens // context
  corpus = pipeline.load_corpus(
    prepared=prepared,
    train="",
    validation="",
    validation_fraction=0.1,
    tokenizer="",
    bpe_vocab_size=0,
    cache=Path(),
  )
  batches = pipeline.batches(
    corpus.train,
    context=context,
    batch_size=size * count,
    seed=0,
    rows=range(index * size, (index + 1) * size),
  )
  for _ in range(10):  # more than is read ahead
    next(batches)
  read, start = 0, time.perf_counter()
  while time.perf_counter() - start < seconds:
    read += next(batches).shape[0] * context
  return read / (time.perf_counter() - start)


def _report(rates: dict[tuple[int, int], list[float]]) -> None:
  from crate_jax.training import report
  from crate_jax.training import workdir as files

  lines = [
    f"Tokens a second in each process, medians of {ROUNDS.value} rounds in turns (lowest to "
    f"highest), batches of {BATCH.value:,} tokens a process.",
    "",
    "| context | one process | two at once |",
    "|---|---|---|",
  ]
  for context in map(int, CONTEXTS.value):
    cells = [
      f"{statistics.median(there) / 1e6:.1f} M ({min(there) / 1e6:.1f} to {max(there) / 1e6:.1f})"
      for there in (rates[context, 1], rates[context, 2])
    ]
    lines.append(f"| {context} | {' | '.join(cells)} |")
  facts: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), **report.environment()}
  lines += ["", *(f"{key}: {value}  " for key, value in facts.items())]
  print("\n".join(lines))
  if OUT.value:
    out = Path(OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    (out / "reading.md").write_text("# Reading prepared data\n\n" + "\n".join(lines) + "\n")
    named = {f"context {context}, {n} processes": there for (context, n), there in rates.items()}
    files.write_json(out / "reading.json", {"tokens_per_second": named, **facts})


if __name__ == "__main__":
  cli.run(main, required=["prepared"])
