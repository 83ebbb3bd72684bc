"""What a score costs in loss: the points, the tables and the picture."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from crate_jax.data import atomic
from crate_jax.errors import UserError
from crate_jax.interpret.equal_loss import Equal, Point, at_equal_loss, base, points
from crate_jax.interpret.neurons_report import made_by, number, spread
from crate_jax.interpret.record import TRAINED, Record
from crate_jax.page import Block, Heading, Paragraph, Picture, Table, markdown
from crate_jax.scaling.report.pictures import COLORS
from crate_jax.training import checkpoint, report
from crate_jax.training import workdir as files


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


def blocks(
  points: Sequence[Point], equal: Sequence[Equal], picture: Path, command: str
) -> list[Block]:
  """The report."""
  rows = [
    (
      p.kind,
      str(p.record.facts["train_seed"]),
      f"{p.record.facts['step']:,}" + ("" if p.ended else " on the way"),
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
        ("difference", "of", "loss", "score", "95 %", "matched by firing rate", "95 %", "matched"),
        [
          (
            f"{e.a} - {e.b}",
            "ends" if e.ended else "ways",
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
        "Ends of runs, where the rate has decayed, are held against ends, and checkpoints on the "
        "way, at a constant or higher rate, against such. Scores are read off between the two "
        "points next to a loss, and so are the differences of neurons matched by firing rate."
      )
    )
  else:
    found.append(
      Paragraph(f"No other kind reaches a loss of {base(points)}: nothing can be compared.")
    )
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
        "ended": p.ended,
        **p.record.facts,
      }
      for p in found
    ],
    "at_equal_loss": [dataclasses.asdict(e) for e in equal],
    **report.environment(),
  }
  files.write_json(out / "tradeoff.json", report.finite(written))


def draw(path: Path, points: Sequence[Point]) -> None:
  """Two panels: score against loss, and against active neurons; hollow: on the way."""
  figure = Figure(figsize=(9, 4.8), layout="constrained")
  axes = figure.subplots(1, 2, sharey=True)
  for i, kind in enumerate(dict.fromkeys(p.kind for p in points)):
    for ended in (True, False):
      of = [p for p in points if p.kind == kind and p.ended == ended]
      if not of:
        continue
      bars = np.array([[p.score - p.interval[0], p.interval[1] - p.score] for p in of]).T
      color = COLORS[i % len(COLORS)]
      for panel, x in zip(axes, ([p.loss for p in of], [p.active for p in of]), strict=True):
        panel.errorbar(
          x,
          [p.score for p in of],
          yerr=np.maximum(bars, 0),
          fmt="o",
          color=color,
          markerfacecolor=color if ended else "white",
          label=kind if ended else f"{kind}, on the way",
          markersize=4,
        )
  for panel, what in zip(axes, ("loss, nats per token", "active neurons"), strict=True):
    panel.set_xlabel(what)
    panel.locator_params(axis="x", nbins=7)
    panel.spines[["top", "right"]].set_visible(False)
  axes[0].set_ylabel("mean score")
  handles = axes[0].get_legend_handles_labels()
  figure.legend(*handles, loc="outside lower center", ncols=2, frameon=False, fontsize="x-small")
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}")
  figure.savefig(temporary, dpi=120, format="png", metadata={"Software": None})
  temporary.replace(path)
