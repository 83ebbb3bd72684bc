"""The runs of a study, from a CSV."""

import csv
import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from crate_jax.errors import UserError

# What a column is, and the names it is known by: lower case, letters and digits alone.
NAMES = {
  "tokens": ("tokens", "d", "trainingtokens", "traintokens", "numtokens", "ntokens"),
  "loss": ("loss", "valloss", "validationloss", "evalloss", "testloss", "l"),
  "params": ("params", "n", "parameters", "modelsize", "numparams", "nparams", "numparameters"),
  "cluster": ("cluster",),
  "seed": ("seed",),
  "variant": ("variant",),
  "kind": ("kind",),
}
NEEDED = ("tokens", "loss")
LABELS = ("cluster", "seed", "variant", "kind")  # columns of words, not of numbers
ONE = ("variant", "kind")  # of these a file has one: runs of several follow no common law


@dataclasses.dataclass(frozen=True)
class Runs:
  """R runs of a study.

  Attributes:
    tokens_R: D.
    loss_R: nats.
    params_R: N, if there is such a column.
    cluster_R: number of the cluster that a run belongs to, from 0 on.
    clustered: what a cluster is, for people.
  """

  tokens_R: np.ndarray
  loss_R: np.ndarray
  params_R: np.ndarray | None
  cluster_R: np.ndarray
  clustered: str

  def of(self, chosen_R: np.ndarray) -> "Runs":
    """These runs."""
    _, cluster_R = np.unique(self.cluster_R[chosen_R], return_inverse=True)
    params_R = None if self.params_R is None else self.params_R[chosen_R]
    return Runs(self.tokens_R[chosen_R], self.loss_R[chosen_R], params_R, cluster_R, self.clustered)


def read(path: Path) -> Runs:
  """Reads the file; lines without anything in them are skipped.

  Raises:
    UserError: it cannot be read, a column is missing or there twice, a number is none or is not
      positive, or the runs are of several variants or kinds; names the file and, where there is
      one, line and column.
  """
  columns: dict[str, list[str]] = {}
  numbers: dict[str, list[float]] = {}
  rows = _rows(path)
  _, header = next(rows, (0, []))
  places = _places(path, header)
  for line, row in rows:
    if len(row) != len(header):
      raise UserError(
        f"{path}, line {line}: {len(row)} fields, where the first line names {len(header)} columns."
      )
    for kind, place in places.items():
      if kind in LABELS:
        columns.setdefault(kind, []).append(row[place].strip())
      else:
        where = f"{path}, line {line}, column {header[place].strip()!r}"
        numbers.setdefault(kind, []).append(_positive(row[place], where))
  if not numbers:
    raise UserError(f"{path} has no runs: its first line names columns, and none follows.")
  for kind in ONE:
    if len(values := sorted(set(columns.get(kind, ())))) > 1:
      raise UserError(
        f"{path} has runs of more than one {kind}, {', '.join(values)}, which follow no common "
        "law: filter it (docs/fits.md says how)."
      )
  arrays = {kind: np.array(values) for kind, values in numbers.items()}
  labels, clustered = _clusters(columns, numbers)
  cluster_R = np.unique(labels, return_inverse=True)[1]
  return Runs(arrays["tokens"], arrays["loss"], arrays.get("params"), cluster_R, clustered)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
  """Lines that hold something, with their numbers; split at commas, or at what the first has."""
  try:
    with path.open(encoding="utf-8-sig", newline="") as file:
      first = file.readline()
      delimiter = next((sign for sign in ",;\t" if sign in first), ",")
      file.seek(0)
      reader = csv.reader(file, delimiter=delimiter)
      for row in reader:
        if any(cell.strip() for cell in row):
          yield reader.line_num, row
  except FileNotFoundError as error:
    raise UserError(f"--data={path}: there is no such file.") from error
  except IsADirectoryError as error:
    raise UserError(f"--data={path} is a folder, and not a CSV.") from error
  except (UnicodeDecodeError, csv.Error) as error:
    raise UserError(f"{path} is not a CSV in UTF-8: {error}.") from error


def _places(path: Path, header: list[str]) -> dict[str, int]:
  """Which column is what."""
  found: dict[str, int] = {}
  known = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in header]
  for kind, names in NAMES.items():
    here = [place for place, name in enumerate(known) if name in names]
    if len(here) > 1:
      both = " and ".join(repr(header[place].strip()) for place in here)
      raise UserError(f"{path} has more than one column of {kind}: {both}.")
    if here:
      found[kind] = here[0]
    elif kind in NEEDED:
      raise UserError(
        f"{path} has no column of {kind}, which may be named {', '.join(names)}: its first line "
        f"names {', '.join(repr(name.strip()) for name in header) or 'nothing'}."
      )
  return found


def _positive(text: str, where: str) -> float:
  try:
    number = float(text)
  except ValueError:
    number = math.nan
  if not (math.isfinite(number) and number > 0):
    raise UserError(f"{where}: {text.strip()!r} is not a positive number.")
  return number


def _clusters(
  columns: dict[str, list[str]], numbers: dict[str, list[float]]
) -> tuple[list[str], str]:
  """A label for each run, and what it is."""
  if "cluster" in columns:
    return columns["cluster"], "runs of one name in `cluster`"
  runs = len(numbers["loss"])
  if "seed" in columns:
    sizes = numbers.get("params", [0.0] * runs)
    labels = [f"{size!r} {seed}" for size, seed in zip(sizes, columns["seed"], strict=True)]
    return labels, "runs of one seed" + (" and N" if "params" in numbers else "")
  return [f"{run:012d}" for run in range(runs)], "each run by itself"
