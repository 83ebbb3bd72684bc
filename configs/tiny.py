"""A small CRATE that trains in minutes on two CPU cores, on text that every machine has.

  launch/local.sh
  python -m crate_jax.main --config=configs/tiny.py --workdir=runs/tiny
  python -m crate_jax.main --config=configs/tiny.py:gpt2 --workdir=runs/tiny-gpt2

Argument: ARCHITECTURE, crate by default. Four to six minutes on two CPU cores. There is no
published loss: the reference lines are those that the run prints.
"""

from ml_collections import config_dict

from configs import base


def get_config(architecture: str = "crate") -> config_dict.ConfigDict:
  """Two layers of width 128, 2.87 M tokens of Python's standard library."""
  c = base.get_config(f"2L,{architecture}")
  c.model.context = 256
  c.model.vocab_size = None
  c.model.dtype = "float32"
  c.data.train = "python_stdlib"
  c.data.bpe_vocab_size = 2048
  c.optimizer.learning_rate = 3e-3
  c.optimizer.warmup_steps = 100
  c.mesh.topology = "v5e:2x2"
  c.train.steps = 2800
  c.train.batch_size = 4
  c.evaluation.every_steps = 700
  c.evaluation.tokens = 50_000
  c.checkpoint.every_steps = 700
  return c
