"""Training that is killed, stopped, raced, starved of disk and fed NaN, for benchmarks/soak.py."""

import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.soak_jobs import (
  EVERY,
  ROOT,
  ROWS,
  STEPS,
  Job,
  Row,
  difference,
  finish,
  fresh,
  row,
  saved,
  start,
  straight,
  wait,
)


def kills(folder: Path, count: int = 60) -> list[Row]:
  """Kills runs, up to three times each, and lets each end."""
  plain = straight(folder)
  again = straight(folder, name="straight-again")  # by now its programs are compiled
  if wrong := difference(again, plain):
    raise RuntimeError(f"Two runs that nothing interrupts are not the same: {wrong}.")
  seconds = float((folder / f"{again.name}.seconds").read_text())
  rng, bad, killed, inside, number = random.Random(0), list[str](), 0, 0, 0
  lost = 0  # kills in runs that did not end as the uninterrupted one
  while killed < count and number < 2 * count:  # a run may be over before it is killed
    run, here, wrong = fresh(folder / f"killed-{number}"), 0, ""
    number += 1
    for _ in range(min(3, count - killed)):
      job = start(folder, run)
      came = _await_moment(job, run, rng, in_save=2 * inside <= killed + here, seconds=seconds)
      job.processes[0].kill()
      codes = finish(job)
      if codes == [0]:
        break  # it was over
      if codes != [-signal.SIGKILL] or not came:
        wrong = f"start {here + 1} stood still" if not came else f"exit {codes}: {job.error()}"
        break
      here += 1
      inside += job.begun and bool(saved(run, temporary=True))
    if not wrong:
      job = start(folder, run)
      codes = finish(job)
      wrong = difference(run, plain) if codes == [0] else f"exit {codes}: {job.error()}"
    killed += here
    if wrong:
      bad.append(f"{run.name}: {wrong}")
      lost += max(here, 1)
    else:
      shutil.rmtree(run)
  what = "runs killed by SIGKILL at random moments, the same command until it ends"
  line = row(what, number, bad, f"{number} runs", f"{inside} kills inside a save")
  return [line._replace(tried=killed, kept=killed - lost)]


def _await_moment(job: Job, run: Path, rng: random.Random, in_save: bool, seconds: float) -> bool:
  """Waits for a random moment: of a save, of the steps, or of all that the command does.

  False if it did not come although the command still runs.
  """
  step = rng.randrange(min(max(saved(run), default=0) + 1, STEPS), STEPS + 1)
  if in_save:  # what killed saves left is gone once a step is reported
    came = wait(job, lambda: job.begun and max(saved(run, temporary=True), default=0) >= step)
  elif rng.random() < 0.5:
    if came := wait(job, lambda: f"\nstep {step}/" in job.said()):
      time.sleep(rng.uniform(0, 0.1))
  else:
    wait(job, lambda: False, timeout=rng.uniform(0, seconds))
    came = True
  return came or job.processes[0].poll() is not None


def stops(folder: Path, count: int = 20, processes: Sequence[int] = (1, 4)) -> list[Row]:
  """Asks runs to stop by SIGTERM, all processes or one of them, and goes on."""
  rows = []
  for size in processes:
    plain = straight(folder, count=size, name="straight" if size == 1 else f"straight-{size}")
    rng, bad, late = random.Random(size), list[str](), 0
    for number in range(count):
      run = fresh(folder / f"stopped-{size}-{number}")
      job = start(folder, run, count=size)
      step = rng.randrange(1, STEPS - 10)
      wait(job, lambda job=job, step=step: f"\nstep {step}/" in job.said())  # type: ignore[misc]
      time.sleep(rng.uniform(0, 0.05))
      for process in job.processes if number % 2 else [rng.choice(job.processes)]:
        process.send_signal(signal.SIGTERM)
      codes = finish(job)
      late += codes == [0] * size
      wrong = "" if codes == [0] * size else _stopped(job, run, codes)
      if not wrong:
        job = start(folder, run, count=size)
        codes = finish(job)
        wrong = difference(run, plain) if not any(codes) else f"exit {codes}: {job.error()}"
      if wrong:
        bad.append(f"{run.name}: {wrong}")
      else:
        shutil.rmtree(run)
    note = f"{late} had ended by then" if late else ""
    many = f"{size} processes" if size > 1 else "one process"
    rows.append(row(f"SIGTERM at random moments of training, {many}", count, bad, note))
  return rows


