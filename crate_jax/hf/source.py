"""Weights from PyTorch: an exported folder, or an official checkpoint. No code in them is run."""

import dataclasses
import json
import pickle
import re
import typing
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from crate_jax.data.tokenizer import Tokenizer
from crate_jax.errors import UserError
from crate_jax.hf import names
from crate_jax.hf.names import Header
from crate_jax.model import lm
from crate_jax.model.config import ModelConfig
from crate_jax.model.presets import PRESETS

# How crate_jax computes, which a model from elsewhere says nothing of.
_WAYS: dict[str, Any] = {"l1": 0.0, "attention": "auto", "remat": "none", "unroll": None}
# What the official code has as constants, or does not have.
_OFFICIAL: dict[str, Any] = {
  **{"query_rank": 0, "topk": 0, "nonnegative": True, "learned_eta": False, "learned_lam": False},
  **{"eta": 0.1, "lam": 0.1, "dtype": "float32"},
}
_PUBLISHED_HEADS = {128: 4, 768: 12}  # by width
# The tensor of a layer that tells CRATE from its GPT-2 baseline: it has a row for each neuron.
_CODES = {"crate": "ista.weight", "gpt2": "mlp.c_fc.weight"}


@dataclasses.dataclass(frozen=True)
class Source:
  """A model that was read.

  Attributes:
    path: where it was.
    model: what it is.
    params: its parameters, as `lm.init_params` lays them out.
    tokenizer: its tokenizer.
  """

  path: Path
  model: ModelConfig
  params: lm.Params
  tokenizer: Tokenizer


@dataclasses.dataclass(frozen=True)
class _Tensors:
  """Tensors that are not in memory yet.

  Attributes:
    headers: by name.
    read: gives a tensor by name.
    heads: if it is said beside them.
  """

  headers: dict[str, Header]
  read: Callable[[str], np.ndarray]
  heads: int | None = None


def read(path: Path, tokenizer: Path | None = None, heads: int | None = None) -> Source:
  """Reads and checks a model.

  Args:
    path: a folder with config.json and model.safetensors, or a file of tensors.
    tokenizer: a tokenizer.json; None for the folder's.
    heads: of the model in a file; None for what is known of it.

  Raises:
    UserError: something is missing, or is not what it should be.
  """
  if path.is_dir():
    if heads is not None:
      raise UserError(
        f"--heads goes with a checkpoint's file: {path / names.CONFIG} says its heads."
      )
    tokenizer = tokenizer or path / names.TOKENIZER
    model = _read_config(path / names.CONFIG)
    tensors = _read_safetensors(path / names.WEIGHTS)
    where = path / names.WEIGHTS
  elif path.is_file():
    if tokenizer is None:
      raise UserError(f"{path} holds no tokenizer: name its tokenizer.json with --tokenizer.")
    tensors = _renamed(_read_file(path), path)
    model, where = _infer(tensors, path, heads), path
  else:
    raise UserError(f"--from={path}: there is no such file or folder.")
  names.check(tensors.headers, model, str(where))
  known = _tokenizer(tokenizer, model)
  arrays = {name: tensors.read(name) for name in tensors.headers}
  return Source(path, model, names.to_jax(arrays, model, str(where)), known)


def _read_config(path: Path) -> ModelConfig:
  """The model that a config.json describes."""
  try:
    keys = json.loads(path.read_text("utf-8"))
  except FileNotFoundError as error:
    raise UserError(f"{path} is missing: an exported model has it.") from error
  except ValueError as error:  # not JSON, or not UTF-8
    raise UserError(f"{path} is not JSON: {error}.") from error
  if not isinstance(keys, dict) or keys.get("model_type") != "crate":
    kind = keys.get("model_type") if isinstance(keys, dict) else None
    raise UserError(f'{path} has model_type {kind!r}: only "crate" models can be loaded.')
  values = dict(_WAYS)
  for name, kind in typing.get_type_hints(ModelConfig).items():
    if name not in names.LEFT_OUT:
      values[name] = _value(keys, names.RENAMED.get(name, name), kind, path)
  try:
    return ModelConfig(**values)
  except UserError as error:
    raise UserError(f"{path}: {error}") from error


def _value(keys: Mapping[str, Any], name: str, kind: type, path: Path) -> Any:
  """A key's value, of its type."""
  if name not in keys:
    raise UserError(f"{path} has no key {name}.")
  value = keys[name]
  if kind is float and type(value) is int:
    value = float(value)
  if type(value) is not kind:
    raise UserError(f"{path}: {name}={value!r} must be of type {kind.__name__}.")
  return value


