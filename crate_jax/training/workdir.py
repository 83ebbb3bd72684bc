"""The files of a run's work directory, and what may differ when it is resumed.

checkpoints/STEP   parameters, optimizer state, and (authoritative) config and data facts
tokenizer.json     the tokenizer, in the format of Hugging Face tokenizers
config.json        the resolved config, for people
data.json          what text it was: description, digests, counts
metrics.jsonl      one line per logged step and per evaluation
tensorboard/       the same for TensorBoard
wandb/, wandb_id   the same for Weights & Biases, if that was asked for
lock               held by the process that writes here
damaged/STEP       checkpoints that were not what was saved, set aside
loss.png           the loss curve, drawn at the end
result.json        the end of the run; written last
"""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from crate_jax import config as config_lib
from crate_jax import lock
from crate_jax.config import Config, Configuration
from crate_jax.data import atomic
from crate_jax.data.pipeline import Corpus
from crate_jax.data.tokenizer import Tokenizer
from crate_jax.errors import UserError
from crate_jax.model import lm
from crate_jax.training import checkpoint, optim, processes, report

TOKENIZER = "tokenizer.json"
CONFIG = "config.json"
DATA = "data.json"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
WANDB_ID = "wandb_id"
CURVE = "loss.png"
RESULT = "result.json"

# Keys that may differ when a run is resumed: its length, its batches (it goes on at the example
# where it stopped), its intervals, where and how it is computed, and where its text lies (the text
# itself may not: its digest is compared). All others are refused.
MAY_DIFFER = {
  "model.attention",
  "model.remat",
  "model.unroll",
  "train.steps",
  "train.log_every_steps",
  "evaluation.every_steps",
  "checkpoint.every_steps",
  "checkpoint.every_minutes",
  "checkpoint.keep",
  "mesh.data",
  "mesh.fsdp",
  "mesh.tensor",
  "mesh.topology",
  "train.batch_size",
  "train.accumulation",
  "train.max_refused",
  "train.stall_minutes",
  "data.prepared",
  "data.train",
  "data.validation",
  "data.cache_dir",
}


@contextmanager
def only_writer(workdir: Path) -> Iterator[None]:
  """Holds the run's folder, which it makes, against every other run.

  Of a job of several processes the first holds it for all.

  Raises:
    UserError: another run holds it.
  """
  with contextlib.ExitStack() as stack:
    refusal = ""
    if report.is_lead():
      try:
        stack.enter_context(lock.held(workdir, f"--workdir={workdir}"))
      except (UserError, OSError) as error:
        refusal = str(error).rstrip(".") + "."
    if not processes.first_says(not refusal):
      raise UserError(refusal or f"Process 0 may not write to {workdir}: it says why.")
    yield


def write_json(path: Path, value: Any) -> None:
  """Writes a JSON file at once or not at all."""
  atomic.write(path, json.dumps(value, indent=2) + "\n")


def read_meta(workdir: Path, step: int | None = None) -> dict[str, Any]:
  """What a checkpoint says of itself: step, config, data facts, clock."""
  return checkpoint.read_newest(workdir, checkpoint.Checkpoints.meta, step)[1]


def read_result(workdir: Path, steps: int) -> dict[str, Any] | None:
  """The run's result.json if it is that of a run of so many steps, and whole."""
  path = workdir / RESULT
  try:
    result = json.loads(path.read_bytes())
  except FileNotFoundError:
    return None
  except ValueError:  # of its encoding, or as JSON: it is made again
    report.say(f"{path} is damaged: the end of the run is computed again.")
    return None
  whole = isinstance(result, dict) and result.get("steps") == steps
  return result if whole and "sample" in result else None  # 0.1.0 wrote less


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
  """The lines of the run's metrics.jsonl, without those that are no metrics of a step.

  The last may have been cut short by a kill; of others it is said that they are left out.
  """
  path, lines, damaged = workdir / METRICS, [], 0
  there = path.read_bytes().splitlines() if path.exists() else []
  for number, line in enumerate(there, 1):
    try:
      values = json.loads(line)
    except ValueError:  # of its encoding, or as JSON
      values = None
    if isinstance(values, dict) and isinstance(values.get("step"), int):
      lines.append(values)
    else:
      damaged += number < len(there)
  if damaged:
    report.say(f"{path}: {damaged:,} damaged lines are left out.")
  return lines


@dataclasses.dataclass(frozen=True)
class Resume:
  """What a work directory holds to go on from.

  Attributes:
    step: the checkpoint's.
    data: the run's data facts.
    examples: windows that it has drawn.
    skipped: batches of these whose updates were not applied.
    clock: where `metrics.Clock` stood.
    tokenizer: the run's.
    saved: the config that the checkpoint was trained with.
    asked: the config to go on with.
  """

  step: int
  data: dict[str, Any]
  examples: int
  skipped: int
  clock: dict[str, Any]
  tokenizer: Tokenizer
  saved: Config
  asked: Config


def find_resume(workdir: Path, config: Configuration, step: int | None = None) -> Resume | None:
  """The point that a run in `workdir` goes on from; None if it has no checkpoint yet.

  Args:
    workdir: the run's folder.
    config: the config to go on with.
    step: a checkpoint; the newest by default.

  Raises:
    UserError: the config asked for is not one that this run can go on with.
  """
  if not checkpoint.steps(workdir):
    return None
  meta = read_meta(workdir, step)
  tokenizer = read_tokenizer(workdir, meta["data"])
  asked = config_lib.resolve(config, tokenizer.vocab_size)
  saved = config_lib.from_dict(meta["config"])
  check_resume(workdir, saved, asked, meta["step"])
  # Runs of before batches could change did not count.
  examples = meta.get("examples", meta["step"] * saved.train.batch_size)
  return Resume(
    meta["step"],
    meta["data"],
    examples,
    meta.get("skipped", 0),
    meta["clock"],
    tokenizer,
    saved,
    asked,
  )


