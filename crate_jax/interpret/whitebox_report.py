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
It does for certain up to eta sigma^2 = eta sigma_max(D)^2 = 1; over layers the largest is given.

Non-zero: share of the neurons that are not zero, mean over tokens. Dead: share of the neurons that
are zero at every token measured. Leaving: share of the block's output, in squared length, that is
orthogonal to the stream that entered it: 1 - cos^2 between the two, mean over tokens. Step 0 is a
fresh init from the run's seed. A dash: the network has no such part.
"""


@dataclasses.dataclass(frozen=True)
class Measured:
  """A run, the text it was measured on, and every state in order: (step, layers), step 0 first."""

  workdir: str
  config: Config
  windows: int
  text: dict[str, str]
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
    **run.text,
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
    parts += [f"{run.text['text']}, sha256 {run.text['text_sha256'][:12]}.", ""]
    parts += _table(COLUMNS, [summary_cells(step, layers) for step, layers in run.states])
    parts += ["", *_layers_table(run), ""]
  parts += [NOTES]
  parts += [
    f"Measured in {facts['seconds']:.0f} s on {facts['device']}, Python {facts['python']}, "
    f"jax {facts['jax']}, flax {facts['flax']}, commit {facts['commit']}.",
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

  Shares have axes from 0 to 1; the other axes depend on m, p and the width.
  """
  figure = Figure(figsize=(16, 3.6 * len(runs)), layout="constrained")
  grid = figure.subplots(len(runs), 4, squeeze=False)
  for row, run in zip(grid, runs, strict=True):
    _draw_rates(row[0], run)
    _draw_objective(row[1], run)
    _draw_nonzero(row[2], run)
    _draw_checkpoints(row[3], run)
    for axes in row:
      axes.spines[["top", "right"]].set_visible(False)
      if axes.lines:
        axes.legend(frameon=False, fontsize="small")
  temporary = path.with_name(f".{path.name}")
  figure.savefig(temporary, dpi=120, format="png")
  temporary.replace(path)


def _ends(run: Measured) -> list[tuple[str, str, list[Layer]]]:
  """The fresh init and the newest checkpoint: name, line style, layers."""
  step, layers = run.states[-1]
  return [("init", "--", run.states[0][1]), (f"step {step:,}", "-", layers)]


def _draw_rates(axes: Axes, run: Measured) -> None:
  model = run.config.model
  for name, style, layers in _ends(run):
    for when, color in (("before", "C0"), ("after", "C1")):
      rates = [getattr(layer, f"Rc_{when}") for layer in layers]
      axes.errorbar(
        range(len(layers)),
        [rate.mean for rate in rates],
        yerr=[rate.std for rate in rates],
        label=f"{when} mixing, {name}",
        color=color,
        linestyle=style,
        marker="o",
        markersize=3,
      )
  _label(
    axes,
    f"{Path(run.workdir).name}: {model.architecture}, R^c at m = {model.context}, "
    f"p = {model.head_width}",
    "nats",
    model.layers,
  )


def _draw_objective(axes: Axes, run: Measured) -> None:
  for name, style, layers in _ends(run):
    objectives = [layer.objective for layer in layers if layer.objective is not None]
    for step, values in enumerate(zip(*objectives, strict=True)):
      axes.plot(values, style, color=f"C{step}", marker="o", markersize=3, label=f"A{step}, {name}")
  title = "ISTA's objective at A0 and after each step"
  _label(axes, title if axes.lines else "no ISTA, no objective", "", run.config.model.layers)


def _draw_nonzero(axes: Axes, run: Measured) -> None:
  for name, style, layers in _ends(run):
    if layers[0].nonzero is not None:
      values = [layer.nonzero or 0 for layer in layers]
      axes.plot(values, style, color="C2", marker="o", markersize=3, label=f"non-zero, {name}")
      values = [layer.dead or 0 for layer in layers]
      axes.plot(values, style, color="0.6", marker="o", markersize=3, label=f"dead, {name}")
  title = f"non-zero neurons; dead on {run.tokens:,} tokens" if axes.lines else "no neurons"
  _label(axes, title, "share", run.config.model.layers)
  axes.set_ylim(-0.02, 1.02)


def _draw_checkpoints(axes: Axes, run: Measured) -> None:
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
  axes.set(title="over training", xlabel="step", ylabel="share")
  axes.set_ylim(-0.02, 1.02)


def _label(axes: Axes, title: str, unit: str, layers: int) -> None:
  axes.set(title=title, xlabel="layer", ylabel=unit)
  axes.set_xticks(range(layers))
