"""Small models for tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crate_jax.model import lm
from crate_jax.model.config import ModelConfig
from crate_jax.model.presets import PRESETS

# The published models, and models that together have every part and option that those lack.
FAMILY: dict[str, dict] = {
  **{name: {"architecture": name} for name in PRESETS},
  "query": {"mixing": "mssa_query"},
  "low_rank_query": {"mixing": "mssa_query", "query_rank": 3},
  "crate_mha": {"mixing": "mha"},
  "crate_tssa": {"mixing": "tssa"},
  "signed": {"nonnegative": False, "ista_steps": 3},
  "learned": {"learned_eta": True, "learned_lam": True, "residual": True},
  "one_step": {"ista_steps": 1, "decoder": "separate"},
  "warm": {"overcompleteness": 1, "warm_start": True, "ista_steps": 2, "nonnegative": False},
  "topk": {"architecture": "gpt2", "features": "topk", "topk": 5},
  "replacing_mlp": {"architecture": "gpt2", "residual": False, "bias": True},
  "gpt2_mssa": {"architecture": "gpt2", "mixing": "mssa", "l1": 0.01},
}
family = pytest.mark.parametrize("name", FAMILY)
# Fewer, for what takes long: each module of the model at least once.
PARTS = ("crate", "tost", "gpt2", "low_rank_query", "learned")
every_part = pytest.mark.parametrize("name", PARTS)
# All, of which those alone run without --slow.
family_if_slow = pytest.mark.parametrize(
  "name", [name if name in PARTS else pytest.param(name, marks=pytest.mark.slow) for name in FAMILY]
)


def config(architecture: str = "crate", **changes) -> ModelConfig:
  parts = dict.fromkeys(("query_rank", "topk"), 0) | {"l1": 0.0, "eta": 0.1, "lam": 0.1}
  parts |= {"nonnegative": True, "learned_eta": False, "learned_lam": False}
  sizes = {"layers": 3, "width": 16, "heads": 2, "context": 12, "vocab_size": 31}
  ways = {"dtype": "float32", "attention": "plain", "remat": "none", "unroll": False}
  return ModelConfig(architecture, **(parts | PRESETS[architecture]() | sizes | ways | changes))


def small(architecture: str = "crate", **changes) -> lm.LM:
  return lm.LM(config(architecture, **changes))


def member(name: str, **changes) -> lm.LM:
  """A small model of `FAMILY`."""
  return small(**(FAMILY[name] | changes))


@functools.partial(jax.jit, static_argnums=0)
def init(model: lm.LM, seed: int = 0) -> lm.Params:
  return lm.init_params(model, jax.random.key(seed))


@functools.partial(jax.jit, static_argnums=0)
def logits(model: lm.LM, params: lm.Params, tokens_BT: jax.Array) -> jax.Array:
  return model.apply({"params": params}, tokens_BT)


def token_nll(model: lm.LM, params: lm.Params, tokens_BT1: jax.Array) -> jax.Array:
  return model.apply({"params": params}, tokens_BT1, method="token_nll")


@functools.partial(jax.jit, static_argnums=0)
def cached_logits(model: lm.LM, variables: dict, tokens_BT, positions_BT) -> tuple:
  return model.apply(variables, tokens_BT, positions_BT, mutable=["cache"])


def random_params(model: lm.LM, seed: int = 0) -> lm.Params:
  """Parameters away from the init: biases and gains are not 0 and 1, attention is peaked."""
  params = init(model, seed)
  rng = np.random.default_rng(seed)

  def perturb(x: jax.Array) -> jax.Array:
    return x + jnp.asarray(0.1 * rng.standard_normal(x.shape), x.dtype)

  return jax.tree.map(perturb, params)


def tokens(model: lm.LM, rows: int = 2, length: int | None = None, seed: int = 1) -> np.ndarray:
  c = model.config
  rng = np.random.default_rng(seed)
  return rng.integers(0, c.vocab_size, (rows, length or c.context), dtype=np.int32)
