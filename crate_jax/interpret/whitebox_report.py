"""What `interpret.whitebox` measured, as lines, tables, numbers and a picture."""

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crate_jax import config as config_lib
from crate_jax.config import Config
from crate_jax.interpret.coding_rate import EPSILON2
from crate_jax.interpret.gauges import Layer
from crate_jax.model.config import ModelConfig

NONE = "-"  # of a layer that has no such part
COLUMNS = (
  "step",
  "compress",
  "descend",
  "R^c before > after",
  "non-zero",
  "dead",
  "eta sigma^2",
  "leaving",
)
NOTES = """\
Before and after are the stream that enters a block and that stream with the mixing step added,
both through the block's first norm, LN1. R: coding rate of the tokens, each brought to length 1.
R^c: sum over heads of the coding rates of w = U^T LN1(x), each token's vector in each head brought
to length 1; U is the projection of MSSA or TSSA, or W_V of multi-head attention. A coding rate is
1/2 logdet(I + p/(m eps^2) W W^T), in nats, with p the vectors' width and m the tokens of a window.
Each window gives a value; ± is the standard deviation over windows. **Rates compare at equal m and
p only.** Compress: the layers in which the mixing step lowers the mean R^c; in brackets the share
of the windows in which it does.

Objective: 1/2 ||z - a D||^2 + lambda ||a||_1 of ISTA with z = LN2(x + mixing), mean over tokens,
at the codes it starts from and after each step. Descend: the layers in which every step lowers it.
It does for certain up to eta sigma^2 = eta sigma_max(D)^2 = 1 (over layers the largest is given),
unless it starts from z (warm_start) and z has signs that the codes may not have.

Non-zero: share of the neurons that are not zero, mean over tokens. Dead: share of the neurons that
are zero at every token measured. Leaving: share of the block's output, in squared length, that is
orthogonal to the stream that entered it: 1 - cos^2 between the two, mean over tokens. Step 0 is a
fresh init from the run's seed. A dash: the network has no such part.
"""


@dataclasses.dataclass(frozen=True)
class Measured:
  """A run, the text it was measured on, and every state in order.

  Attributes:
    workdir: the run's folder, as it was typed.
    config: its config.
    windows: how many windows of its context were measured.
    text: what text that was.
    text_sha256: of all its documents.
    states: steps and their layers; first step 0, the fresh init.
  """

  workdir: str
  config: Config
  windows: int
  text: str
  text_sha256: str
  states: list[tuple[int, list[Layer]]]

  @property
  def tokens(self) -> int:
    """Tokens measured."""
    return self.windows * self.config.model.context


def caption(model: ModelConfig, windows: int) -> str:
  """The network and how much text in one line."""
  return (
    f"{model.architecture}, {model.layers} layer{'s' * (model.layers > 1)} of width {model.width}, "
    f"{windows * model.context:,} tokens = {windows:,} windows of m = {model.context:,}, "
    f"p = {model.head_width}, eps^2 = {EPSILON2}"
  )


def aligned(cells: Iterable[str]) -> str:
  """Cells of the summary as a line for the terminal."""
  return "  ".join(f"{c:>{max(len(n), 6)}}" for n, c in zip(COLUMNS, cells, strict=True)).rstrip()


def summary(layers: Sequence[Layer]) -> dict[str, float | int | None]:
  """One state of a network over its layers; None for parts that it does not have."""
  first = layers[0]
  ista, neurons = first.objective is not None, first.nonzero is not None
  return {
    "layers": len(layers),
    "compress": sum(layer.compresses for layer in layers),
    "descend": sum(bool(layer.descends) for layer in layers) if ista else None,
    "Rc_before": statistics.fmean(layer.Rc_before.mean for layer in layers),
    "Rc_after": statistics.fmean(layer.Rc_after.mean for layer in layers),
    "nonzero": statistics.fmean(layer.nonzero or 0 for layer in layers) if neurons else None,
    "dead": statistics.fmean(layer.dead or 0 for layer in layers) if neurons else None,
    "eta_sigma2": max(layer.eta_sigma2 or 0 for layer in layers) if ista else None,
    "leaving": statistics.fmean(layer.leaving for layer in layers),
  }


