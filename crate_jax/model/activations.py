"""The named activations of a model: seen, and edited, in one pure function.

stream     what enters a block, D units
u          coordinates in the subspaces (MSSA), values (MHA), statistics' features (TSSA); D units,
           head by head
attention  what the mixing step adds to the stream, D units
A1 ... At  the codes after each ISTA step, or an MLP's hidden units A1, C units; the last are the
           neurons
decoded    what the feature step returns, D units
logits     of the next token, V units; of no layer
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.errors import UserError
from crate_jax.model.config import ModelConfig

LOGITS = "logits"
_RECORD, _EDIT = "activations", "edits"


@dataclasses.dataclass(frozen=True)
class Edit:
  """Replaces units x of an activation by scale * x + add, at every token.

  As it stands it zeroes them; `add=v` sets them to v; `scale=s` multiplies them by s.

  Attributes:
    activation: its name, see above.
    layer: counted from 0; None for every layer.
    unit: counted from 0; None for every unit.
    scale: factor.
    add: term; a number.
  """

  activation: str
  layer: int | None = None
  unit: int | None = None
  scale: float = 0.0
  add: float = 0.0


def neurons(config: ModelConfig) -> str:
  """Name of the activation that holds the neurons: the last codes.

  Raises:
    UserError: the model has no feature step.
  """
  if not config.codes:
    raise UserError(f"model.features={config.features!r} has no neurons.")
  return f"A{config.code_steps}"


def widths(config: ModelConfig) -> dict[str, int]:
  """Units of every activation that a model has, by name."""
  blocks = {"stream": config.width, "u": config.width, "attention": config.width}
  blocks |= {f"A{t}": config.codes for t in range(1, config.code_steps + 1)}
  if config.codes:
    blocks["decoded"] = config.width
  return blocks | {LOGITS: config.vocab_size}


def require(config: ModelConfig, names: Sequence[str]) -> None:
  """Refuses names of activations that the model does not have, with a `UserError`."""
  known = widths(config)
  for name in names:
    if name not in known:
      raise UserError(f"There is no activation {name!r} in this model: it has {', '.join(known)}.")


def tap(module: nn.Module, name: str, x: jax.Array) -> jax.Array:
  """An activation on its way, as it is or as `edits` want it; recorded if that is asked for.

  Without either nothing is computed.

  Args:
    module: where it arises.
    name: its name.
    x: (B, T, ...); the axes after the second are its units.
  """
  units = x.reshape(*x.shape[:2], -1)
  if module.has_variable(_EDIT, name):
    edit: dict[str, jax.Array] = module.get_variable(_EDIT, name)
    scale, add = (edit[part].astype(x.dtype) for part in ("scale", "add"))
    # A unit that is set takes its value exactly, whatever it was, an infinity too.
    units = jnp.where(scale == 0, add, scale * units + add)
    x = units.reshape(x.shape)
  module.sow(_RECORD, name, units)
  return x


def collection(config: ModelConfig, edits: Sequence[Edit]) -> dict[str, Any]:
  """The variables that `tap` reads: {"edits": ...}, or nothing without edits.

  Edits of the same unit are applied one after the other.

  Raises:
    UserError: there is no such activation, layer or unit.
  """
  require(config, [edit.activation for edit in edits])
  known = widths(config)
  changed: dict[str, tuple[np.ndarray, np.ndarray]] = {}
  for edit in edits:
    name = edit.activation
    layers, units = 1 if name == LOGITS else config.layers, known[name]
    if (edit.layer is not None and not 0 <= edit.layer < layers) or (
      name == LOGITS and edit.layer is not None
    ):
      there = "belong to no layer" if name == LOGITS else f"are in layers 0 to {layers - 1}"
      raise UserError(f"There is no {name} in layer {edit.layer}: they {there}.")
    if edit.unit is not None and not 0 <= edit.unit < units:
      raise UserError(f"There is no unit {edit.unit} of {name}: they are 0 to {units - 1}.")
    scale_LU, add_LU = changed.setdefault(
      name, (np.ones((layers, units), np.float32), np.zeros((layers, units), np.float32))
    )
    where = tuple(slice(None) if i is None else i for i in (edit.layer, edit.unit))
    scale_LU[where] *= edit.scale
    add_LU[where] = edit.scale * add_LU[where] + edit.add
  tree: dict[str, Any] = {}
  for name, (scale_LU, add_LU) in changed.items():
    value = {"scale": jnp.asarray(scale_LU), "add": jnp.asarray(add_LU)}
    if name == LOGITS:
      tree[name] = jax.tree.map(lambda x: x[0], value)
    else:
      _inside(tree, name)[name] = value
  return {_EDIT: tree} if tree else {}


def apply(
  model: nn.Module, variables: dict[str, Any], tokens_BT: jax.Array, record: Sequence[str] = ()
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Runs a model and returns activations by name.

  Args:
    model: `lm.LM`; jit this function with it and `record` static, so that what is not recorded is
      not kept.
    variables: "params", and `collection(config, edits)` to edit.
    tokens_BT: token ids.
    record: names of activations.

  Returns:
    logits_BTV, and {name: (L, B, T, units)}; "logits" is (B, T, V).
  """
  logits_BTV, seen = model.apply(variables, tokens_BT, mutable=[_RECORD])
  found = {}
  for name in record:
    found[name] = (seen[_RECORD] if name == LOGITS else _inside(seen[_RECORD], name))[name][0]
  return logits_BTV, found


def _inside(tree: dict[str, Any], name: str) -> dict[str, Any]:
  """The part of a collection's tree in which a block's activation stands."""
  part = tree.setdefault("blocks", {})
  inner = "mixing" if name == "u" else "features" if name[1:].isdigit() else None
  return part.setdefault(inner, {}) if inner else part
