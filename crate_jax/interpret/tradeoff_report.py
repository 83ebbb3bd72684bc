"""What a score costs in loss: kinds of networks, compared where their losses are equal."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from crate_jax.data import atomic
from crate_jax.errors import UserError
from crate_jax.interpret import statistics
from crate_jax.interpret.neurons_report import DRAWS, made_by, number, spread
from crate_jax.interpret.record import OWN_TOP, TRAINED, Record
from crate_jax.interpret.statistics import Scored
from crate_jax.page import Block, Heading, Paragraph, Picture, Table, markdown
from crate_jax.scaling.report.pictures import COLORS
from crate_jax.training import checkpoint, report
from crate_jax.training import workdir as files

LOSSES = 3  # at which kinds are compared, equally far apart in what both reach


@dataclasses.dataclass(frozen=True)
class Point:
  """A network at a checkpoint.

  Attributes:
    record: what was measured.
    kind: what its runs share.
    score: mean over the neurons whose score is defined,
    interval: of it,
    drawn_D: and its draws.
    top: the same of each neuron's own top 1 %,
    top_interval: and its interval.
    active: mean share of a token's neurons that are not zero.
  """

  record: Record
  kind: str
  score: float
  interval: tuple[float, float]
  drawn_D: np.ndarray
  top: float
  top_interval: tuple[float, float]
  active: float

  @property
  def loss(self) -> float:
    """Nats per token on the scoring windows."""
    return self.record.states[TRAINED].loss


@dataclasses.dataclass(frozen=True)
class Equal:
  """Two kinds at one loss.

  Attributes:
    a: a kind,
    b: and that which is subtracted.
    loss: nats per token.
    value: a's score minus b's, each read off between its two nearest points.
    interval: of it.
    matched: the same of the points nearest to the loss, with neurons matched by firing rate,
    matched_interval: its interval,
    shares: and which shares of their neurons could be.
  """

  a: str
  b: str
  loss: float
  value: float
  interval: tuple[float, float]
  matched: float
  matched_interval: tuple[float, float]
  shares: tuple[float, float]


def runs(workdirs: Sequence[str]) -> list[Path]:
  """The runs' folders; of a sweep those of all its runs that have a checkpoint.

  Raises:
    UserError: there is no run in a folder, or two are called the same.
  """
  found: list[Path] = []
  for name in workdirs:
    workdir = Path(name).expanduser()
    inside = sorted(p for p in (workdir / "runs").glob("*") if p.is_dir()) or [workdir]
    with_steps = [p for p in inside if checkpoint.steps(p)]
    if not with_steps:
      raise UserError(f"--workdir: {workdir} holds no checkpoint, and no run that does.")
    found += with_steps
  if len({path.name for path in found}) < len(found):
    raise UserError(f"--workdir={','.join(workdirs)} names two runs that are called the same.")
  return found


def steps(workdir: Path) -> list[int]:
  """The checkpoints of a run, but the untrained one."""
  return [step for step in checkpoint.steps(workdir) if step]


def line(record: Record) -> str:
  """A point as it is printed when it is measured."""
  f = record.facts
  scores = record.scored(TRAINED, None).scores()
  return (
    f"{f['run']}, step {f['step']:,}: loss {record.states[TRAINED].loss:.4f}, mean score "
    f"{number(float(np.nanmean(scores)))}"
  )


def points(records: Sequence[Record], seed: int, draws: int = DRAWS) -> list[Point]:
  """Summarises every network.

  Raises:
    UserError: they were not measured on the same windows.
  """
  first = records[0]
  for other in records[1:]:
    if other.facts["windows_sha256"] != first.facts["windows_sha256"]:
      raise UserError(
        f"{first.facts['run']} and {other.facts['run']} were not measured on the same tokens: "
        "name one text for all with --data."
      )
  works = len(first.tokens_W)
  counts_DW = statistics.draw_works(works, draws, np.random.default_rng([seed, works]))
  found = []
  for i, record in enumerate(records):
    rng = np.random.default_rng([seed, i])
    trained, drawn_D2 = statistics.summarise([record.scored(TRAINED, None)], counts_DW, rng)
    top, _ = statistics.summarise([record.scored(OWN_TOP, None)], counts_DW, rng)
    active = float(record.states[TRAINED].columns["firing_rate"].mean())
    found.append(
      Point(
        record,
        record.facts["kind"],
        trained.mean,
        trained.interval,
        drawn_D2[:, 0],
        top.mean,
        top.interval,
        active,
      )
    )
  return found


def at_equal_loss(points: Sequence[Point], seed: int, draws: int = DRAWS) -> list[Equal]:
  """Every kind against the first, at losses that both reach."""
  kinds = list(dict.fromkeys(p.kind for p in points))
  found = []
  for other in kinds[1:]:
    a, b = ([p for p in points if p.kind == kind] for kind in (other, kinds[0]))
    low = max(min(p.loss for p in side) for side in (a, b))
    high = min(max(p.loss for p in side) for side in (a, b))
    if low >= high:
      continue  # one is better than the other at its best: nothing is equal
    for loss in np.linspace(low, high, LOSSES + 2)[1:-1]:
      off_D = _at(a, loss) - _at(b, loss)
      matched, interval, shares = _matched(_nearest(a, loss), _nearest(b, loss), seed, draws)
      found.append(
        Equal(
          other,
          kinds[0],
          float(loss),
          float(_mean_at(a, loss) - _mean_at(b, loss)),
          statistics.interval(off_D),
          matched,
          interval,
          shares,
        )
      )
  return found


def _at(side: Sequence[Point], loss: float) -> np.ndarray:
  """Drawn scores at a loss, between the two points that lie next to it."""
  above = min((p for p in side if p.loss >= loss), key=lambda p: p.loss)
  below = max((p for p in side if p.loss <= loss), key=lambda p: p.loss)
  share = (loss - below.loss) / (above.loss - below.loss) if above.loss > below.loss else 0.0
  return (1 - share) * below.drawn_D + share * above.drawn_D


def _mean_at(side: Sequence[Point], loss: float) -> float:
  means = [dataclasses.replace(p, drawn_D=np.array([p.score])) for p in side]
  return float(_at(means, loss)[0])


def _nearest(side: Sequence[Point], loss: float) -> Point:
  return min(side, key=lambda p: abs(p.loss - loss))


def _matched(
  a: Point, b: Point, seed: int, draws: int
) -> tuple[float, tuple[float, float], tuple[float, float]]:
  rates = [p.record.states[TRAINED].columns["firing_rate"] for p in (a, b)]
  match = statistics.match(*rates)
  works = len(a.record.tokens_W)
  counts_DW = statistics.draw_works(works, draws, np.random.default_rng([seed, works]))
  sides = []
  for i, (point, weight_M) in enumerate(((a, match.weight_a_M), (b, match.weight_b_M))):
    plain: Scored = point.record.scored(TRAINED, None)
    weighted = dataclasses.replace(plain, weight_M=weight_M)
    rng = np.random.default_rng([seed, 1000 + i])
    sides.append(statistics.summarise([weighted], counts_DW, rng))
  off_D = sides[0][1][:, 0] - sides[1][1][:, 0]
  value = sides[0][0].mean - sides[1][0].mean
  return value, statistics.interval(off_D), (match.share_a, match.share_b)


def blocks(
  points: Sequence[Point], equal: Sequence[Equal], picture: Path, command: str
) -> list[Block]:
  """The report."""
  rows = [
    (
      p.kind,
      str(p.record.facts["train_seed"]),
      f"{p.record.facts['step']:,}",
      f"{p.loss:.4f}",
      number(p.score),
      spread(p.interval),
      f"{p.active:.1%}",
      number(p.top),
      spread(p.top_interval),
    )
    for p in sorted(points, key=lambda p: (p.kind, p.loss))
  ]
  head = ("kind", "seed", "step", "loss", "score", "95 %", "active", "own top 1 %", "95 %")
  found: list[Block] = [
    Paragraph(
      "Loss is nats per token on the scoring windows; score the mean Pearson correlation of "
      "neurons with their rules, from -1 to 1; active the mean share of a token's neurons that "
      "are not zero. Intervals are of neurons and works, not of seeds (`docs/neurons.md`)."
    ),
    Picture(picture, "Score against loss, and against the share of active neurons"),
    Heading("At equal loss"),
  ]
  if equal:
    found.append(
      Table(
        ("difference", "loss", "score", "95 %", "matched by firing rate", "95 %", "matched"),
        [
          (
            f"{e.a} - {e.b}",
            f"{e.loss:.3f}",
            number(e.value),
            spread(e.interval),
            number(e.matched),
            spread(e.matched_interval),
            f"{e.shares[0]:.0%}, {e.shares[1]:.0%}",
          )
          for e in equal
        ],
      )
    )
    found.append(
      Paragraph(
        "Scores are read off between the two points next to a loss; neurons are matched at the "
        "points nearest to it."
      )
    )
  else:
    found.append(Paragraph("No two kinds reach the same loss: nothing can be compared."))
  return [*found, Heading("Points"), Table(head, rows), made_by(command)]


def write(out: Path, records: Sequence[Record], seed: int, command: str) -> None:
  """Writes tradeoff.md, tradeoff.png and tradeoff.json."""
  found = points(records, seed)
  equal = at_equal_loss(found, seed)
  picture = out / "tradeoff.png"
  draw(picture, found)
  text = markdown("Score against loss", blocks(found, equal, picture, command))
  atomic.write(out / "tradeoff.md", text)
  written: dict[str, Any] = {
    "command": command,
    "points": [
      {
        "kind": p.kind,
        "loss": p.loss,
        "score": p.score,
        "interval": p.interval,
        "own_top": p.top,
        "own_top_interval": p.top_interval,
        "active": p.active,
        **p.record.facts,
      }
      for p in found
    ],
    "at_equal_loss": [dataclasses.asdict(e) for e in equal],
    **report.environment(),
  }
  files.write_json(out / "tradeoff.json", report.finite(written))


def draw(path: Path, points: Sequence[Point]) -> None:
  """Two panels: score against loss, and against the share of active neurons."""
  figure = Figure(figsize=(9, 3.8), layout="constrained")
  axes = figure.subplots(1, 2, sharey=True)
  for i, kind in enumerate(dict.fromkeys(p.kind for p in points)):
    of = sorted((p for p in points if p.kind == kind), key=lambda p: p.loss)
    bars = np.array([[p.score - p.interval[0], p.interval[1] - p.score] for p in of]).T
    for panel, x in zip(axes, ([p.loss for p in of], [p.active for p in of]), strict=True):
      panel.errorbar(
        x,
        [p.score for p in of],
        yerr=np.maximum(bars, 0),
        fmt="o",
        color=COLORS[i % len(COLORS)],
        label=kind,
        markersize=4,
      )
  for panel, what in zip(axes, ("loss, nats per token", "active neurons"), strict=True):
    panel.set_xlabel(what)
    panel.spines[["top", "right"]].set_visible(False)
  axes[0].set_ylabel("mean score")
  axes[0].legend(frameon=False, fontsize="small")
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}")
  figure.savefig(temporary, dpi=120, format="png", metadata={"Software": None})
  temporary.replace(path)
