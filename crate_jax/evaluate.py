"""Loss of a trained model on a text, or its scores on evaluation sets.

Reads a run's work directory and a text, by default the validation text of the run; prints the
loss. Every token of the text but the first is scored once, in windows of the model's context that
stand one after the other (stride = window); end-of-text tokens are scored and count as no bytes.

With --tasks it reads evaluation sets from --tasks_dir instead (docs/evaluation.md lists the files
and how they are scored) and prints each score with its standard error and chance level; with --out
it also writes OUT/tasks.json. Otherwise it writes nothing.

  python -m crate_jax.evaluate --workdir=runs/tiny
  python -m crate_jax.evaluate --workdir=runs/tiny --data=book.txt
  python -m crate_jax.evaluate --workdir=runs/tiny --tasks=lambada,hellaswag,blimp,wikitext2 \\
    --tasks_dir=data --out=runs/tiny/tasks
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from crate_jax import cli

if TYPE_CHECKING:
  from crate_jax.run import Run

WORKDIR = flags.DEFINE_string("workdir", "", "The run's folder.")
STEP = flags.DEFINE_integer("step", None, "One of its checkpoints; the newest by default.")
DATA = flags.DEFINE_string("data", "", "A text file or folder, plain, .gz or .xz.")
TASKS = flags.DEFINE_list("tasks", [], "Of lambada, hellaswag, blimp, wikitext2.")
TASKS_DIR = flags.DEFINE_string("tasks_dir", "", "The folder that holds the tasks' folders.")
LIMIT = flags.DEFINE_integer("limit", None, "Score the first items of each file only.", 1)
OUT = flags.DEFINE_string("out", "", "A folder for tasks.json, made if it is not there.")


def main() -> None:
  """Prints the loss or the scores."""
  if TASKS.value and DATA.value:
    raise flags.Error("--data and --tasks exclude each other.")
  if TASKS.value and not TASKS_DIR.value:
    raise flags.Error("--tasks needs --tasks_dir, the folder that holds the tasks' folders.")
  for name in ("tasks_dir", "out", "limit"):
    if flags.FLAGS[name].present and not TASKS.value:
      raise flags.Error(f"--{name} goes with --tasks.")
  from crate_jax.evaluation import tasks
  from crate_jax.run import load  # not before: --help and wrong flags answer at once

  for task in TASKS.value:
    if task not in tasks.TASKS:
      raise flags.Error(f"--tasks={task} is not one of: {', '.join(tasks.TASKS)}.")
  run = load(WORKDIR.value, STEP.value)
  if TASKS.value:
    _tasks(run)
  else:
    _loss(run)


def _loss(run: "Run") -> None:
  tokens, _, _ = run.text_tokens(WORKDIR.value, DATA.value)
  loss = run.loss(tokens)
  print(
    f"step {run.step:,}: {loss.nats:.4f} nats per token, {loss.bits_per_byte:.4f} bits per byte, "
    f"{loss.tokens:,} tokens, {loss.bytes:,} bytes"
  )


def _tasks(run: "Run") -> None:
  from crate_jax.evaluation import tasks
  from crate_jax.training import report
  from crate_jax.training import workdir as files

  out = Path(OUT.value).expanduser() if OUT.value else None
  if out:
    out.mkdir(parents=True, exist_ok=True)
  print(f"step {run.step:,} of {WORKDIR.value}")
  print(f"{'task':<10} {'metric':<15} {'value':>12} {'std. error':>12} {'chance':>12} {'items':>8}")
  scores = []
  for task in TASKS.value:
    scores += tasks.evaluate(
      task, Path(TASKS_DIR.value).expanduser(), run.tokenizer, run.likelihoods, LIMIT.value
    )
    for s in scores:
      if s.task == task:  # the parts of a task are in the file
        numbers = "".join(f" {x:>12.6g}" for x in (s.value, s.stderr, s.chance))
        print(f"{s.task:<10} {s.metric:<15}{numbers} {s.items:>8,}", flush=True)
    if out:  # after each task, so that a later one that fails loses nothing
      written = {
        "step": run.step,
        "limit": LIMIT.value,
        "scores": [dataclasses.asdict(score) for score in scores],
        **report.model_facts(run.config),
        **report.environment(),
      }
      files.write_json(out / "tasks.json", report.finite(written))


if __name__ == "__main__":
  cli.run(main, required=["workdir"])