def _stopped(job: Job, run: Path, codes: list[int]) -> str:
  """What is wrong about how a job stopped."""
  if set(codes) != {128 + signal.SIGTERM}:
    return f"exit {codes}: {job.error()}"
  found = re.search(r"^Stopped by SIGTERM after step ([\d,]+), which is saved", job.said(), re.M)
  if not found:
    return f"it does not say that it stopped: {job.error()}"
  if int(found[1].replace(",", "")) != max(saved(run), default=0):
    return f"it says step {found[1]}, and has {saved(run)}"
  return ""


def races(folder: Path, count: int = 20) -> list[Row]:
  """Starts two runs at once on one folder."""
  plain, bad = straight(folder), list[str]()
  for number in range(count):
    run = fresh(folder / f"raced-{number}")
    jobs = [start(folder, run, name=f"{run.name}-{who}") for who in "ab"]
    ended = {job.processes[0].pid: (finish(job)[0], job) for job in jobs}
    winners = [pid for pid, (code, _) in ended.items() if code == 0]
    losers = [job for code, job in ended.values() if code == 1]
    if len(winners) != 1 or len(losers) != 1:
      wrong = f"exit {[code for code, _ in ended.values()]}: {[job.error() for job in jobs]}"
    elif f"is being written to by process {winners[0]} on " not in losers[0].said():
      wrong = f"the loser says: {losers[0].error()}"
    else:
      wrong = difference(run, plain)
    if wrong:
      bad.append(f"{run.name}: {wrong}")
    else:
      shutil.rmtree(run)
  what = "two runs started at once on a fresh folder: one refused, naming the other"
  return [row(what, count, bad)]


def counts(folder: Path) -> list[Row]:
  """Goes on with fewer devices, and with fewer processes, than before."""
  from crate_jax.training import workdir as files

  def logged(run: Path) -> dict[int, dict[str, Any]]:
    return {line["step"]: line for line in files.read_metrics(run) if "loss" in line}

  one, rows = logged(straight(folder)), []
  for kind, sizes in (("devices", (8, 4, 1)), ("processes", (4, 2, 1))):
    run, tries = folder / f"counts-{kind}", 1
    while (found := _in_turn(folder, run, kind, sizes)) is None and tries < 5:
      tries += 1
    bad, notes = found or ([f"it had ended before it stopped, {tries} times"], [])
    late = f"tries that had ended before they stopped: {tries - 1}" if found and tries > 1 else ""
    there = logged(run)
    if [line["batch_hash"] for line in there.values()] != [x["batch_hash"] for x in one.values()]:
      bad.append("other batches")
    common = [step for step in range(1, 21) if step in there]
    off = max((abs(there[s]["loss"] / one[s]["loss"] - 1) for s in common), default=1.0)
    if off > 1e-5:
      bad.append(f"losses of the first 20 steps are off by {off:.1e}")
    path = " to ".join(map(str, sizes))
    what = f"{path} {kind}: the batches and the first 20 losses of one device"
    rows.append(row(what, 1, _joined(bad), ", ".join(notes), late, f"losses within {off:.1e}"))
  return rows