def summary_cells(step: int, layers: Sequence[Layer]) -> tuple[str, ...]:
  """`summary` in the order of `COLUMNS`."""
  s = summary(layers)
  return (
    f"{step:,}",
    f"{s['compress']} of {s['layers']}",
    NONE if s["descend"] is None else f"{s['descend']} of {s['layers']}",
    f"{s['Rc_before']:.1f} > {s['Rc_after']:.1f}",
    _share(s["nonzero"]),
    _share(s["dead"]),
    NONE if s["eta_sigma2"] is None else f"{s['eta_sigma2']:.2f}",
    _share(s["leaving"]),
  )


def as_dict(run: Measured) -> dict[str, Any]:
  """Everything measured of a run, for JSON."""
  return {
    "workdir": run.workdir,
    "architecture": run.config.model.architecture,
    "tokens": run.tokens,
    "windows": run.windows,
    "m": run.config.model.context,
    "p": run.config.model.head_width,
    "eps2": EPSILON2,
    "text": run.text,
    "text_sha256": run.text_sha256,
    "states": [
      {
        "step": step,
        "summary": summary(layers),
        "layers": [dataclasses.asdict(layer) for layer in layers],
      }
      for step, layers in run.states
    ],
    "config": config_lib.to_dict(run.config),
  }


def markdown(runs: Sequence[Measured], facts: dict[str, Any]) -> str:
  """The tables of all runs, what their columns are, and where the numbers come from."""
  parts = []
  for run in runs:
    parts += [f"## {run.workdir}: {run.config.model.architecture}", ""]
    parts += [f"{caption(run.config.model, run.windows)}.", ""]
    parts += [f"Text: {run.text}, sha256 {run.text_sha256[:12]}.", ""]
    parts += _table(COLUMNS, [summary_cells(step, layers) for step, layers in run.states])
    parts += ["", *_layers_table(run), ""]
  parts += [NOTES]
  parts += [
    f"Measured in {facts['seconds']:.0f} s on {facts['device']}, Python {facts['python']}, "
    f"jax {facts['jax']}, flax {facts['flax']}, commit {facts['commit']}:",
    "",
    "```",
    facts["command"],
    "```",
    "",
  ]
  return "\n".join(parts)


def _layers_table(run: Measured) -> list[str]:
  """Every layer at the fresh init and at the newest checkpoint."""
  head = (
    "layer",
    "step",
    "R before > after",
    "R^c before > after",
    "compress",
    "objective",
    "descend",
    "non-zero",
    "dead",
    "eta sigma^2",
    "leaving",
  )
  first, last = run.states[0], run.states[-1]
  rows = []
  for number in range(run.config.model.layers):
    for step, layers in (first, last):
      rows.append((str(number), f"{step:,}", *_layer_cells(layers[number])))
  return _table(head, rows)


def _layer_cells(layer: Layer) -> tuple[str, ...]:
  def rates(before: Any, after: Any) -> str:
    return f"{before.mean:.1f} ± {before.std:.1f} > {after.mean:.1f} ± {after.std:.1f}"

  ista = layer.objective is not None
  return (
    rates(layer.R_before, layer.R_after),
    rates(layer.Rc_before, layer.Rc_after),
    f"{'yes' if layer.compresses else 'no'} ({layer.compressed_windows:.0%})",
    " > ".join(f"{value:.2f}" for value in layer.objective or []) or NONE,
    NONE if not ista else "yes" if layer.descends else "no",
    _share(layer.nonzero),
    _share(layer.dead),
    NONE if layer.eta_sigma2 is None else f"{layer.eta_sigma2:.2f}",
    _share(layer.leaving),
  )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
  lines = [head, ["---"] * len(head), *rows]
  return [f"| {' | '.join(line)} |" for line in lines]