def _infer(tensors: _Tensors, path: Path, heads: int | None) -> ModelConfig:
  """The official model that has these tensors: CRATE, or the GPT-2 baseline."""
  shapes = {name: tensor.shape for name, tensor in tensors.headers.items()}
  for name in (names.EMBEDDING, names.POSITIONS):
    if len(shapes.get(name, ())) != 2:
      raise UserError(f"{path}: the tensor {name} is missing, or is no matrix.")
  (V, D), (T, _) = shapes[names.EMBEDDING], shapes[names.POSITIONS]
  architecture, C = _architecture(shapes)
  if not D or not C or C % D:
    raise UserError(
      f"{path} is no official checkpoint: it has neither {names.BLOCK}0.{_CODES['crate']} (CRATE) "
      f"nor {names.BLOCK}0.{_CODES['gpt2']} (GPT-2) with a multiple of {D} rows."
    )
  heads = heads or tensors.heads or _PUBLISHED_HEADS.get(D)
  if heads is None:
    raise UserError(f"{path} does not say how many heads a model of width {D} has: give --heads.")
  layers = {match[1] for name in shapes if (match := re.match(r"transformer\.h\.(\d+)\.", name))}
  keys: dict[str, Any] = {
    "vocab_size": V,
    "width": D,
    "context": T,
    "layers": len(layers),
    "heads": heads,
  }
  keys |= PRESETS[architecture]() | {"overcompleteness": C // D} | _OFFICIAL | _WAYS
  if architecture == "gpt2":
    keys["bias"] = "transformer.ln_f.bias" in shapes
  return ModelConfig(architecture, **keys)


def _architecture(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, int]:
  """The preset that has the first layer's feature step, and its neurons; 0 if none has."""
  for architecture, name in _CODES.items():
    if shape := shapes.get(f"{names.BLOCK}0.{name}"):
      return architecture, shape[0]
  return "", 0


def _renamed(tensors: _Tensors, path: Path) -> _Tensors:
  """The tensors under CRATE-LM's names; the causal mask, which is no parameter, is left out."""
  theirs: dict[str, str] = {}
  for name, tensor in tensors.headers.items():
    ours = names.official(name)
    if ours in theirs:
      raise UserError(f"{path}: the tensor {ours} is there twice, as {theirs[ours]} and {name}.")
    if not (ours.endswith(".attn.bias") and len(tensor.shape) == 4):
      theirs[ours] = name
  headers = {ours: tensors.headers[name] for ours, name in theirs.items()}
  return _Tensors(headers, lambda ours: tensors.read(theirs[ours]), tensors.heads)


def _read_file(path: Path) -> _Tensors:
  return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)


def _read_safetensors(path: Path) -> _Tensors:
  """The tensors of a .safetensors file; its header says their sizes."""
  if not path.is_file():
    raise UserError(
      f"{path} is missing; a model that was saved in several files must be saved in one."
    )
  try:
    file = safe_open(path, "flax")  # of its frameworks the one that knows bfloat16 without torch
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
  except (SafetensorError, OSError) as error:
    raise UserError(f"{path} is not a safetensors file: {error}.") from error
  headers = {
    name: Header(
      tuple(part.get_shape()), part.get_dtype()[0] in "FB" and part.get_dtype() != "BOOL"
    )
    for name, part in slices.items()
  }
  return _Tensors(headers, lambda name: np.asarray(file.get_tensor(name)))


def _read_torch(path: Path) -> _Tensors:
  """The tensors of a file of torch.save: a state dict, or a nanoGPT checkpoint that holds one."""
  try:
    import torch
  except ImportError as error:
    raise UserError(f"{path}: reading it needs PyTorch: pip install 'crate_jax[torch]'.") from error
  try:
    held = torch.load(
      path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None
    )
  except pickle.UnpicklingError as error:
    called = re.search(r"GLOBAL (\S+)", str(error))
    reason = f"reading it would call {called[1]}" if called else "it is damaged or no such file"
    raise UserError(
      f"{path} is not a file of tensors alone: {reason}; nothing in it was run."
    ) from error
  except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise UserError(f"{path} is not a file of torch.save: {reason}.") from error
  state, heads = held, None
  if isinstance(held, dict) and isinstance(held.get("model"), dict):
    state, arguments = held["model"], held.get("model_args")
    heads = arguments.get("n_head") if isinstance(arguments, dict) else None
  if not isinstance(state, dict) or not all(isinstance(x, torch.Tensor) for x in state.values()):
    raise UserError(f"{path} holds no state dict: tensors by name, or a dict with them as model.")
  headers = {str(k): Header(tuple(x.shape), x.is_floating_point()) for k, x in state.items()}

  def read(name: str) -> np.ndarray:
    x = state[name].detach()
    return np.asarray(x if x.dtype == torch.float64 else x.float())

  return _Tensors(headers, read, heads if isinstance(heads, int) and heads > 0 else None)


def _tokenizer(path: Path, model: ModelConfig) -> Tokenizer:
  if not path.is_file():
    raise UserError(f"{path} is missing: name the model's tokenizer.json with --tokenizer.")
  tokenizer = Tokenizer.load(path)
  if tokenizer.vocab_size > model.vocab_size:
    raise UserError(
      f"{path} has {tokenizer.vocab_size} tokens, more than the {model.vocab_size} rows of the "
      "model's embedding: it is not this model's tokenizer."
    )
  return tokenizer