def _in_turn(
  folder: Path, run: Path, kind: str, sizes: Sequence[int]
) -> tuple[list[str], list[str]] | None:
  """Trains on each number of `kind` until it is stopped, on the last to the end.

  None if it had ended by the time that all processes knew of the stop. Else what went otherwise
  than promised, and what was done.
  """
  bad, notes = list[str](), list[str]()
  fresh(run)
  for stage, size in enumerate(sizes):
    job = start(folder, run, **{"count" if kind == "processes" else "devices": size})  # type: ignore[arg-type]
    last = stage == len(sizes) - 1
    if not last:
      wait(job, lambda job=job, at=6 * (stage + 1): f"\nstep {at}/" in job.said())  # type: ignore[misc]
      job.processes[0].send_signal(signal.SIGTERM)
    codes = finish(job)
    if not last and not bad and not any(codes):
      return None
    if set(codes) != {0 if last else 143}:
      bad.append(f"{size} {kind}: exit {codes}: {job.error()}")
    notes.append(f"{size} until step {max(saved(run), default=0)}")
  return bad, notes


def _joined(bad: list[str]) -> list[str]:
  """What one try did otherwise than promised, as one."""
  return ["; ".join(bad)] if bad else []


def disk(folder: Path) -> list[Row]:
  """Fills the disk of a run at about its third save, and then makes room."""
  what = "a disk that is full at the third save, then has room again"
  wide = ("--config.model.width=128",)
  plain = straight(folder, *wide, name="straight-wide")
  size = max(_size(plain / "checkpoints" / str(step)) for step in saved(plain))
  mount = folder / "disk"
  mount.mkdir(exist_ok=True)
  mounted = subprocess.run(
    ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(mount)], capture_output=True, text=True
  )
  if mounted.returncode:
    return [Row(what, 0, 0, f"not possible here: {mounted.stderr.strip()}")]
  try:
    run, ballast = mount / "run", mount / "ballast"
    ballast.write_bytes(bytes((64 << 20) - int(2.5 * size)))
    job, bad = start(folder, run, *wide, name="disk-full"), list[str]()
    codes, errors = finish(job), re.findall(r"^error: .*", job.said(), re.MULTILINE)
    noise = job.said().count("Traceback (most recent")
    if codes[0] <= 0 or len(errors) != 1 or not re.search("is full|No space left", errors[0]):
      bad.append(f"full: exit {codes}, {job.error()}")
    whole = saved(run)
    if not whole or not verified(run):
      bad.append(f"full: its checkpoints {whole} do not verify")
    ballast.unlink()
    job = start(folder, run, *wide, name="disk-again")
    codes = finish(job)
    if wrong := difference(run, plain) if codes == [0] else f"exit {codes}: {job.error()}":
      bad.append(f"with room: {wrong}")
    notes = (
      f"64 MB, checkpoints of {size / 1e6:.1f} MB; whole when full: {whole}; it said: {errors} "
      f"after {noise} tracebacks of Orbax's threads"
    )
    return [row(what, 1, _joined(bad), notes)]
  finally:
    subprocess.run(["umount", "-l", str(mount)], check=True)


def verified(run: Path) -> bool:
  """Whether `python -m crate_jax.checkpoints --verify` finds all of a run's checkpoints whole."""
  command = [sys.executable, "-m", "crate_jax.checkpoints", f"--workdir={run}", "--verify"]
  environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
  return not subprocess.run(command, cwd=ROOT, env=environment, capture_output=True).returncode


def _size(folder: Path) -> int:
  return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# The command, with a loss that is NaN on some batches; process 0 notes of every update whether it
# was applied and whether it left the state as it was. Arguments: file of the notes; hashes of
# batches as JSON; "those" or "others", whichever are bad; then those of the command.
POISONED = """
import dataclasses, json, os, sys
import jax
import jax.numpy as jnp
import numpy as np
from crate_jax import cli, main
from crate_jax.data import pipeline
from crate_jax.training import digest, plan, step

notes, listed, which = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
del sys.argv[1:4]
objective, measure = step.objective, plan.measure

def poisoned(model, params, tokens):
  one, two = pipeline.batch_hash(tokens)
  halves = [[np.uint32(int(half, 16)) for half in (h[:8], h[8:])] for h in listed]
  hits = [(one == first) & (two == second) for first, second in halves]
  bad = jnp.any(jnp.stack(hits)) ^ (which == "others")
  return tuple(x * jnp.where(bad, jnp.nan, 1.0) for x in objective(model, params, tokens))

def watched(program, config):
  measured = measure(program, config)
  def update(state, batch):
    before = digest.digests((state.params, state.opt_state, state.step))
    state, metrics = measured.update(state, batch)
    same = digest.digests((state.params, state.opt_state, state.step)) == before
    with open(notes if jax.process_index() == 0 else os.devnull, "a") as file:
      file.write(json.dumps([bool(metrics["applied"]), same]) + chr(10))
    return state, metrics
  return dataclasses.replace(measured, update=update)

step.objective, plan.measure = poisoned, watched
cli.run(main.main, required=["config", "workdir"])
"""


