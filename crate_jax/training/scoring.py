"""What is computed of a model that trains: its loss, its gauges, and at the end a sample."""

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from crate_jax.config import Config
from crate_jax.data.tokenizer import Tokenizer
from crate_jax.evaluation import loss as loss_lib
from crate_jax.model import lm, sampling
from crate_jax.model.features.ista import eta_sigma2, step_sizes
from crate_jax.training.program import Program
from crate_jax.training.sinks import Value

SAMPLE_TOKENS = 200  # of the text that a run ends with


def evaluator(
  program: Program, config: Config, tokenizer: Tokenizer, after_each: Callable[[], None]
) -> Callable[[lm.Params, np.ndarray], loss_lib.Loss]:
  """(params, tokens) -> loss, computed as the batches are: over all devices.

  `after_each` is called after every batch.
  """
  byte_lengths = tokenizer.byte_lengths()

  def evaluate(params: lm.Params, tokens: np.ndarray) -> loss_lib.Loss:
    return loss_lib.text_loss(
      program.model,
      params,
      tokens,
      byte_lengths,
      context=config.model.context,
      batch_size=config.train.batch_size // config.train.accumulation,
      sharding=program.batch_sharding,
      after_each=after_each,
    )

  return evaluate


def evaluation(loss: loss_lib.Loss, config: Config, params: lm.Params) -> dict[str, Value]:
  """What an evaluation reports: the loss, and per layer what shows how CRATE does."""
  values: dict[str, Value] = {
    "val_loss": loss.nats,
    "bits_per_byte": loss.bits_per_byte,
    "nonzero": list(loss.nonzero),
  }
  if config.model.features == "ista":
    features = params["blocks"]["features"]
    eta_L, lam_L = step_sizes(features, config.model)
    gauges = {"eta_sigma2": _eta_sigma2(features["dictionary"], eta_L)}
    if config.model.learned_eta:
      gauges["eta"] = eta_L
    if config.model.learned_lam:
      gauges["lam"] = lam_L
    for name, gauge in multihost_utils.process_allgather(gauges, tiled=True).items():
      values[name] = gauge.tolist()
  return values


_eta_sigma2 = jax.jit(eta_sigma2)


def sample(model: lm.LM, params: lm.Params, tokenizer: Tokenizer) -> str:
  """What the model writes from the start of a document; the same for the same parameters."""
  (tokens,) = sampling.sample(
    model,
    {"params": params},
    [np.array([tokenizer.end_of_text], np.int32)],
    SAMPLE_TOKENS,
    jax.random.key(0),
    temperature=0.8,
    top_k=0,
    vocab_size=tokenizer.vocab_size,
  )
  return tokenizer.decode(tokens[1:])
