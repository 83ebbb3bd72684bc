"""A run measured in every state: trained, as it was before training, and with parts taken away."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from crate_jax.config import MeshConfig
from crate_jax.data.tokenizer import Tokenizer
from crate_jax.errors import UserError
from crate_jax.interpret import causal, excerpts, measure, pages, record, rules
from crate_jax.interpret.excerpts import Excerpts
from crate_jax.interpret.measure import Measured
from crate_jax.interpret.network import Network, See, choose
from crate_jax.model import lm
from crate_jax.model.activations import Edit
from crate_jax.model.config import ModelConfig
from crate_jax.model.presets import PRESETS
from crate_jax.run import Run, load
from crate_jax.training import digest
from crate_jax.training import sharding as sharding_lib
from crate_jax.training import workdir as files

LONGEST = 256  # tokens of a window; a shorter context makes it shorter
_TOP = 0.99  # quantile above which a neuron's own top 1 % lies
_ROWS = 16  # windows at a time
# What every preset has, and what a config may set otherwise.
_PLAIN = {"l1": 0.0, "topk": 0, "query_rank": 0, "nonnegative": True, "eta": 0.1, "lam": 0.1}
_PLAIN |= {"learned_eta": False, "learned_lam": False}


@dataclasses.dataclass(frozen=True)
class Asked:
  """What to measure.

  Attributes:
    data: a text; "" for the run's validation text.
    neurons: of each layer; 0 for all.
    shown: neurons of each layer whose pages are made and that are ablated, drawn by the seed.
    tokens: of text, at most.
    seed: of every draw.
    states: of `record.STATES`, the trained one first.
  """

  data: str
  neurons: int
  shown: int
  tokens: int
  seed: int
  states: tuple[str, ...] = record.STATES


@dataclasses.dataclass(frozen=True)
class Text:
  """The text that a run is measured on.

  Attributes:
    excerpts: its windows.
    name: what text it is.
    sha256: of all its documents.
  """

  excerpts: Excerpts
  name: str
  sha256: str


def read_text(run: Run, workdir: str, asked: Asked) -> Text:
  """The windows of a text for a run.

  Raises:
    UserError: the text cannot be read, has too few works, or is not the run's any more.
  """
  length = min(run.config.model.context, LONGEST)
  tokens, name, sha256 = run.text_tokens(workdir, asked.data)
  windows = asked.tokens // length
  found = excerpts.excerpts(tokens, run.tokenizer, length, asked.seed, windows, name)
  return Text(found, name, sha256)


def kept(workdir: str, step: int | None, out: Path, asked: Asked) -> record.Record:
  """What was measured of a run: read from a folder, or measured now and written there.

  Raises:
    UserError: the run or the text cannot be read, or the model has no neurons.
  """
  run = load(workdir, step)
  if not run.config.model.codes:
    raise UserError(
      f"{workdir}: model.features={run.config.model.features!r} has no neurons to explain."
    )
  text = read_text(run, workdir, asked)
  described = facts(run, workdir, text, asked)
  if (found := record.read(out, described)) is not None:
    return found
  made, latents, shown = measured(run, text, asked, described)
  record.write(out, made, latents, shown)
  return made


def facts(run: Run, workdir: str, text: Text, asked: Asked) -> dict[str, Any]:
  """What decides every number of a record, and nothing else."""
  of = {name: text.excerpts.of(name) for name in excerpts.SETS}
  return {
    "layout": record.LAYOUT,
    "run": Path(workdir).name,
    "kind": kind(run.config.model),
    "architecture": run.config.model.architecture,
    "layers": run.config.model.layers,
    "width": run.config.model.width,
    "step": run.step,
    "model_sha256": _sha256(_decides(run.config.model)),
    "weights_sha256": _sha256(digest.digests(run.params)),
    "train_seed": run.config.seed,
    "train_steps": run.config.train.steps,
    "learning_rate": run.config.optimizer.learning_rate,
    "schedule": run.config.optimizer.schedule,
    "hook": run.neurons,
    "text": text.name,
    "text_sha256": text.sha256,
    "tokenizer_sha256": run.tokenizer.digest(),
    "windows_sha256": text.excerpts.digest(),
    "window": int(text.excerpts.tokens_NT.shape[1]),
    "windows": {name: len(part.work_N) for name, part in of.items()},
    "works": {name: len(np.unique(part.work_N)) for name, part in of.items()},
    "works_too_short": text.excerpts.short,
    "neurons": asked.neurons,
    "shown": asked.shown,
    "seed": asked.seed,
    "states": list(asked.states),
  }


def kind(config: ModelConfig) -> str:
  """A model in words: its preset, its shape, and what it has otherwise than the preset."""
  parts = PRESETS[config.architecture]() | _PLAIN
  other = [f"{k}={getattr(config, k)}" for k, v in parts.items() if getattr(config, k) != v]
  shape = f"{config.layers}x{config.width}x{config.heads}"
  return " ".join([config.architecture, shape, *other])


def _decides(config: ModelConfig) -> dict[str, Any]:
  """The keys that a model's arithmetic depends on."""
  keys = dataclasses.asdict(config)
  return {key: value for key, value in keys.items() if f"model.{key}" not in files.MAY_DIFFER}


