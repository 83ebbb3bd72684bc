"""What measuring a run's neurons leaves on disk, and reads again.

neurons.parquet      a row for each neuron in each state of the network, `measure.COLUMNS` and rule
sums.safetensors     sums over works, from which every interval is drawn again
latents/SET/layer_L/ activations of the shown neurons on their excerpts of the explaining and of
                     the scoring works, as delphi lays them out: FIRST_LAST.safetensors with
                     locations (window, token, neuron), activations and tokens, and config.json
pages.json           what the shown neurons' pages show
manifest.json        what was measured on which text, and the digest of every file; written last
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import safetensors.numpy

from crate_jax.data import atomic
from crate_jax.errors import UserError
from crate_jax.interpret.measure import COLUMNS
from crate_jax.interpret.statistics import Scored

NEURONS = "neurons.parquet"
SUMS = "sums.safetensors"
PAGES = "pages.json"
MANIFEST = "manifest.json"
TRAINED, INIT, NO_ATTENTION, OWN_TOP = (
  "trained",
  "random init",
  "attention zeroed",
  "own top 1 %",
)
NULL = "others' rules"  # the trained network's
SPEARMAN = "trained, Spearman"
STATES = (TRAINED, INIT, NO_ATTENTION, OWN_TOP)
LAYOUT = 2  # of the files; what another one wrote is measured anew
_NO_NAME = {"text": ""}


@dataclasses.dataclass(frozen=True)
class State:
  """A network in one state, without what only its page needs; M = layers * neurons.

  Attributes:
    columns: `measure.COLUMNS`, (M,) each.
    rules: every neuron's, in words.
    sums_WMS: of the neurons' own rules.
    ranks_WMS: of ranks by these rules, on the excerpts that all neurons share.
    loss: of the network on the scoring windows, nats per token.
  """

  columns: dict[str, np.ndarray]
  rules: list[str]
  sums_WMS: np.ndarray
  ranks_WMS: np.ndarray
  loss: float


@dataclasses.dataclass(frozen=True)
class Record:
  """All states of a run.

  Attributes:
    facts: what was measured, as the manifest says it.
    units_Ln: the neurons of each layer.
    tokens_W: tokens of each work that was scored on.
    ranked_W: of these, those of the shared excerpts.
    states: by name, see `STATES`.
    null_WKMS: of the trained neurons by others' rules.
  """

  facts: dict[str, Any]
  units_Ln: np.ndarray
  tokens_W: np.ndarray
  ranked_W: np.ndarray
  states: dict[str, State]
  null_WKMS: np.ndarray

  @property
  def layers(self) -> int:
    """How many there are."""
    return len(self.units_Ln)

  @property
  def ended(self) -> bool:
    """Whether it is of the end of its run, where the rate has decayed, and not on its way there."""
    return bool(self.facts["step"] == self.facts["train_steps"])

  def of_layer(self, layer: int | None) -> slice:
    """Where a layer's neurons stand among all; None for all of them."""
    n = self.units_Ln.shape[1]
    return slice(None) if layer is None else slice(layer * n, (layer + 1) * n)

  def scored(self, state: str, layer: int | None) -> Scored:
    """What a mean over a layer's neurons is made from.

    Args:
      state: of `STATES`, or `NULL` or `SPEARMAN`.
      layer: its number; None for all.
    """
    tokens_W = self.tokens_W
    if state == NULL:
      sums_WMS = self.null_WKMS
    elif state == SPEARMAN:
      sums_WMS, tokens_W = self.states[TRAINED].ranks_WMS, self.ranked_W
    else:
      sums_WMS = self.states[state].sums_WMS
    return Scored(sums_WMS[..., self.of_layer(layer), :], tokens_W)


def kinds(records: Sequence[Record]) -> list[str]:
  """What each run is one of: its model, and its rate and schedule where these are not all the same.

  Raises:
    UserError: models that differ are called the same.
  """
  found = []
  for record in records:
    kind = record.facts["kind"]
    alike = [other.facts for other in records if other.facts["kind"] == kind]
    for other in alike:
      if other["model_sha256"] != record.facts["model_sha256"]:
        raise UserError(
          f"{record.facts['run']} and {other['run']} are both {kind}, and differ in model.context, "
          "model.dtype or another key that this does not say: name runs of one model."
        )
    parts = [kind]
    for key, said in (("learning_rate", "rate {:g}"), ("schedule", "{}")):
      if len({other[key] for other in alike}) > 1:
        parts.append(said.format(record.facts[key]))
    found.append(", ".join(parts))
  return found


