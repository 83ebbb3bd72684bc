"""The rows of a sweep as a report reads them: cells with their seeds, checks, trials.

A cell here is every seed of one variant, size and length together.
"""

import collections
import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from scipy import stats

from crate_jax.errors import UserError
from crate_jax.scaling.table import Row

LEVEL = 0.9  # of every interval in the report
# Up to here repeats are nearly as good as new text (Muennighoff et al. 2023, arXiv 2305.16264).
MOST_EPOCHS = 4.0


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A number with its interval at `LEVEL`; no bounds where nothing says how sure it is."""

  value: float
  low: float | None = None
  high: float | None = None

  @property
  def sign(self) -> int:
    """Of the number, where the interval leaves no doubt about it; otherwise 0."""
    if self.low is None or self.high is None:
      return 0
    return int(self.low > 0) - int(self.high < 0)


@dataclasses.dataclass(frozen=True, order=True)
class Size:
  """The shape of a network, variants aside.

  Attributes:
    layers: blocks.
    width: d.
    heads: of the mixing step.
    name: for people.
  """

  layers: int
  width: int
  heads: int
  name: str = dataclasses.field(compare=False)

  def __str__(self) -> str:
    return self.name


Shape = tuple[int, int, int]  # layers, width, heads


def sizes(shapes: Iterable[Shape]) -> dict[Shape, Size]:
  """The sizes of these shapes; names say the heads where the same size has others too."""
  distinct = set(shapes)
  alike = collections.Counter((layers, width) for layers, width, _ in distinct)
  found = {}
  for layers, width, heads in distinct:
    more = f" x {heads} heads" if alike[layers, width] > 1 else ""
    found[layers, width, heads] = Size(layers, width, heads, f"{layers}L x {width}{more}")
  return found


def _of(rows: Sequence[Row]) -> Callable[[Row], Size]:
  """The size of each row of a table."""
  found = sizes(map(_shape, rows))
  return lambda row: found[_shape(row)]


def _shape(row: Row) -> Shape:
  return row.layers, row.width, row.heads


@dataclasses.dataclass(frozen=True)
class Cell:
  """All seeds of one variant, size and length.

  Attributes:
    variant: name of the architecture.
    size: its shape.
    tokens: trained on.
    rows: one a seed, in the order of the seeds.
  """

  variant: str
  size: Size
  tokens: int
  rows: tuple[Row, ...]

  @property
  def repeated(self) -> bool:
    """Whether the text was seen more than `MOST_EPOCHS` times: shown, and never fitted."""
    return max(row.epochs for row in self.rows) > MOST_EPOCHS

  @property
  def seeds(self) -> tuple[int, ...]:
    """In order."""
    return tuple(row.seed for row in self.rows)

  @property
  def loss(self) -> float:
    """Mean over the seeds, nats per token."""
    return self.mean(lambda row: row.loss)

  def mean(self, value: Callable[[Row], float]) -> float:
    """Of something over the seeds."""
    return statistics.fmean(map(value, self.rows))

  def of(self, seed: int) -> Row:
    """The row of a seed that is among `seeds`."""
    return self.rows[self.seeds.index(seed)]


def over_seeds(values: Sequence[float]) -> Estimate:
  """The mean of one value a seed with Student's interval; without bounds for a single seed."""
  mean = statistics.fmean(values)
  if len(values) < 2:
    return Estimate(mean)
  error = statistics.stdev(values) / math.sqrt(len(values))
  half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
  return Estimate(mean, mean - half, mean + half)


def grid(rows: Sequence[Row]) -> tuple[list[Cell], list[str]]:
  """The cells of the grid by variant, size and length; names of rows without a finite loss.

  Raises:
    UserError: the grid has no cell, or two rows are the same seed of the same cell.
  """
  found: dict[tuple[str, Size, int], dict[int, Row]] = {}
  size, dropped = _of(rows), []
  for row in rows:
    if row.kind != "grid":
      continue
    if not math.isfinite(row.loss):
      dropped.append(row.cell)
      continue
    seeds = found.setdefault((row.variant, size(row), row.tokens), {})
    if row.seed in seeds:
      raise UserError(
        f"The table's cells {seeds[row.seed].cell} and {row.cell} are one variant, size, length "
        f"and seed: a sweep trains each once."
      )
    seeds[row.seed] = row
  if not found:
    raise UserError("The table has no cell of the grid with a finite loss: nothing to report yet.")
  cells = [Cell(*key, tuple(seeds[seed] for seed in sorted(seeds))) for key, seeds in found.items()]
  return sorted(cells, key=lambda c: (c.variant, c.size, c.tokens)), dropped


def series(cells: Iterable[Cell]) -> dict[tuple[str, Size], list[Cell]]:
  """Cells that differ in length alone, the shortest first."""
  found: dict[tuple[str, Size], list[Cell]] = collections.defaultdict(list)
  for cell in sorted(cells, key=lambda c: c.tokens):
    found[cell.variant, cell.size].append(cell)
  return dict(sorted(found.items()))


def common_seeds(cells: Sequence[Cell]) -> list[int]:
  """The seeds that every one of the cells has."""
  return sorted(set.intersection(*(set(cell.seeds) for cell in cells)))


@dataclasses.dataclass(frozen=True)
class Check:
  """A run with the cosine schedule beside the one that branched off a trunk.

  Attributes:
    cell: name of the cosine run.
    beside: name of the other.
    cosine: its loss.
    wsd: the other's loss.
  """

  cell: str
  beside: str
  cosine: float
  wsd: float


def checks(rows: Sequence[Row]) -> tuple[list[Check], list[str]]:
  """The checks of the schedule, and the names of those that have nothing to stand beside."""

  def key(row: Row) -> tuple[str, Shape, int, int]:
    return row.variant, _shape(row), row.tokens, row.seed

  branches = {key(row): row for row in rows if row.kind == "grid" and row.schedule == "wsd"}
  found, alone = [], []
  for row in sorted((row for row in rows if row.kind == "check"), key=lambda row: row.cell):
    if other := branches.get(key(row)):
      found.append(Check(row.cell, other.cell, row.loss, other.loss))
    else:
      alone.append(row.cell)
  return found, alone


@dataclasses.dataclass(frozen=True)
class Trials:
  """The rates that were tried for a variant, size and length.

  Attributes:
    variant: name of the architecture.
    size: its shape.
    steps: of each.
    rates: the lowest first.
    losses: on the text that rates are chosen on; infinite for a run that diverged.
  """

  variant: str
  size: Size
  steps: int
  rates: tuple[float, ...]
  losses: tuple[float, ...]

  @property
  def best(self) -> int:
    """Index of the rate with the lowest loss."""
    return int(np.argmin(self.losses))

  @property
  def interior(self) -> bool:
    """Whether a lower and a higher rate were tried than the best one."""
    return 0 < self.best < len(self.rates) - 1


def trials(rows: Sequence[Row]) -> list[Trials]:
  """Every choice of a rate in the table."""
  found: dict[tuple[str, Size, int], dict[float, list[float]]] = {}
  size = _of(rows)
  for row in rows:
    if row.kind == "trial":
      key = (row.variant, size(row), row.steps)
      loss = row.loss_of_rates if math.isfinite(row.loss_of_rates) else math.inf
      found.setdefault(key, {}).setdefault(row.learning_rate, []).append(loss)
  return [
    Trials(*key, tuple(sorted(of)), tuple(statistics.fmean(of[rate]) for rate in sorted(of)))
    for key, of in sorted(found.items())
  ]
