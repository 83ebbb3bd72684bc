"""Trains a model, or goes on with a run that was stopped.

Reads the config and the text that it names; writes the work directory: checkpoints,
tokenizer.json, config.json, data.json, metrics.jsonl, and at the end result.json.

  python -m crate_jax.main --config=configs/base.py --workdir=runs/base
  python -m crate_jax.main --config=configs/base.py:6L,gpt2 --workdir=runs/gpt6
  python -m crate_jax.main --config=configs/tiny.py --workdir=runs/t --config.train.steps=500

configs/base.py lists every key. The config is a Python file, and is run.
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from crate_jax import cli

CONFIG = config_flags.DEFINE_config_file(
  "config", None, "The config file, FILE.py[:ARGUMENT]; --config.KEY=VALUE changes a key."
)
WORKDIR = flags.DEFINE_string("workdir", "", "The run's folder, made if it is not there.")


def main() -> None:
  """Trains."""
  from crate_jax.training.loop import train  # not before: --help and wrong flags answer at once

  train(CONFIG.value, Path(WORKDIR.value).expanduser())


if __name__ == "__main__":
  cli.run(main, required=["config", "workdir"])
