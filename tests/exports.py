"""Runs to export that were not trained: small models with weights away from the init."""

import atexit
import dataclasses
import os
import shutil
import tempfile
from pathlib import Path

import conftest
import jax
import jax.numpy as jnp
import models
import numpy as np

from crate_jax import config as config_lib
from crate_jax.data.tokenizer import make_tokenizer
from crate_jax.model import lm
from crate_jax.run import Run

# Before transformers is imported: no network, and nothing outside a folder of this process, in
# which it keeps the code of the models that it loads.
_HOME = tempfile.mkdtemp(prefix="crate_jax-hf-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ |= {"HF_HOME": _HOME, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
os.environ |= {"HF_MODULES_CACHE": f"{_HOME}/modules", "TRANSFORMERS_OFFLINE": "1"}


def random_params(model: lm.LM, std: float = 0.1, seed: int = 0) -> lm.Params:
  """Parameters of trained scale, no bias 0 and no gain 1; drawn by NumPy, so nothing compiles."""
  rng, abstract = np.random.default_rng(seed), lm.abstract_params(model)
  centres = {"scale": 1.0, "temperature": 1.0, "log_eta": np.log(0.1), "log_lam": np.log(0.1)}

  def draw(path, like):
    noise = std * rng.standard_normal(like.shape, np.float32)
    return jnp.asarray(centres.get(path[-1].key, 0.0) + noise, like.dtype)

  return jax.tree_util.tree_map_with_path(draw, abstract)


def run(name="crate", std=0.1, tokenizer="bytes", documents=(), **changes) -> Run:
  """A model of `models.FAMILY`, on bytes if not said otherwise, as if trained 7 steps."""
  model = models.member(name, **({"vocab_size": 260, "layers": 2} | changes))
  config = config_lib.resolve(conftest.small_config("text.txt"), model.config.vocab_size)
  config = dataclasses.replace(config, model=model.config)
  known = make_tokenizer(tokenizer, documents, [], 300, Path(_HOME))
  facts = {"text": "a text", "tokenizer_sha256": known.digest()}
  return Run(model, random_params(model, std), known, config, 7, facts)