def write(
  out: Path,
  record: Record,
  latents: dict[tuple[str, int], dict[str, np.ndarray]],
  pages: dict[str, Any],
) -> None:
  """Writes a record; a kill before the end leaves no manifest, and the next run starts anew.

  Args:
    out: the folder.
    record: what to write.
    latents: by set and layer, delphi's three arrays.
    pages: see `pages.pages`.
  """
  files = {NEURONS: _table(record), SUMS: _sums(record), PAGES: json.dumps(pages).encode()}
  for (part, layer), arrays in latents.items():
    last = int(record.units_Ln[layer].max())
    folder = f"latents/{part}/layer_{layer}"
    files[f"{folder}/0_{last}.safetensors"] = safetensors.numpy.save(arrays)
    described = {"width": last + 1, "ctx_len": int(arrays["tokens"].shape[1])}
    files[f"{folder}/config.json"] = json.dumps(described, indent=2).encode()
  (out / MANIFEST).unlink(missing_ok=True)
  for name, data in files.items():
    atomic.write(out / name, data)
  digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
  manifest = {**record.facts, "files": digests}
  atomic.write(out / MANIFEST, json.dumps(manifest, indent=2) + "\n")


def read(out: Path, facts: dict[str, Any] | None = None) -> Record | None:
  """A record that is whole, and of `facts` if they are given; None if there is none.

  A text is known by its digest, not by the name it has here.

  Raises:
    UserError: a file is not the one that was written.
  """
  if not (out / MANIFEST).exists():
    return None
  manifest = json.loads((out / MANIFEST).read_text())
  digests = manifest.pop("files")
  if facts is not None and manifest | _NO_NAME != json.loads(json.dumps(facts)) | _NO_NAME:
    return None
  for name, digest in digests.items():
    path = out / name
    if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
      raise UserError(f"{path} is not the file that {MANIFEST} names: remove {out / MANIFEST}.")
  arrays = safetensors.numpy.load((out / SUMS).read_bytes())
  table = pyarrow.parquet.read_table(out / NEURONS)
  states = {}
  for name in manifest["states"]:
    rows = table.filter(pyarrow.compute.equal(table["state"], name))
    states[name] = State(
      {column: rows[column].to_numpy() for column in COLUMNS},
      rows["rule"].to_pylist(),
      arrays[f"{name}/own"].astype(np.float64),
      arrays[f"{name}/ranks"].astype(np.float64),
      float(arrays[f"{name}/loss"]),
    )
  null_WKMS = arrays["null"].astype(np.float64)
  return Record(manifest, arrays["units"], arrays["tokens"], arrays["ranked"], states, null_WKMS)


def _table(record: Record) -> bytes:
  n = record.units_Ln.shape[1]
  columns: dict[str, Any] = {"state": [], "layer": [], "unit": [], "rule": []}
  for name, state in record.states.items():
    columns["state"] += [name] * len(state.rules)
    columns["layer"] += np.repeat(np.arange(record.layers), n).tolist()
    columns["unit"] += record.units_Ln.ravel().tolist()
    columns["rule"] += state.rules
  for column in COLUMNS:
    columns[column] = np.concatenate([s.columns[column] for s in record.states.values()])
  sink = pyarrow.BufferOutputStream()
  pyarrow.parquet.write_table(pyarrow.table(columns), sink, compression="zstd")
  return sink.getvalue().to_pybytes()


def _sums(record: Record) -> bytes:
  counts = {"units": record.units_Ln, "tokens": record.tokens_W, "ranked": record.ranked_W}
  arrays = {name: x.astype(np.int64) for name, x in counts.items()}
  arrays["null"] = record.null_WKMS.astype(np.float32)
  for name, state in record.states.items():
    arrays[f"{name}/own"] = state.sums_WMS.astype(np.float32)
    arrays[f"{name}/ranks"] = state.ranks_WMS.astype(np.float32)
    arrays[f"{name}/loss"] = np.array(state.loss)
  return safetensors.numpy.save(arrays)
