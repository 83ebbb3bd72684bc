"""Trains a model, or goes on with a run that was stopped.

Reads the config and the text that it names; writes the work directory: checkpoints/,
tokenizer.json, config.json, data.json, metrics.jsonl, tensorboard/, and at the end loss.png and
result.json. A trained tokenizer is also kept in ~/.cache/crate_jax.

  python -m crate_jax.main --config=configs/pile.py --workdir=runs/base
  python -m crate_jax.main --config=configs/pile.py:6L,gpt2 --workdir=runs/gpt6
  python -m crate_jax.main --config=configs/tiny.py --workdir=runs/t --config.train.steps=500

configs/base.py lists every key. The config is a Python file, and is run.
"""

import shlex
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from crate_jax import cli

CONFIG = config_flags.DEFINE_config_file(
  "config", None, "The config file, FILE.py[:ARGUMENT]; --config.KEY=VALUE changes a key."
)
WORKDIR = flags.DEFINE_string("workdir", "", "The run's folder, made if it is not there.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "End before the first step; the run is not begun.")
WANDB = flags.DEFINE_string("wandb", "", "Project on Weights & Biases to log to as well.")


def main() -> None:
  """Trains."""
  from crate_jax.training.loop import train  # not before: --help and wrong flags answer at once
  from crate_jax.training.report import say

  workdir = Path(WORKDIR.value).expanduser()
  result = train(CONFIG.value, workdir, wandb=WANDB.value, dry_run=DRY_RUN.value)
  if result:
    say("\nnext:")
    for command in _next_commands(workdir, result["architecture"]):
      say(f"  {command}")


def _next_commands(workdir: Path, architecture: str) -> list[str]:
  """What a person would type next: sample, score, and train the other architecture beside it."""
  other = "gpt2" if architecture == "crate" else "crate"
  own = ("workdir", "wandb", "config.model.architecture", "config.init_from")
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
  cli.run(main, required=["config", "workdir"])
