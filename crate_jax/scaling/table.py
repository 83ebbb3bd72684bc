"""The table of a sweep: one row a cell, as parquet and as CSV.

  table.parquet   what is read back: numbers as they are, lists as lists
  table.csv       the same for people and for other tools; lists as JSON

A cell is a model trained for one length, from one seed, with the rate decayed at its end.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow
import pyarrow.parquet

from crate_jax.data import atomic
from crate_jax.errors import UserError

PARQUET = "table.parquet"
CSV = "table.csv"


@dataclasses.dataclass(frozen=True)
class Row:
  """What a finished cell is, and what came of it.

  Attributes:
    cell: its name, which says the seven that follow.
    variant: the architecture, as the sweep's config names it.
    layers: blocks.
    width: d.
    steps: updates.
    seed: of the initial parameters and of the order of the data.
    schedule: "wsd" for a branch of a trunk, or "cosine".
    learning_rate: the peak.
    kind: "grid" for a cell of the grid, "check" for one that is trained to compare the schedules,
      "trial" for one that is trained to choose a rate.
    heads: of the mixing step.
    tokens: trained on.
    epochs: passes through the training text that this is.
    parameters: as the paper counts them, positions not among them.
    block_parameters: of these, those in blocks.
    flops_per_token: of training, exact.
    loss: nats per token of the evaluation text; in a trial, of the text that rates are chosen on.
    bits_per_byte: of the evaluation text.
    loss_of_rates: nats per token of the text that rates are chosen on.
    train_loss: nats per token at the start of the training text.
    nonzero: share of every layer's neurons that are not zero; empty for a model without neurons.
    work_nats: negative log-likelihood of each work of the evaluation text, summed over its tokens.
    work_tokens: of each work, tokens scored; the works stand in the same order in every row.
    curve_tokens: where the run was evaluated on its way.
    curve_loss: nats per token there, on the beginning of the reserved text.
    seconds: of the whole path, the trunk's share among them.
    cores: of a CPU that it was trained on; on another number the last bits are others.
    tokens_per_second: of training alone.
    text: sha256 of the training text.
    weights: digest of the parameters it ended with.
    digest: of the cell's config, without what may differ between machines.
    device: that it was trained on.
    jax: version of JAX.
    commit: of this package.
  """

  cell: str
  variant: str
  layers: int
  width: int
  steps: int
  seed: int
  schedule: str
  learning_rate: float
  kind: str
  heads: int
  tokens: int
  epochs: float
  parameters: int
  block_parameters: int
  flops_per_token: int
  loss: float
  bits_per_byte: float
  loss_of_rates: float
  train_loss: float
  nonzero: list[float]
  work_nats: list[float]
  work_tokens: list[int]
  curve_tokens: list[int]
  curve_loss: list[float]
  seconds: float
  cores: int
  tokens_per_second: float
  text: str
  weights: str
  digest: str
  device: str
  jax: str
  commit: str

  @property
  def flops(self) -> float:
    """Of training it, exact."""
    return float(self.flops_per_token) * self.tokens


FIELDS = tuple(field.name for field in dataclasses.fields(Row))


def write(folder: Path, rows: Iterable[Row]) -> None:
  """Writes both files, each at once or not at all, sorted by the cells' names."""
  ordered = sorted(map(dataclasses.asdict, rows), key=lambda row: (row["cell"], row["kind"]))
  buffer = io.BytesIO()
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ordered, schema=_schema()), buffer)
  atomic.write(folder / PARQUET, buffer.getvalue())
  text = io.StringIO()
  writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
  writer.writeheader()
  for row in ordered:
    writer.writerow({k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()})
  atomic.write(folder / CSV, text.getvalue())


def read(folder: Path) -> list[Row]:
  """The rows of a sweep's table.

  Raises:
    UserError: there is none, or the file is no such table.
  """
  path = folder / PARQUET
  try:
    rows = pyarrow.parquet.read_table(path).to_pylist()
  except FileNotFoundError as error:
    raise UserError(f"{path} is not there: --workdir is not the folder of a sweep.") from error
  except pyarrow.ArrowException as error:
    raise UserError(f"{path} is not a sweep's table: {str(error).splitlines()[0]}.") from error
  try:
    return [Row(**row) for row in rows]
  except TypeError as error:
    raise UserError(f"{path} is not a sweep's table: {error}.") from error


def _schema() -> pyarrow.Schema:
  kinds = {
    str: pyarrow.string(),
    int: pyarrow.int64(),
    float: pyarrow.float64(),
    list[float]: pyarrow.list_(pyarrow.float64()),
    list[int]: pyarrow.list_(pyarrow.int64()),
  }
  return pyarrow.schema([(field.name, kinds[field.type]) for field in dataclasses.fields(Row)])  # type: ignore[index]
