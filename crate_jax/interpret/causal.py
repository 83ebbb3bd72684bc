"""What a neuron does to the network's predictions: its loss when ablated, its effect on logits."""

import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.interpret.network import Network
from crate_jax.interpret.rules import Tables
from crate_jax.model import activations, lm
from crate_jax.model.activations import Edit
from crate_jax.model.config import ModelConfig

WINDOWS = 8  # of text, on which neurons are ablated


def loss(network: Network, tokens_NT: np.ndarray, rows: int) -> float:
  """Loss on windows, nats per token; `rows` windows at a time, all tokens but their first."""
  variables = {
    "params": network.params,
    **activations.collection(network.model.config, network.edits),
  }
  parts = np.split(tokens_NT, range(rows, len(tokens_NT), rows))
  sums = [len(part) * float(_loss(network.model, variables, part)) for part in parts]
  return sum(sums) / len(tokens_NT)


def added_loss(
  network: Network, tokens_NT: np.ndarray, units: Sequence[tuple[int, int]]
) -> np.ndarray:
  """Loss with a neuron set to zero minus the loss as it is, in nats per token, one per neuron.

  Args:
    network: what is looked at; what it changes inside stays changed.
    tokens_NT: windows.
    units: layers and numbers of the neurons.
  """
  config = network.model.config
  name = activations.neurons(config)

  def edited(edits: tuple[Edit, ...]) -> float:
    variables = {"params": network.params, **activations.collection(config, edits)}
    return float(_loss(network.model, variables, tokens_NT))

  # An edit that changes nothing, so that both losses come from the same compiled program.
  base = edited((*network.edits, Edit(name, 0, 0, scale=1.0)))
  return np.array(
    [edited((*network.edits, Edit(name, layer, unit))) - base for layer, unit in units], np.float64
  )


@functools.partial(jax.jit, static_argnums=0)
def _loss(model: lm.LM, variables: lm.Params, tokens_NT: jax.Array) -> jax.Array:
  nll_NT: jax.Array = model.apply(variables, tokens_NT, method="token_nll")  # type: ignore[assignment]
  return jnp.mean(nll_NT)


def logit_effects(
  config: ModelConfig, params: lm.Params, units_Ln: np.ndarray
) -> Iterator[np.ndarray]:
  """What one unit of each neuron adds to the logits directly, effect_nV, layer by layer.

  It is what the neuron's row of the decoder gives through the last norm, as if the norm divided by
  one and the blocks in between handed it on. They do not where a block has no residual (CRATE):
  there it is exact up to a factor for the last layer only, a logit lens for the others.

  Args:
    config: of the model.
    params: its parameters.
    units_Ln: the neurons of each layer.
  """
  features = params["blocks"].get("features", {})
  tied = features.get("decoder", features.get("dictionary"))
  tokens_VD = np.asarray(params["tokens"], np.float32)
  scale_D = np.asarray(params["norm"]["scale"], np.float32)
  for layer, units in enumerate(units_Ln):
    if config.decoder == "none":
      row_nD = np.eye(config.width, dtype=np.float32)[units]
    else:
      row_nD = np.asarray(tied[layer], np.float32)[units]
    row_nD = (row_nD - row_nD.mean(1, keepdims=True)) * scale_D
    effect_nV = row_nD @ tokens_VD.T
    yield effect_nV - effect_nV.mean(1, keepdims=True)


def agreement(effect_nV: np.ndarray, tables: Tables, first: int) -> np.ndarray:
  """How well a neuron's effect on each token's logit predicts its activation before that token.

  The correlation over the vocabulary of the effect with the mean activation where the token comes
  next, weighted by how often it does. NaN where either is constant.

  Args:
    effect_nV: of a layer's neurons (`logit_effects`).
    tables: sums over a text.
    first: the number of the layer's first neuron in them.
  """
  seen = tables.next_V > 0
  weight_V = tables.next_V[seen] / tables.next_V.sum()
  mean_Vn = tables.next_VM[:, first : first + len(effect_nV)][seen] / tables.next_V[seen][:, None]
  effect_nV = effect_nV[:, : len(seen)][:, seen]  # beyond lies padding of the embedding
  x_nV = effect_nV - (effect_nV @ weight_V)[:, None]
  y_nV = (mean_Vn - weight_V @ mean_Vn).T
  both_n = (x_nV * y_nV) @ weight_V
  size_n = np.sqrt(((x_nV**2) @ weight_V) * ((y_nV**2) @ weight_V))
  return np.divide(both_n, size_n, out=np.full_like(both_n, np.nan), where=size_n > 0)
