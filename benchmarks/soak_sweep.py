"""A sweep that is killed, for benchmarks/soak.py."""

import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.soak_jobs import ROOT, Job, Row, finish, fresh, row, wait, write_text

STEPS = (40, 80, 160, 320)  # lengths of the cells
FLAGS = (
  "--config=configs/plateau.py",
  "--config.model.context=16",
  "--config.data.tokenizer=bytes",
  "--config.data.validation_fraction=0.3",
  "--config.optimizer.warmup_steps=2",
  "--config.train.log_every_steps=1",
  "--config.evaluation.tokens=500",
  "--config.sweep.shapes=('2x32x2',)",
  "--config.sweep.seeds=(0,)",
  "--config.sweep.rates=()",
  "--config.sweep.trials=()",
  "--config.sweep.checks=()",
)


def sweeps(folder: Path, count: int = 20, steps: tuple[int, ...] = STEPS) -> list[Row]:
  """Kills a sweep at random moments, a quarter of them inside a decay, and lets it end.

  With each SIGKILL of the sweep its workers end too, by themselves.
  """
  from crate_jax.scaling import table

  plain, killed = fresh(folder / "sweep"), fresh(folder / "sweep-killed")
  began = time.monotonic()
  job = _start(folder, plain, steps)
  if finish(job, 1800) != [0]:
    raise RuntimeError(f"A sweep that nothing interrupts failed: {job.error()}.")
  seconds = (time.monotonic() - began) / (2 * len(steps))  # of a cell
  rng, inside, kills, bad = random.Random(0), 0, 0, list[str]()
  while kills < count:
    job = _start(folder, killed, steps, f"killed-{kills}")
    in_decay = 4 * inside < kills + 1
    if in_decay:
      inside += wait(job, lambda: _decays(killed), 300)
    else:
      wait(job, lambda: False, rng.uniform(0, seconds))
    if job.processes[0].poll() is not None:
      break  # it was over
    job.processes[0].kill()
    finish(job)
    kills += 1
  if (codes := finish(_start(folder, killed, steps, "killed-end"), 1800)) != [0]:
    bad.append(f"the sweep ended with exit status {codes[0]}")
  else:
    for one, other in zip(table.read(plain), table.read(killed), strict=True):
      keys = ("cell", "weights", "loss", "loss_of_rates", "work_nats", "curve_loss", "train_loss")
      different = [key for key in keys if getattr(one, key) != getattr(other, key)]
      bad += [f"{one.cell} differs in {', '.join(different)}"] * bool(different)
  if kills < count:
    bad.append(f"it was over after {kills} kills of {count}")
  if inside < count // 4:
    bad.append(f"{inside} kills inside a decay, of {count // 4} at least")
  what = f"cells of a sweep that is killed by SIGKILL {kills} times, as in one that is not"
  return [row(what, 2 * len(steps), bad, f"{inside} kills inside a decay")]


def _start(folder: Path, workdir: Path, steps: tuple[int, ...], name: str = "") -> Job:
  text, log = folder / "text.txt", folder / "logs" / f"{name or workdir.name}.log"
  log.parent.mkdir(parents=True, exist_ok=True)
  if not text.exists():
    write_text(text)
  command = [sys.executable, "-m", "crate_jax.scaling.sweep", *FLAGS]
  command += [f"--config.data.train={text}", f"--workdir={workdir}", "--jobs=1"]
  command.append(f"--config.sweep.steps={steps}")
  with log.open("w") as file:
    process = subprocess.Popen(
      command,
      cwd=ROOT,
      env={**os.environ, "JAX_PLATFORMS": "cpu"},
      stdout=file,
      stderr=subprocess.STDOUT,
    )
  return Job([process], [log])


def _decays(workdir: Path) -> bool:
  """Whether a cell that has not ended stands in its last fifth."""
  for log in (workdir / "runs").glob("*.log"):
    if (workdir / "cells" / f"{log.stem}.json").exists():
      continue
    done = [tuple(map(int, m)) for m in re.findall(r"^step (\d+)/(\d+) ", log.read_text(), re.M)]
    if done and 0.8 * done[-1][1] < done[-1][0] < done[-1][1]:
      return True
  return False
