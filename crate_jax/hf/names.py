"""The one table of names and layouts: crate_jax's tree of parameters and PyTorch's state dict.

Names and shapes are those of the official CRATE-LM code (its crate_overcomplete.py) where it has
such a parameter. Between the two lie only transposes, reshapes and stacking, so that there and back
gives the same bits.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from crate_jax.errors import UserError
from crate_jax.model import lm
from crate_jax.model.config import ModelConfig

HEAD = "lm_head.weight"
EMBEDDING = "transformer.wte.weight"
POSITIONS = "transformer.wpe.weight"
BLOCK = "transformer.h."

# The files of an exported model.
CONFIG, WEIGHTS, TOKENIZER, CARD = "config.json", "model.safetensors", "tokenizer.json", "README.md"
# Keys of the model's config that transformers uses for something else, by their names there.
RENAMED = {"decoder": "decoding", "dtype": "compute_dtype"}
# Keys that only say how crate_jax computes or trains: an exported model does not have them.
LEFT_OUT = ("l1", "attention", "remat", "unroll")


@dataclasses.dataclass(frozen=True)
class Layout:
  """How an array of the tree lies in the state dict.

  Attributes:
    inputs: how many of its axes, after the stacked one, a product with it sums over: it lies there
      as a matrix (outputs x inputs). 0 for an array that lies there as it is.
    stacked: whether its first axis counts matrices, whose rows stand one below the other there.
  """

  inputs: int = 0
  stacked: bool = False

  def to_torch(self, x: np.ndarray) -> np.ndarray:
    """The array as PyTorch has it."""
    if not self.inputs:
      return np.ascontiguousarray(x).reshape(x.shape)  # the former makes a number a vector
    S, I, O = self._sizes(x.shape)
    return np.ascontiguousarray(x.reshape(S, I, O).transpose(0, 2, 1)).reshape(S * O, I)

  def to_jax(self, y: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The array, of this shape, that `to_torch` made `y` of."""
    if not self.inputs:
      return y
    S, I, O = self._sizes(shape)
    return y.reshape(S, O, I).transpose(0, 2, 1).reshape(shape)

  def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in PyTorch of an array of this shape."""
    if not self.inputs:
      return shape
    S, I, O = self._sizes(shape)
    return (S * O, I)

  def _sizes(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Matrices, inputs, outputs."""
    S, rest = (shape[0], shape[1:]) if self.stacked else (1, shape)
    return S, int(np.prod(rest[: self.inputs])), int(np.prod(rest[self.inputs :]))


_SAME, _MATRIX = Layout(), Layout(inputs=1)

# Path in the tree -> name and layout; {} is the layer. "features" is "ista" or "mlp" here.
_TABLE: dict[str, tuple[str, Layout]] = {
  "tokens": (EMBEDDING, _SAME),
  "positions": (POSITIONS, _SAME),
  "norm/scale": ("transformer.ln_f.weight", _SAME),
  "norm/bias": ("transformer.ln_f.bias", _SAME),
  "blocks/norm_1/scale": ("transformer.h.{}.prenorm_1.weight", _SAME),
  "blocks/norm_1/bias": ("transformer.h.{}.prenorm_1.bias", _SAME),
  "blocks/norm_2/scale": ("transformer.h.{}.prenorm_2.weight", _SAME),
  "blocks/norm_2/bias": ("transformer.h.{}.prenorm_2.bias", _SAME),
  "blocks/mixing/subspaces": ("transformer.h.{}.attn.c_attn.weight", _MATRIX),
  "blocks/mixing/qkv": ("transformer.h.{}.attn.c_attn.weight", Layout(inputs=1, stacked=True)),
  "blocks/mixing/query": ("transformer.h.{}.attn.c_query.weight", _MATRIX),
  "blocks/mixing/query_down": ("transformer.h.{}.attn.c_query_down.weight", _MATRIX),
  "blocks/mixing/query_up": ("transformer.h.{}.attn.c_query_up.weight", _MATRIX),
  "blocks/mixing/temperature": ("transformer.h.{}.attn.temperature", _SAME),
  "blocks/mixing/output": ("transformer.h.{}.attn.c_proj.weight", Layout(inputs=2)),
  "blocks/mixing/output_bias": ("transformer.h.{}.attn.c_proj.bias", _SAME),
  "blocks/ista/dictionary": ("transformer.h.{}.ista.weight", _SAME),
  "blocks/ista/decoder": ("transformer.h.{}.ista.decoder", _SAME),
  "blocks/ista/log_eta": ("transformer.h.{}.ista.log_eta", _SAME),
  "blocks/ista/log_lam": ("transformer.h.{}.ista.log_lam", _SAME),
  "blocks/mlp/encoder": ("transformer.h.{}.mlp.c_fc.weight", _MATRIX),
  "blocks/mlp/decoder": ("transformer.h.{}.mlp.c_proj.weight", _MATRIX),
}

# nanoGPT's names of what CRATE-LM calls otherwise; its GPT-2 baseline has them.
_ALSO = {".ln_1.": ".prenorm_1.", ".ln_2.": ".prenorm_2."}


