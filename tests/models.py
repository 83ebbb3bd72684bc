"""Small models for tests."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.model import lm
from crate_jax.model.config import ModelConfig

SMALL = ModelConfig(
  architecture="crate",
  layers=3,
  width=16,
  heads=2,
  context=12,
  vocab_size=31,
  overcompleteness=4,
  ista_steps=2,
  eta=0.1,
  lam=0.1,
  dtype="float32",
  attention="plain",
  remat="none",
  unroll=False,
)


def small(architecture: str = "crate", **changes) -> lm.LM:
  return lm.LM(dataclasses.replace(SMALL, architecture=architecture, **changes))


@functools.partial(jax.jit, static_argnums=0)
def init(model: lm.LM, seed: int = 0) -> lm.Params:
  return lm.init_params(model, jax.random.key(seed))


@functools.partial(jax.jit, static_argnums=0)
def logits(model: lm.LM, params: lm.Params, tokens_BT: jax.Array) -> jax.Array:
  return model.apply({"params": params}, tokens_BT)


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
