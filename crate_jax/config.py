"""From an ml-collections config to frozen dataclasses; every derived key is resolved here."""

import dataclasses
import difflib
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from ml_collections import ConfigDict

from crate_jax.errors import UserError
from crate_jax.model.config import ModelConfig
from crate_jax.model.presets import PRESETS, crate

# What a config file's get_config() returns.
Configuration: typing.TypeAlias = Mapping[str, Any] | ConfigDict
SCHEDULES = ("cosine", "wsd")


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """`config.data`; the keys are explained in configs/base.py."""

  prepared: str
  train: str
  validation: str
  validation_fraction: float
  tokenizer: str
  bpe_vocab_size: int
  cache_dir: str

  @property
  def cache(self) -> Path:
    """The folder that keeps trained tokenizers."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(self.cache_dir or f"{home}/crate_jax").expanduser()


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """`config.optimizer`."""

  learning_rate: float
  final_learning_rate: float
  schedule: str
  warmup_steps: int
  decay_fraction: float
  beta1: float
  beta2: float
  weight_decay: float
  clip_norm: float

  def __post_init__(self) -> None:
    if self.schedule not in SCHEDULES:
      raise UserError(
        f"optimizer.schedule={self.schedule!r} is not one of: {', '.join(SCHEDULES)}."
      )
    if not 0 <= self.decay_fraction <= 1:
      raise UserError(f"optimizer.decay_fraction={self.decay_fraction} is not between 0 and 1.")
    for name in ("warmup_steps", "weight_decay", "clip_norm", "final_learning_rate"):
      _at_least(f"optimizer.{name}", getattr(self, name), 0)
    if self.learning_rate <= 0:
      raise UserError(f"optimizer.learning_rate={self.learning_rate} must be positive.")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """`config.train`."""

  steps: int
  batch_size: int
  accumulation: int
  log_every_steps: int
  max_refused: int
  stall_minutes: float

  def __post_init__(self) -> None:
    for name in ("steps", "batch_size", "accumulation", "log_every_steps", "max_refused"):
      _at_least(f"train.{name}", getattr(self, name), 1)
    _at_least("train.stall_minutes", self.stall_minutes, 0)
    if self.batch_size % self.accumulation:
      raise UserError(
        f"train.accumulation={self.accumulation} does not divide "
        f"train.batch_size={self.batch_size}."
      )


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
  """`config.evaluation`."""

  every_steps: int
  tokens: int

  def __post_init__(self) -> None:
    _at_least("evaluation.every_steps", self.every_steps, 1)
    _at_least("evaluation.tokens", self.tokens, 0)


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """`config.checkpoint`."""

  every_steps: int
  every_minutes: float
  keep: int

  def __post_init__(self) -> None:
    _at_least("checkpoint.every_steps", self.every_steps, 0)
    _at_least("checkpoint.every_minutes", self.every_minutes, 0)
    _at_least("checkpoint.keep", self.keep, 1)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """`config.mesh`."""

  data: int
  fsdp: int
  tensor: int
  topology: str


@dataclasses.dataclass(frozen=True)
class Config:
  """A resolved configuration: nothing in it depends on anything outside it."""

  seed: int
  init_from: str
  model: ModelConfig
  data: DataConfig
  optimizer: OptimizerConfig
  train: TrainConfig
  evaluation: EvaluationConfig
  checkpoint: CheckpointConfig
  mesh: MeshConfig

  def __post_init__(self) -> None:
    if not 0 <= self.seed < 2**32:
      raise UserError(f"seed={self.seed} is not between 0 and 2^32 - 1.")


def resolve(config: Configuration, vocab_size: int) -> Config:
  """Checks every key and fills those that depend on others.

  Args:
    config: what `get_config()` of a config file returned, overrides applied.
    vocab_size: the tokenizer's.

  Raises:
    UserError: a key is unknown, missing, of the wrong type, or contradicts another.
  """
  tree = as_dict(config)
  tree.pop("sweep", None)  # of many runs; this is one
  optimizer, model = tree.get("optimizer"), tree.get("model")
  if isinstance(model, dict):
    _fill_parts(model)
  if isinstance(optimizer, dict) and optimizer.get("final_learning_rate", 0) is None:
    optimizer["final_learning_rate"] = optimizer["learning_rate"] / 10
  if isinstance(model, dict) and model.get("vocab_size", 0) is None:
    model["vocab_size"] = vocab_size
  resolved = _build(Config, tree, "")
  if resolved.model.vocab_size < vocab_size:
    raise UserError(
      f"model.vocab_size={resolved.model.vocab_size} is smaller than the tokenizer's {vocab_size}."
    )
  return resolved


def resolve_without_text(config: Configuration) -> Config:
  """The same as far as the model goes: its vocabulary is the largest that the tokenizer may have.

  Raises:
    UserError: as `resolve`, or the vocabulary depends on the text.
  """
  data, model = data_config(config), as_dict(config).get("model", {})
  if model.get("vocab_size") or data.tokenizer == "bpe":
    return resolve(config, 0 if model.get("vocab_size") else data.bpe_vocab_size)
  raise UserError(
    f"model.vocab_size is that of data.tokenizer={data.tokenizer!r}, and no text is read here: set "
    "--config.model.vocab_size."
  )


def data_config(config: Configuration) -> DataConfig:
  """The part that is needed before the tokenizer, and so the rest, is known."""
  tree = as_dict(config)
  if "data" not in tree:
    raise UserError("The config has no key data.")
  return _build(DataConfig, tree["data"], "data")


# Keys that came after the first release, with the value by which a run from before them is what it
# was; None is the preset's.
_LATER: dict[str, dict[str, Any]] = {
  "model": {
    "mixing": None,
    "query_rank": 0,
    "bias": None,
    "features": None,
    "residual": None,
    "decoder": None,
    "warm_start": None,
    "nonnegative": True,
    "learned_eta": False,
    "learned_lam": False,
    "l1": 0.0,
    "topk": 0,
  },
  "data": {"prepared": ""},
  "train": {"max_refused": 10, "stall_minutes": 30.0},
  "mesh": {"topology": ""},
}


def from_dict(tree: Mapping[str, Any]) -> Config:
  """The `Config` of a resolved dict, for instance one read from a run's config.json.

  Keys that its version of crate_jax did not have yet take the value that the run was made with.
  """
  tree = as_dict(tree)
  for part, keys in _LATER.items():
    if isinstance(tree.get(part), dict):
      tree[part] = keys | tree[part]
  if isinstance(tree.get("model"), dict):
    _fill_parts(tree["model"])
  return _build(Config, tree, "")


def _fill_parts(model: dict[str, Any]) -> None:
  """Gives the keys that are None their value in the preset that `architecture` names."""
  # A name that is no preset is refused later, with all other values that are not what they must be.
  preset = PRESETS.get(str(model.get("architecture")), crate)
  for key, value in preset().items():
    if model.get(key, value) is None:
      model[key] = value


def as_dict(config: Configuration) -> dict[str, Any]:
  """Nested plain dicts of a ConfigDict or of nested mappings, free of references to them."""
  if isinstance(config, ConfigDict):
    return config.to_dict()
  return {k: as_dict(v) if isinstance(v, Mapping) else v for k, v in config.items()}


def to_dict(config: Config) -> dict[str, Any]:
  """Nested plain dicts of a resolved config; `from_dict` undoes it."""
  return dataclasses.asdict(config)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """{"model.layers": 2, ...} of nested dicts."""
  flat: dict[str, Any] = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat.update(flatten(value, f"{prefix}{key}."))
    else:
      flat[prefix + key] = value
  return flat


def unknown_key(key: str, known: typing.Iterable[str]) -> UserError:
  """The error for a key that does not exist, with the nearest one that does."""
  known = list(known)
  near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
  hint = f" Did you mean {near[0]}?" if near else " configs/base.py lists every key."
  return UserError(f"Unknown config key {key}.{hint}")


_T = TypeVar("_T")


def _build(kind: type[_T], tree: Any, prefix: str) -> _T:
  """An instance of a frozen dataclass from a dict with exactly its keys."""
  if not isinstance(tree, Mapping):
    raise UserError(f"Config key {prefix} must hold keys, not {tree!r}.")
  path = prefix + "." if prefix else ""
  hints = typing.get_type_hints(kind)
  fields = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
  for key in tree:
    if key not in fields:
      raise unknown_key(path + key, [path + name for name in fields])
  values = {}
  for name in fields:
    if name not in tree:
      raise UserError(f"Config key {path}{name} is missing.")
    if dataclasses.is_dataclass(hints[name]):
      values[name] = _build(hints[name], tree[name], path + name)
    else:
      values[name] = _typed(tree[name], hints[name], path + name)
  return kind(**values)


def _typed(value: Any, kind: Any, name: str) -> Any:
  if isinstance(kind, types.UnionType):
    kinds = typing.get_args(kind)
  else:
    kinds = (kind,)
  if float in kinds and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
    wanted = " or ".join(k.__name__ for k in kinds)
    raise UserError(f"Config key {name}={value!r} must be of type {wanted}.")
  return value


def _at_least(name: str, value: float, least: float) -> None:
  if value < least:
    raise UserError(f"{name}={value} must be at least {least}.")