BAD = 13  # the first step whose batch makes the loss NaN
IN_A_ROW = 3  # updates that are too many
NANS = ("one batch", f"{IN_A_ROW} batches in a row", "every batch from one on")


def numbers(
  folder: Path, tried: Sequence[tuple[int, str]] = tuple(itertools.product((1, 2), NANS))
) -> list[Row]:
  """Makes the loss NaN at one batch, at as many in a row as are too many, and for ever.

  Args:
    folder: that of the experiments.
    tried: numbers of processes, each with one of `NANS`.
  """
  from crate_jax.training import workdir as files

  metrics = files.read_metrics(straight(folder))
  hashes = [line["batch_hash"] for line in metrics if "batch_hash" in line]
  since = (BAD - 1) % EVERY  # updates between the newest checkpoint and the first bad batch
  cases = {
    NANS[0]: (hashes[BAD - 1 : BAD], "those", 1),
    NANS[1]: (hashes[BAD - 1 : BAD - 1 + IN_A_ROW], "those", IN_A_ROW),
    # Of the update that is under way when there are too many one more is refused, each time.
    NANS[2]: (hashes[: BAD - 1], "others", 2 * (IN_A_ROW + 1)),
  }
  rows = []
  for size, what in tried:
    listed, which, refusals = cases[what]
    run, bad = fresh(folder / f"numbers-{size}-{what.replace(' ', '-')}"), list[str]()
    notes = folder / f"{run.name}.jsonl"
    notes.unlink(missing_ok=True)
    command = ("-c", POISONED, str(notes), json.dumps(listed), which)
    most = f"--config.train.max_refused={IN_A_ROW}"
    job = start(folder, run, most, command=command, count=size)
    codes, said = finish(job), job.said()
    updates = (
      [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
    )
    refused = [same for applied, same in updates if not applied]
    if len(refused) != refusals:
      bad.append(f"{len(refused)} updates were refused, and not {refusals}")
    if not all(refused):
      bad.append(f"{refused.count(False)} refused updates changed the state")
    if any(same for applied, same in updates if applied):
      bad.append("an applied update changed nothing")
    back = f"going back to step {BAD - 1 - since}, and past the batches since" in said
    if back != (refusals > 1):
      bad.append(f"it {'goes' if back else 'does not go'} back")
    if which == "others":
      if codes != [1] * size or "again after going back" not in job.error():
        bad.append(f"exit {codes}: {job.error()}")
      if not verified(run):
        bad.append(f"its checkpoints {saved(run)} do not verify")
    elif any(codes):
      bad.append(f"exit {codes}: {job.error()}")
    else:
      meta = files.read_meta(run)
      step, skipped, examples = (meta[key] for key in ("step", "skipped", "examples"))
      if step != STEPS or skipped < refusals + since * back or (skipped > 1) != back:
        bad.append(f"it ends at step {step} with {skipped} batches passed over")
      if examples != (step + skipped) * ROWS:
        bad.append(f"{examples / ROWS:g} batches drawn are not {step} steps and {skipped} skipped")
    note = f"{len(refused)} updates refused; status {codes[0]}" + "; it went back" * back
    many = f", {size} processes" if size > 1 else ""
    told = f"NaN at {what}, train.max_refused={IN_A_ROW}{many}"
    rows.append(row(told, 1, _joined(bad), note))
  return rows