def _share(value: float | None) -> str:
  return NONE if value is None else f"{value:.1%}"


def draw(path: Path, runs: Sequence[Measured]) -> None:
  """Writes a PNG: a row for each run, whose four panels say what they show.

  Over layers, dashed lines are the fresh init and solid ones the newest checkpoint.
  """
  figure = Figure(figsize=(16, 3.8 * len(runs)), layout="constrained")
  grid = figure.subplots(len(runs), 4, squeeze=False)
  for row, run in zip(grid, runs, strict=True):
    for axes, panel in zip(row, (_rates, _objectives, _neurons, _training), strict=True):
      panel(axes, run)
      axes.spines[["top", "right"]].set_visible(False)
      if axes.lines:
        axes.legend(frameon=False, fontsize="small")
      else:
        axes.set_axis_off()
  temporary = path.with_name(f".{path.name}")
  figure.savefig(temporary, dpi=120, format="png")
  temporary.replace(path)


def _rates(axes: Axes, run: Measured) -> None:
  m, p = run.config.model.context, run.config.model.head_width
  title = f"{Path(run.workdir).name}: R^c in nats, m = {m}, p = {p}"
  for when, color in (("before", "C0"), ("after", "C1")):
    values = [[getattr(x, f"Rc_{when}").mean for x in layers] for _, layers in run.states]
    spread = [[getattr(x, f"Rc_{when}").std for x in layers] for _, layers in run.states]
    _over_layers(axes, title, f"{when} mixing", color, values, spread)


def _objectives(axes: Axes, run: Measured) -> None:
  found = [[x.objective for x in layers if x.objective] for _, layers in run.states]
  axes.set_title("ISTA's objective" if found[0] else "no ISTA, no objective")
  for t in range(len(found[0][0]) if found[0] else 0):
    values = [[steps[t] for steps in layers] for layers in found]
    _over_layers(axes, axes.get_title(), f"A{t}", f"C{t}", values)


def _neurons(axes: Axes, run: Measured) -> None:
  axes.set_title("no neurons")
  for name, label, color in (
    ("nonzero", "non-zero", "C2"),
    ("dead", f"dead on {run.tokens:,} tokens", "0.6"),
  ):
    values = [[getattr(x, name) for x in layers] for _, layers in run.states]
    if values[0][0] is not None:
      _over_layers(axes, "share of the neurons", label, color, values)
  axes.set_ylim(-0.02, 1.02)


def _over_layers(
  axes: Axes,
  title: str,
  label: str,
  color: str,
  values: Sequence[Sequence[float]],
  spread: Sequence[Sequence[float]] | None = None,
) -> None:
  """Lines over layers: of the first state dashed, of the last solid, with bars of `spread`."""
  layers = range(len(values[0]))
  style: dict[str, Any] = {"color": color, "marker": "o", "markersize": 3}
  for i, line in ((0, "--"), (-1, "-")):
    name = label if i else None
    bars = spread[i] if spread else None
    axes.errorbar(layers, values[i], bars, linestyle=line, label=name, **style)
  axes.set(title=title, xlabel="layer (dashed: fresh init)", xticks=layers)


def _training(axes: Axes, run: Measured) -> None:
  steps = [step for step, _ in run.states]
  rows = [summary(layers) for _, layers in run.states]
  for name, label, color in (
    ("compress", "layers that compress", "C1"),
    ("descend", "layers that descend", "C0"),
    ("nonzero", "non-zero neurons", "C2"),
    ("leaving", "of the output that leaves the stream", "C3"),
  ):
    if rows[0][name] is not None:
      of = run.config.model.layers if name in ("compress", "descend") else 1
      values = [(row[name] or 0) / of for row in rows]
      axes.plot(steps, values, color=color, marker="o", markersize=3, label=label)
  axes.set(title="shares over training", xlabel="step", ylim=(-0.02, 1.02))