@dataclasses.dataclass(frozen=True)
class Header:
  """What is known of a tensor before it is read."""

  shape: tuple[int, ...]
  floating: bool


def to_torch(params: lm.Params, config: ModelConfig) -> dict[str, np.ndarray]:
  """The state dict of parameters, without the head, which is the embedding.

  Args:
    params: the tree of `lm.init_params`.
    config: its model's.
  """
  state = {}
  for path, leaf in _leaves(params):
    name, layout = _entry(path, config)
    array_LX = np.asarray(leaf) if _in_block(path) else np.asarray(leaf)[None]
    for layer in range(len(array_LX)):
      state[name.format(layer)] = layout.to_torch(array_LX[layer, ...])
  return state


def to_jax(tensors: Mapping[str, np.ndarray], config: ModelConfig, source: str) -> lm.Params:
  """The parameters of a state dict, in the types of `lm.init_params`.

  Args:
    tensors: by name.
    config: of their model.
    source: where they are from, for errors.

  Raises:
    UserError: as `check`; or the head is not the embedding.
  """
  check({name: header(x) for name, x in tensors.items()}, config, source)
  if HEAD in tensors and not np.array_equal(tensors[HEAD], tensors[EMBEDDING]):
    raise UserError(
      f"{source}: {HEAD} differs from {EMBEDDING}, and in this model the head is the embedding."
    )

  def build(path: Any, like: jax.ShapeDtypeStruct) -> np.ndarray:
    name, layout = _entry(_joined(path), config)
    if not _in_block(_joined(path)):
      return layout.to_jax(tensors[name], like.shape).astype(like.dtype)
    layers = [tensors[name.format(layer)] for layer in range(config.layers)]
    return np.stack([layout.to_jax(x, like.shape[1:]) for x in layers]).astype(like.dtype)

  return jax.tree_util.tree_map_with_path(build, lm.abstract_params(lm.LM(config)))


def check(found: Mapping[str, Header], config: ModelConfig, source: str) -> None:
  """Refuses tensors that are not those of a model, before any is read.

  Args:
    found: the headers, by name; the head may be among them.
    config: the model's.
    source: where they are from, for errors.

  Raises:
    UserError: one is missing, too many, of another shape, or does not hold floating-point numbers.
  """
  for name, shape in _sizes(config).items():  # the rest costs time with absurd ones
    if name in found and found[name].shape != shape:
      raise _misshapen(source, name, found[name].shape, shape)
  expected = {}
  for name, shape in _expected(config):
    if name not in found:
      raise UserError(f"{source}: the tensor {name} is missing.")
    expected[name] = shape
  expected[HEAD] = expected[EMBEDDING]
  for name, tensor in found.items():
    if name not in expected:
      raise UserError(f"{source}: the tensor {name} is none of this model's.")
    if tensor.shape != expected[name]:
      raise _misshapen(source, name, tensor.shape, expected[name])
    if not tensor.floating:
      raise UserError(f"{source}: the tensor {name} does not hold floating-point numbers.")


def _sizes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
  """The shapes of the tensors that a model's sizes stand in."""
  D = config.width
  sizes: dict[str, tuple[int, ...]] = {}
  sizes[EMBEDDING], sizes[POSITIONS] = (config.vocab_size, D), (config.context, D)
  if config.codes:
    codes = "ista.weight" if config.features == "ista" else "mlp.c_fc.weight"
    sizes[f"{BLOCK}0.{codes}"] = (config.codes, D)
  return sizes


def _misshapen(source: str, name: str, shape: tuple[int, ...], want: tuple[int, ...]) -> UserError:
  return UserError(f"{source}: the tensor {name} has the shape {shape} and not {want}.")


def header(x: np.ndarray) -> Header:
  """Of an array in memory."""
  return Header(tuple(x.shape), jax.numpy.issubdtype(x.dtype, jax.numpy.floating))


def official(name: str) -> str:
  """A tensor's name without what torch.compile puts before it, and CRATE-LM's for nanoGPT's."""
  name = name.removeprefix("_orig_mod.")
  for theirs, ours in _ALSO.items():
    name = name.replace(theirs, ours)
  return name


def _expected(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
  """Names and shapes in PyTorch, layer by layer, so that a wrong number of layers ends early."""
  tree = _leaves(lm.abstract_params(lm.LM(dataclasses.replace(config, unroll=False))))
  for path, like in tree:
    if not _in_block(path):
      name, layout = _entry(path, config)
      yield name, layout.shape(like.shape)
  for layer in range(config.layers):
    for path, like in tree:
      if _in_block(path):
        name, layout = _entry(path, config)
        yield name.format(layer), layout.shape(like.shape[1:])


def _entry(path: str, config: ModelConfig) -> tuple[str, Layout]:
  kind = "ista" if config.features == "ista" else "mlp"
  return _TABLE[path.replace("/features/", f"/{kind}/")]


def _leaves(tree: Any) -> list[tuple[str, Any]]:
  return [(_joined(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _joined(path: Any) -> str:
  return "/".join(key.key for key in path)


def _in_block(path: str) -> bool:
  return path.startswith("blocks/")