def write_description(workdir: Path, config: Config, corpus: Corpus) -> None:
  """Writes the tokenizer, the config and the data facts."""
  workdir.mkdir(parents=True, exist_ok=True)
  corpus.tokenizer.save(workdir / TOKENIZER)
  write_json(workdir / CONFIG, config_lib.to_dict(config))
  write_json(workdir / DATA, corpus.facts)


def branch(source: Path, step: int, workdir: Path) -> None:
  """Makes a run that stands where another stood after `step`, to go on from there.

  It is there whole or not at all. Trained on, it is bit for bit the run that its config would have
  been from the start, which `check_resume` sees to.

  Args:
    source: the other run's folder.
    step: one of its checkpoints.
    workdir: the new run's folder, which must not be there.
  """
  made = workdir.with_name(f".{workdir.name}.branching")
  shutil.rmtree(made, ignore_errors=True)  # of one that was killed
  there = checkpoint.directory(source) / str(step)
  shutil.copytree(there, checkpoint.directory(made) / str(step))
  for name in (TOKENIZER, CONFIG, DATA, METRICS):
    shutil.copy2(source / name, made / name)
  made.rename(workdir)


def source_tokenizer(init_from: str) -> Tokenizer:
  """The tokenizer of the run that `init_from` names."""
  workdir, step = _parse_run(init_from)
  return read_tokenizer(workdir, read_meta(workdir, step)["data"])


def check_source(init_from: str, like: lm.Params) -> None:
  """Refuses an `init_from` whose parameters do not have the names and shapes of `like`."""
  meta = read_meta(*_parse_run(init_from))
  there = lm.abstract_params(lm.LM(config_lib.from_dict(meta["config"]).model))
  shapes = {jax.tree_util.keystr(path): x.shape for path, x in jax.tree.leaves_with_path(there)}
  for path, leaf in jax.tree.leaves_with_path(like):
    name = jax.tree_util.keystr(path)
    if shapes.pop(name, None) != leaf.shape:
      raise UserError(f"init_from={init_from!r} is another model: {name} differs.")
  if shapes:
    raise UserError(f"init_from={init_from!r} is another model: it also has {min(shapes)}.")


def source_params(init_from: str, like: lm.Params) -> lm.Params:
  """The parameters of the run that `init_from` names, laid out as `like`."""
  workdir, step = _parse_run(init_from)
  return checkpoint.read_newest(workdir, lambda store, s: store.restore_params(s, like), step)[1]


def _parse_run(name: str) -> tuple[Path, int | None]:
  """A run and one of its steps, from "WORKDIR" or "WORKDIR@STEP"."""
  workdir, at, step = name.rpartition("@")
  if not at or Path(name).expanduser().exists():
    return Path(name).expanduser(), None
  if not step.isdigit():
    raise UserError(f"init_from={name!r} must be WORKDIR or WORKDIR@STEP.")
  return Path(workdir).expanduser(), int(step)


def read_tokenizer(workdir: Path, facts: dict[str, Any]) -> Tokenizer:
  """The run's tokenizer, checked against the data facts of one of its checkpoints."""
  tokenizer = Tokenizer.load(workdir / TOKENIZER)
  if tokenizer.digest() != facts["tokenizer_sha256"]:
    raise UserError(
      f"{workdir / TOKENIZER} is not the tokenizer that the checkpoints of {workdir} were trained "
      f"with (sha256 {facts['tokenizer_sha256'][:12]}...)."
    )
  return tokenizer


def check_resume(workdir: Path, saved: Config, asked: Config, step: int) -> None:
  """Refuses to resume a run at `step` under a config that would make it another run."""
  before = config_lib.flatten(config_lib.to_dict(saved))
  after = config_lib.flatten(config_lib.to_dict(asked))
  for key, value in before.items():
    if key not in MAY_DIFFER and after[key] != value:
      raise UserError(
        f"{workdir} holds a run with {key}={value!r}, and this config says {after[key]!r}: "
        "choose another --workdir or the run's own config."
      )
  if asked.train.steps < step:
    raise UserError(
      f"train.steps={asked.train.steps} is fewer than the {step} steps that the run in {workdir} "
      "has already trained."
    )
  if asked.train.steps != saved.train.steps:
    start = min(optim.decay_start(c.optimizer, c.train.steps) for c in (saved, asked))
    if start < step:
      raise UserError(
        f"The run in {workdir} cannot go from train.steps={saved.train.steps} to "
        f"{asked.train.steps} at step {step}: the number of steps decides its learning rate from "
        f"step {start} on. Branch from a checkpoint at constant rate instead: a new run with "
        '--config.init_from=WORKDIR@STEP, of a run with optimizer.schedule="wsd" before its decay.'
      )


def check_text(workdir: Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
  """Refuses to go on with another text than the run's."""
  for key in ("train_sha256", "validation_sha256"):
    if saved[key] != now[key]:
      raise UserError(
        f"data.{key.removesuffix('_sha256')} is not the text that the run in {workdir} was trained "
        f"on ({saved['text']}): sha256 {now[key][:12]}... in place of {saved[key][:12]}...."
      )
