"""One cell of a sweep: trained, scored on the reserved works, and written down.

WORKDIR/runs/CELL         the run (`training.workdir`)
WORKDIR/runs/CELL.log     what it printed
WORKDIR/cells/CELL.json   what came of it; written last
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from crate_jax import lock
from crate_jax.data import shards
from crate_jax.errors import Diverged, UserError
from crate_jax.run import Run, load
from crate_jax.scaling import grid as grid_lib
from crate_jax.scaling.grid import Cell, Grid
from crate_jax.scaling.table import Row
from crate_jax.training import checkpoint, loop, processes, report
from crate_jax.training import workdir as files

LOSSES = ("loss", "bits_per_byte", "loss_of_rates", "train_loss")  # infinite if a run diverged


def folder(workdir: Path, cell: Cell) -> Path:
  """Of the run."""
  return workdir / "runs" / cell.name


def log(workdir: Path, cell: Cell) -> Path:
  """What the run printed."""
  return workdir / "runs" / f"{cell.name}.log"


def result_path(workdir: Path, name: str) -> Path:
  """Of what came of it."""
  return workdir / "cells" / f"{name}.json"


def train(config: ConfigDict, cell: Cell, workdir: Path, *, straight: bool = False) -> None:
  """Trains a cell from where the longest shorter one left their trunk, and writes its result.

  Args:
    config: of the sweep, with `data.prepared`.
    cell: which.
    workdir: the sweep's.
    straight: from the start, whatever there is.

  Raises:
    UserError: as `loop.train`, or another process trains it; a run that diverged is a result and no
      error.
  """
  with contextlib.ExitStack() as stack:
    if report.is_lead():
      stack.enter_context(lock.held(workdir / "locks" / cell.name, cell.name))
    _train(config, cell, workdir, straight)


def _train(config: ConfigDict, cell: Cell, workdir: Path, straight: bool) -> None:
  grid = grid_lib.read(config)
  c, run = grid_lib.cell_config(config, grid, cell), folder(workdir, cell)
  if not checkpoint.steps(run):
    if report.is_lead():
      shutil.rmtree(run, ignore_errors=True)  # of one that was killed before its first checkpoint
      if not straight and (source := _source(grid, cell, workdir)):
        run.parent.mkdir(parents=True, exist_ok=True)
        files.branch(*source, run)
        report.say(f"branched from {source[0]} after step {source[1]:,}")
    processes.agree("branch", str(checkpoint.steps(run)))
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
  facts = {"digest": grid_lib.digest(c, grid), "cores": cores, **report.environment()}
  try:
    result = loop.train(c, run)
  except Diverged as diverged:
    report.say(f"{diverged}")
    _write(workdir, cell, _described(cell, facts))
    return
  if jax.process_count() > 1:
    report.say("trained; the sweep scores it when it is run by one process.")
    return
  _write(
    workdir, cell, {**_described(cell, facts), **_trained(result, run), **_scored(load(run), c)}
  )


def _write(workdir: Path, cell: Cell, values: dict[str, Any]) -> None:
  if report.is_lead():
    files.write_json(result_path(workdir, cell.name), report.finite(values))


def _source(grid: Grid, cell: Cell, workdir: Path) -> tuple[Path, int] | None:
  """The run and the checkpoint of the same trunk that spare most: at the constant rate in both."""
  best = None
  for steps in sorted({*grid.steps, *(steps for _, steps in grid.trials)}):
    there = folder(workdir, dataclasses.replace(cell, steps=steps))
    leaves = grid.leaves(steps)
    if steps < cell.steps and cell.schedule == "wsd" and leaves in checkpoint.steps(there):
      best = there, leaves
  return best


def _described(cell: Cell, facts: dict[str, Any]) -> dict[str, Any]:
  """What there is to say of a cell before it is trained, and what is not known without."""
  none: dict[Any, Any] = {str: "", int: 0, float: 0.0}
  values = {field.name: none.get(field.type, []) for field in dataclasses.fields(Row)}
  shape = dataclasses.asdict(cell.shape)
  named = {"variant": cell.variant, "steps": cell.steps, "seed": cell.seed}
  recipe = {"schedule": cell.schedule, "learning_rate": cell.rate}
  of_cell = {"cell": cell.name, **shape, **named, **recipe}
  facts = {name: facts[name] for name in ("digest", "cores", "device", "jax", "commit")}
  return {**values, **dict.fromkeys(LOSSES, math.nan), **of_cell, **facts}


def _trained(result: dict[str, Any], run: Path) -> dict[str, Any]:
  """What training says of itself."""
  lines = [line for line in files.read_metrics(run) if "val_loss" in line]
  tokens = result["steps"] * result["config"]["train"]["batch_size"]
  tokens *= result["config"]["model"]["context"]  # of updates: those refused are not among them
  digests = files.read_meta(run, result["steps"])["digests"]["params"]
  return {
    "tokens": tokens,
    "epochs": tokens / result["data"]["train_tokens"],
    "parameters": result["parameters"],
    "block_parameters": result["block_parameters"],
    "flops_per_token": result["flops_per_token"],
    "train_loss": result["train_loss"],
    "nonzero": result["nonzero"],
    "curve_tokens": [line["tokens"] for line in lines],
    "curve_loss": [line["val_loss"] for line in lines],
    "seconds": result["seconds"],
    "tokens_per_second": result["tokens_per_second"],
    "text": result["data"]["train_sha256"],
    "weights": hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()[:16],
    "commit": result["commit"],
  }


def _scored(run: Run, config: ConfigDict) -> dict[str, Any]:
  """Its loss on the works that were set aside, each for itself.

  Every second work, in the text's order, is for choosing rates, and the others are for all else.
  """
  s, prepared = config.sweep, Path(config.data.prepared).expanduser()
  works = list(reserved(prepared, s.works, s.tokens_per_work))
  evaluation, for_rates = ([run.loss(work) for work in works[first::2]] for first in (0, 1))
  nats = [work.nats * work.tokens for work in evaluation]
  total = sum(nats) / sum(work.tokens for work in evaluation)
  return {
    "loss": total,
    "bits_per_byte": sum(nats) / math.log(2) / sum(work.bytes for work in evaluation),
    "loss_of_rates": sum(work.nats * work.tokens for work in for_rates)
    / sum(work.tokens for work in for_rates),
    "work_nats": nats,
    "work_tokens": [work.tokens for work in evaluation],
  }


def reserved(prepared: Path, works: int, tokens: int) -> Iterator[np.ndarray]:
  """The middle of documents that the preparation set aside, at most so many tokens of each.

  At most so many documents, spread evenly over all.

  Raises:
    UserError: there are fewer than two works.
  """
  stream = shards.Prepared(prepared).split("validation")
  ends = stream.ends()
  if len(ends) < 2:
    raise UserError(
      f"{prepared} sets {len(ends)} works aside: a sweep needs two at least, one to choose rates "
      "by and one to evaluate on; raise data.validation_fraction or name a text of more works."
    )
  starts = np.concatenate([[0], ends[:-1]])
  chosen = np.unique(np.linspace(0, len(ends) - 1, min(works, len(ends))).round().astype(int))
  for start, end in zip(starts[chosen], ends[chosen], strict=True):
    first = start + max(0, (end - start - tokens) // 2)
    yield stream[int(first) : int(min(first + tokens, end))]


def results(workdir: Path) -> dict[str, dict[str, Any]]:
  """What came of every cell that has ended, by its name; a loss that is not finite is infinite.

  Raises:
    UserError: a file is damaged.
  """
  found = {}
  for path in sorted((workdir / "cells").glob("*.json")):
    try:
      values = json.loads(path.read_bytes())
      names = [field.name for field in dataclasses.fields(Row)]
      found[path.stem] = {name: values[name] for name in names}
    except (ValueError, KeyError, TypeError) as error:
      raise UserError(
        f"{path} is damaged ({error!r}): remove it to train the cell again."
      ) from error
    for name in LOSSES:
      if found[path.stem][name] is None:
        found[path.stem][name] = math.inf
  return found


def from_rows(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
  """The same of a table: a row of a trial holds the loss on the other text as well."""
  found = {}
  for row in rows:
    values = dataclasses.asdict(row)
    if row.work_tokens:
      values["loss"] = sum(row.work_nats) / sum(row.work_tokens)
    found[row.cell] = values
  return found


def row(result: dict[str, Any], kind: str) -> Row:
  """A row of the table; what a trial shows is its loss on the text that rates are chosen by."""
  loss = result["loss_of_rates"] if kind == "trial" else result["loss"]
  return Row(**{**result, "kind": kind, "loss": loss})
