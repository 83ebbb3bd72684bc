"""Trains a model, or goes on with a run that was stopped.

Reads the config and the text that it names; writes the work directory: checkpoints/,
tokenizer.json, config.json, data.json, metrics.jsonl, tensorboard/, and at the end loss.png and
result.json. A trained tokenizer is also kept in ~/.cache/crate_jax.

  python -m crate_jax.main --config=configs/pile.py --workdir=runs/base
  python -m crate_jax.main --config=configs/pile.py:6L,gpt2 --workdir=runs/gpt6
  python -m crate_jax.main --config=configs/tiny.py --workdir=runs/t --config.train.steps=500

configs/base.py lists every key. The config is a Python file, and is run.
"""

import re
import shlex
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from crate_jax import cli
from crate_jax.errors import Lost, Stopped

CONFIG = config_flags.DEFINE_config_file(
  "config", None, "The config file, FILE.py[:ARGUMENT]; --config.KEY=VALUE changes a key."
)
WORKDIR = flags.DEFINE_string("workdir", "", "The run's folder, made if it is not there.")
PROFILE = flags.DEFINE_string("profile", "", "FIRST:COUNT, steps to record in WORKDIR/profile.")
COMPILE_ONLY = flags.DEFINE_bool(
  "compile_only", False, "Say what a step takes (memory, exchange, time at best), and end."
)
TOPOLOGY = flags.DEFINE_string(
  "topology", None, "With --compile_only: the TPU slice, as v5p:4x4x8; '' for what is here."
)
NUM_SLICES = flags.DEFINE_integer("num_slices", 1, "With --compile_only: how many such slices.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "End before the first step; the run is not begun.")
COORDINATOR = flags.DEFINE_string(
  "coordinator", "", "HOST:PORT of process 0, to start several by hand; pods and Slurm need none."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator: how many.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --coordinator: which this is, from 0.")
WAIT_SECONDS = flags.DEFINE_integer(
  "wait_seconds", 300, "How long to wait for all processes to start.", lower_bound=1
)
WANDB = flags.DEFINE_string("wandb", "", "Project on Weights & Biases to log to as well.")


# The flags of one process at one start, which the commands to type next do not repeat.
ONE_START = ("coordinator", "num_processes", "process_id", "wait_seconds", "profile")


def main() -> None:
  """Trains."""
  if not COMPILE_ONLY.value and (TOPOLOGY.value is not None or NUM_SLICES.value != 1):
    raise flags.Error("--topology and --num_slices go with --compile_only.")
  if TOPOLOGY.value == "" and NUM_SLICES.value != 1:
    raise flags.Error("--num_slices goes with a --topology.")
  if COMPILE_ONLY.value:
    _compile_only()
    return
  from crate_jax.training import processes  # not before: --help and wrong flags answer at once

  # Before anything asks for devices: the first who asks decides what is there.
  processes.start(
    COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value, wait_seconds=WAIT_SECONDS.value
  )
  import jax

  from crate_jax.training.loop import train
  from crate_jax.training.report import say

  workdir = Path(WORKDIR.value).expanduser()
  try:
    result = train(
      CONFIG.value, workdir, wandb=WANDB.value, profile=PROFILE.value, dry_run=DRY_RUN.value
    )
  except Stopped:
    processes.finish()
    raise
  except jax.errors.JaxRuntimeError as error:
    exchange = re.search("gloo|nccl|coordination|heartbeat|UNAVAILABLE|DEADLINE", str(error), re.I)
    if jax.process_count() == 1 or not exchange:
      raise
    reason = str(error).strip().splitlines()[0].rstrip(".")
    raise Lost(
      f"Process {jax.process_index()} lost the others ({reason}): start the job again, and it goes "
      "on from its newest checkpoint."
    ) from error
  processes.finish()
  if result:
    say("\nnext:")
    for command in _next_commands(workdir, result["architecture"]):
      say(f"  {command}")


def _compile_only() -> None:
  from crate_jax import config as config_lib
  from crate_jax.training import plan, report

  c = config_lib.resolve_without_text(CONFIG.value)
  topology = c.mesh.topology if TOPOLOGY.value is None else TOPOLOGY.value
  devices = plan.tpu_devices(topology, NUM_SLICES.value) if topology else None
  report.planned(c, topology, *plan.compile_only(c, devices))


def _next_commands(workdir: Path, architecture: str) -> list[str]:
  """What a person would type next: sample, score, and train the other architecture beside it."""
  other = "gpt2" if architecture == "crate" else "crate"
  own = ("workdir", "wandb", "config.model.architecture", "config.init_from", *ONE_START)
  again, value_follows = [], False
  for argument in sys.argv[1:]:
    name, equals, _ = argument.lstrip("-").partition("=")
    if argument.startswith("-") and name in own:
      value_follows = not equals  # as in "--workdir NAME"
    elif value_follows:
      value_follows = False
    else:
      again.append(argument)
  changed = [f"--workdir={workdir}-{other}", f"--config.model.architecture={other}"]
  return [
    shlex.join([cli.python(), "-m", f"crate_jax.{module}", *arguments])
    for module, arguments in (
      ("generate", [f"--workdir={workdir}", "--length=100"]),
      ("evaluate", [f"--workdir={workdir}"]),
      ("main", [*again, *changed]),
    )
  ]


if __name__ == "__main__":
  cli.run(main, required=["config", "workdir"], instead="compile_only")
