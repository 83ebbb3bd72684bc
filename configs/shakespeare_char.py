"""nanoGPT's character-level Shakespeare on a CPU, for CRATE and for the GPT-2 baseline.

  python -m crate_jax.main --config=configs/shakespeare_char.py:gpt2 --workdir=runs/shakespeare \\
    --config.data.train=input.txt

Argument: ARCHITECTURE, crate by default. `input.txt` is the tiny Shakespeare corpus of char-rnn
(github.com/karpathy/char-rnn, data/tinyshakespeare). 4 layers, 4 heads, width 128, context 64,
batch 12, 2,000 steps; two to four minutes on two CPU cores.

Published validation loss of this recipe: 1.88 nats per character (nanoGPT's README; its baseline
is a GPT-2 with GELU, ours has ReLU as the paper's; nanoGPT estimates on random windows, here the
whole validation split is scored).
"""

from ml_collections import config_dict

from configs import base


def get_config(architecture: str = "crate") -> config_dict.ConfigDict:
  """nanoGPT's CPU recipe without dropout."""
  c = base.get_config(f"1L,{architecture}")
  c.model.layers = 4
  c.model.context = 64
  c.model.vocab_size = None
  c.model.dtype = "float32"
  c.data.train = "input.txt"
  c.data.tokenizer = "characters"
  c.optimizer.learning_rate = 1e-3
  c.optimizer.final_learning_rate = 1e-4
  c.optimizer.warmup_steps = 100
  c.optimizer.beta2 = 0.99
  c.mesh.topology = "v5e:2x2"
  c.train.steps = 2000
  c.train.batch_size = 12
  c.evaluation.every_steps = 500
  c.evaluation.tokens = 0
  c.checkpoint.every_steps = 500
  return c
