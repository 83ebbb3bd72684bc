"""Runs to export that were not trained: small models with weights away from the init."""

import contextlib
import dataclasses
from pathlib import Path

import conftest
import jax
import jax.numpy as jnp
import models
import numpy as np

from crate_jax import config as config_lib
from crate_jax.data import tokenizer
from crate_jax.model import lm
from crate_jax.run import Run


def offline(patch, folder: Path) -> None:
  """Keeps Hugging Face's libraries from the network and in a folder of the test's."""
  for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
    patch.setenv(name, "1")
  patch.setenv("HF_HOME", str(folder))
  patch.setenv("HF_MODULES_CACHE", str(folder / "modules"))
  with contextlib.suppress(ImportError):  # imported before, it does not look there again
    from transformers import dynamic_module_utils

    patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(folder / "modules"))


def random_params(model: lm.LM, std: float = 0.1, seed: int = 0) -> lm.Params:
  """Parameters of trained scale, no bias 0 and no gain 1; drawn by NumPy, so nothing compiles."""
  rng, abstract = np.random.default_rng(seed), lm.abstract_params(model)
  centres = {"scale": 1.0, "temperature": 1.0, "log_eta": np.log(0.1), "log_lam": np.log(0.1)}

  def draw(path, like):
    noise = std * rng.standard_normal(like.shape, np.float32)
    return jnp.asarray(centres.get(path[-1].key, 0.0) + noise, like.dtype)

  return jax.tree_util.tree_map_with_path(draw, abstract)


def run(name: str = "crate", std: float = 0.1, **changes) -> Run:
  """A model of `models.FAMILY` on bytes, as if it had been trained 7 steps."""
  model = models.member(name, **({"vocab_size": 260, "layers": 2} | changes))
  config = config_lib.resolve(conftest.small_config("text.txt"), model.config.vocab_size)
  config = dataclasses.replace(config, model=model.config)
  known = tokenizer.make_tokenizer("bytes", [], [], 257, None)
  facts = {"text": "a text", "tokenizer_sha256": known.digest()}
  return Run(model, random_params(model, std), known, config, 7, facts)
