"""A work directory of a model that was not trained here."""

from pathlib import Path
from typing import Any

import jax

from crate_jax import config as config_lib
from crate_jax.config import Config
from crate_jax.hf import folder
from crate_jax.hf.source import Source
from crate_jax.model import lm
from crate_jax.training import checkpoint
from crate_jax.training import workdir as files
from crate_jax.training.metrics import Clock

_UNKNOWN = "unknown"


def write(source: Source, workdir: Path) -> None:
  """Writes the work directory, whole or not at all.

  `crate_jax.load` and `init_from` read it. Training does not go on in it, since neither its text
  nor its optimizer is known.

  Args:
    source: the model.
    workdir: the folder; if it is there, it must be empty.

  Raises:
    UserError: `workdir` holds something.
  """
  config, facts = _config(source), _facts(source)
  axes = lm.logical_axes(lm.LM(source.model))
  meta = {
    "config": config_lib.to_dict(config), "data": facts, "axes": axes, "clock": Clock({}).totals()
  }  # fmt: skip
  with folder.new(workdir, "workdir") as new:
    source.tokenizer.save(new / files.TOKENIZER)
    files.write_json(new / files.CONFIG, config_lib.to_dict(config))
    files.write_json(new / files.DATA, facts)
    with checkpoint.Checkpoints(new) as store:
      store.save_params(0, jax.tree.map(jax.numpy.asarray, source.params), meta)


def _facts(source: Source) -> dict[str, Any]:
  """data.json: no text is known, which no digest of one equals."""
  return {
    "text": _text(source),
    "train_sha256": _UNKNOWN,
    "validation_sha256": _UNKNOWN,
    "tokenizer_sha256": source.tokenizer.digest(),
  }


def _text(source: Source) -> str:
  """The description of its text; as the name of a file, one that is not there."""
  return f"unknown, loaded from {source.path}"


def _config(source: Source) -> Config:
  """A resolved config; beside the model it says only where the weights are from."""
  return Config(
    seed=0,
    init_from=str(source.path),
    model=source.model,
    data=config_lib.DataConfig("", _text(source), "", 0.1, "bpe", source.tokenizer.vocab_size, ""),
    optimizer=config_lib.OptimizerConfig(6e-4, 6e-5, "cosine", 0, 0.2, 0.9, 0.95, 0.1, 1.0),
    train=config_lib.TrainConfig(1, 1, 1, 1, 1, 0.0),
    evaluation=config_lib.EvaluationConfig(1, 0),
    checkpoint=config_lib.CheckpointConfig(0, 0.0, 1),
    mesh=config_lib.MeshConfig(-1, 1, 1, ""),
  )