def _sha256(value: dict[str, Any]) -> str:
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def folders(workdirs: Sequence[str], out: Path) -> dict[str, Path]:
  """Where each run is recorded.

  Raises:
    UserError: two runs' folders have the same name.
  """
  found = {workdir: out / Path(workdir).expanduser().resolve().name for workdir in workdirs}
  if len(set(found.values())) < len(workdirs):
    raise UserError(f"--workdir={','.join(workdirs)} names two folders that are called the same.")
  return found


def shown_units(units_Ln: np.ndarray, shown: int, seed: int) -> np.ndarray:
  """Places of the shown neurons among each layer's, (L, at most `shown`), in random order."""
  L, n = units_Ln.shape
  return np.stack(
    [np.random.default_rng([seed, layer, n]).permutation(n)[:shown] for layer in range(L)]
  )


def measured(
  run: Run, text: Text, asked: Asked, described: dict[str, Any]
) -> tuple[record.Record, dict[tuple[str, int], dict[str, np.ndarray]], dict[str, Any]]:
  """Measures a run in all its states.

  Returns:
    the record, delphi's arrays by set and layer, and what the pages show.
  """
  config = run.config.model
  units_Ln = choose(config.codes, config.layers, asked.neurons, asked.seed)
  shown_Lk = shown_units(units_Ln, asked.shown, asked.seed)
  L, n = units_Ln.shape

  mesh = _mesh(run.config.mesh)
  parts = mesh.shape["data"] * mesh.shape["fsdp"]
  rows = -(-_ROWS // parts) * parts

  def one(see: See) -> Measured:
    return measure.measure(
      see, text.excerpts, run.tokenizer, layers=L, neurons=n, rows=rows, seed=asked.seed
    )

  network = Network(run.model, run.params, units_Ln)
  score = text.excerpts.of("score")
  made: dict[str, record.State] = {}
  trained = None
  for name in asked.states:
    if name == record.OWN_TOP:
      continue
    state = _in_state(network, name, run.config.seed)
    found = one(state.see(mesh))
    measure.effects(found, state)
    if asked.shown:
      _ablate(found, state, score, shown_Lk)
    loss = causal.loss(state, score.tokens_NT, _ROWS)
    made[name] = _state(found, loss, run.tokenizer)
    trained = trained or found  # the others' tables go, which are large
  assert trained is not None
  if record.OWN_TOP in asked.states:
    top_M = np.quantile(trained.sample_NTM, _TOP, axis=(0, 1))
    found = one(_above(network.see(mesh), top_M.reshape(L, n)))
    made[record.OWN_TOP] = _state(found, made[record.TRAINED].loss, run.tokenizer)
  counts = trained.scored.tokens_W, trained.ranked.tokens_W
  whole = record.Record(described, units_Ln, *counts, made, trained.null.sums_WMS)
  if not asked.shown:
    return whole, {}, {}
  latents, seen = {}, {}
  units_Lk = np.take_along_axis(units_Ln, shown_Lk, axis=1)
  for name, collected in trained.collected.items():
    windows = text.excerpts.of(name)
    seen[name], of = pages.activations(network, windows, collected.state, shown_Lk)
    for layer, arrays in enumerate(pages.latents(seen[name], of, windows, units_Lk)):
      latents[name, layer] = arrays
  shown = pages.pages(network, trained, whole, score, run.tokenizer, shown_Lk, seen["score"])
  return whole, latents, shown


def _in_state(network: Network, name: str, seed: int) -> Network:
  """The network as it was before training, or with attention zeroed, or as it is."""
  if name == record.INIT:
    init = jax.jit(lm.init_params, static_argnums=0)
    return network._replace(params=init(network.model, jax.random.key(seed)))
  return network._replace(edits=(Edit("attention"),)) if name == record.NO_ATTENTION else network


def _state(found: Measured, loss: float, tokenizer: Tokenizer) -> record.State:
  sentences = [
    rules.sentence(found.tables, found.rules, i, bool(by_pair), tokenizer)
    for i, by_pair in enumerate(found.by_pair_M)
  ]
  return record.State(found.columns, sentences, found.scored.sums_WMS, found.ranked.sums_WMS, loss)


def _mesh(config: MeshConfig) -> Mesh:
  """The mesh of the training; all devices with rows of their own where that does not fit them."""
  try:
    return sharding_lib.make_mesh(config)
  except UserError:
    return sharding_lib.make_mesh(MeshConfig(data=-1, fsdp=1, tensor=1, topology=""))


def _above(see: See, least_Ln: np.ndarray) -> See:
  """Activations that are set to zero unless they are above a neuron's own threshold."""
  threshold_Ln = jnp.asarray(least_Ln)[:, None, None]

  def above(tokens_BT: np.ndarray) -> jax.Array:
    a_LBTn = see(tokens_BT)
    return jnp.where(a_LBTn > threshold_Ln, a_LBTn, 0)

  return above


def _ablate(found: Measured, network: Network, score: Excerpts, shown_Lk: np.ndarray) -> None:
  """Fills in what ablating the shown neurons adds to the loss on the first scoring windows."""
  n = network.units_Ln.shape[1]
  places = [(layer, int(i)) for layer, row in enumerate(shown_Lk) for i in row]
  units: Sequence[tuple[int, int]] = [
    (layer, int(network.units_Ln[layer, i])) for layer, i in places
  ]
  windows_NT = score.tokens_NT[: causal.WINDOWS]
  found.columns["added_loss"][[layer * n + i for layer, i in places]] = causal.added_loss(
    network, windows_NT, units
  )
