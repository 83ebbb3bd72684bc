"""The pictures of `scaling.plateau`: PNG files, drawn without pyplot.

Colours are of Okabe and Ito's set, which people with any colour vision tell apart; what a colour
means stands beside the line. A band is an interval of 90 %.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from crate_jax.scaling.report import words
from crate_jax.scaling.report.analysis import Analysis
from crate_jax.scaling.report.cells import Cell, Estimate, Size, over_seeds
from crate_jax.scaling.report.forecast import Scored
from crate_jax.scaling.report.gap import SizeGap
from crate_jax.scaling.table import Row
from crate_jax.scaling.uncertainty import OUTSIDE

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
INK, SOFT, FAINT = "#1c1f23", "#6b737c", "#eef1f4"
COLUMNS = 3  # of panels, at most


def draw(out: Path, a: Analysis, scored: Sequence[Scored]) -> dict[str, Path]:
  """Draws what there is to draw; paths by the pictures' names."""
  drawn: dict[str, Figure] = {"curves": _curves(a)}
  if any(gap.points for gap in a.gaps):
    drawn["gap"] = _gaps(a)
  if any(gap.law and gap.law.curve for gap in a.gaps):
    drawn["crossing"] = _crossing(a)
  if any(of.observed for of in scored):
    drawn["forecast"] = _forecast(scored)
  drawn["cost"] = _cost(a)
  paths = {}
  for name, figure in drawn.items():
    paths[name] = out / f"{name}.png"
    temporary = out / f".{name}.png"
    figure.savefig(temporary, dpi=130, format="png", metadata={"Software": None})
    temporary.replace(paths[name])
  return paths


def _panels(count: int, height: float = 3.6, one_x: bool = True) -> tuple[Figure, list[Axes]]:
  """As many panels with one y axis, and with one x axis unless that differs."""
  columns = min(count, COLUMNS)
  rows = math.ceil(count / columns)
  width = 4.1 * columns if columns > 1 else 6.8
  figure = Figure(figsize=(width, height * rows + 0.3), layout="constrained")
  grid = figure.subplots(rows, columns, squeeze=False, sharex=one_x, sharey=True)
  panels = list(grid.flat)
  for axes in panels[count:]:
    axes.set_axis_off()
  for axes in panels[:count]:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=SOFT, which="both", labelbottom=True)
    axes.grid(color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
  return figure, panels[:count]


def _log(axes: Axes, label: str, form: Callable[[float], str] = words.count) -> None:
  """A logarithmic x axis with few, plain numbers."""
  axes.set_xscale("log")
  low, high = axes.get_xlim()
  ratio = high / low
  few: tuple[float, ...] = (1, 2, 5) if ratio < 50 else (1, 3) if ratio < 1000 else (1,)
  if ratio < 5:
    few = (1, 1.5, 2, 3, 4, 6, 8)
  decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
  ticks = [m * 10.0**d for d in decades for m in few]
  axes.set_xticks([tick for tick in ticks if low <= tick <= high])
  axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: form(x)))
  axes.xaxis.set_minor_locator(NullLocator())
  axes.set_xlabel(label, fontsize=9, color=SOFT)


def _label(
  axes: Axes, x: float, y: float, text: str, color: str, dx: float = 6, **more: Any
) -> None:
  """Words beside the end of what they name."""
  style = {"va": "center", "fontsize": 8.5, "color": color, **more}
  axes.annotate(text, (x, y), (dx, 0), textcoords="offset points", annotation_clip=False, **style)


def _colors(a: Analysis) -> dict[str, str]:
  """The pair first, then the other variants."""
  pair = [a.choice.crate, a.choice.gpt2]
  rest = sorted({cell.variant for cell in a.cells} - set(pair))
  return {name: COLORS[i % len(COLORS)] for i, name in enumerate([*pair, *rest])}


def _sizes(a: Analysis) -> list[Size]:
  return sorted({cell.size for cell in a.cells})


def _trunks(axes: Axes, cells: Sequence[Cell], color: str) -> list[float]:
  """The longest run of every seed on its way, faintly; returns its losses after an eighth of it."""
  longest: dict[int, Row] = {}
  for cell in cells:
    longest |= {row.seed: row for row in cell.rows}
  seen = []
  for row in longest.values():
    axes.plot(row.curve_tokens, row.curve_loss, color=color, alpha=0.3, linewidth=0.9, zorder=1)
    seen += row.curve_loss[len(row.curve_loss) // 8 :]
  return seen


def _curves(a: Analysis) -> Figure:
  """Loss over tokens, a panel a size: trunks faint, decayed cells as points, the law with band."""
  colors, sizes = _colors(a), _sizes(a)
  figure, panels = _panels(len(sizes))
  heights: list[float] = []
  labels: list[list[tuple[float, str, str, float]]] = []
  for axes, size in zip(panels, sizes, strict=True):
    ends: list[tuple[float, str, str, float]] = []
    for variant, color in colors.items():
      cells = [c for c in a.cells if (c.variant, c.size) == (variant, size)]
      if not cells:
        continue
      heights += [cell.loss for cell in cells] + _trunks(axes, cells, color)
      for cell in cells:
        fill = "white" if cell.repeated else color
        axes.scatter(
          [cell.tokens] * len(cell.rows), [r.loss for r in cell.rows], 13, fill, edgecolors=color,
          linewidths=0.9, zorder=3,
        )  # fmt: skip
      curve = a.curve(variant, size)
      if curve and curve.law:
        line = curve.law.line
        axes.plot(line.tokens, line.value, color=color, linewidth=1.6, zorder=2)
        if line.low and line.high:
          axes.fill_between(line.tokens, line.low, line.high, color=color, alpha=0.2, linewidth=0)
      ends.append((cells[-1].loss, words.name(variant), color, cells[-1].tokens))
    labels.append(ends)
    axes.set_title(f"{size}", fontsize=10, color=INK, loc="left")
    axes.margins(x=0.06)
  for axes in panels:
    _log(axes, "training tokens")
  span = max(heights) - min(heights) or 0.1
  for axes, ends in zip(panels, labels, strict=True):
    far = max(tokens for *_, tokens in ends)
    for height, text, color in _apart([end[:3] for end in ends], 0.05 * span):
      _label(axes, far, height, text, color)
  _legend(
    figure,
    "point: a seed after the decay of the rate (hollow: beyond four epochs, not fitted) · "
    "line, band: fitted law, 90 % interval · faint: longest run on its way",
  )
  panels[0].set_ylim(min(heights) - 0.06 * span, max(heights) + 0.06 * span)
  _ylabel(panels, "loss, nats per token")
  return figure


def _legend(figure: Figure, text: str) -> None:
  """What the marks are, below all panels."""
  wide = figure.get_figwidth() > 8
  figure.supxlabel(text if wide else text.replace(" · ", "\n"), fontsize=8, color=SOFT)


def _ylabel(panels: Sequence[Axes], text: str) -> None:
  columns = min(len(panels), COLUMNS)
  for axes in panels[::columns]:
    axes.set_ylabel(text, fontsize=9, color=SOFT)


def _gaps(a: Analysis) -> Figure:
  """The gap over tokens, a panel a size, up to ten times the longest run."""
  figure, panels = _panels(len(a.gaps))
  for axes, gap in zip(panels, a.gaps, strict=True):
    axes.axhline(0, color=INK, linewidth=0.9)
    _gap(axes, gap)
    axes.set_title(f"{gap.size}", fontsize=10, color=INK, loc="left")
  for axes in panels:
    _log(axes, "training tokens")
  _legend(
    figure,
    "small: a pair of seeds · point, bar: mean, 90 % interval over seeds (hollow: beyond four "
    "epochs, not fitted) · line, band: fitted gap, median and 90 % interval",
  )
  _ylabel(panels, f"{words.name(a.choice.crate)} less {words.name(a.choice.gpt2)}, nats per token")
  return figure


def _gap(axes: Axes, gap: SizeGap) -> None:
  color = COLORS[0]
  for point in gap.points:
    fill = "white" if point.repeated else color
    n = len(point.each)
    spread = point.tokens * np.geomspace(0.94, 1.06, n) if n > 1 else [point.tokens]
    axes.scatter(spread, point.each, 11, "0.6", linewidths=0, zorder=3)
    bars = _bars(point.gap)
    axes.errorbar(
      point.tokens, point.gap.value, bars, fmt="o", color=color, mfc=fill, markersize=5, capsize=3,
      linewidth=1.3, zorder=4,
    )  # fmt: skip
  if not gap.law:
    return
  line, longest = gap.law.line, gap.fitted[-1].tokens
  tokens, value = np.array(line.tokens), np.array(line.value)
  far = tokens >= longest
  near = tokens <= longest * 1.0001
  axes.axvspan(longest, OUTSIDE * longest, color=FAINT, zorder=0)
  axes.plot(tokens[near], value[near], color=color, linewidth=1.6)
  axes.plot(tokens[far], value[far], color=color, linewidth=1.6, linestyle=(0, (4, 2)))
  if line.low and line.high:
    axes.fill_between(tokens, line.low, line.high, color=color, alpha=0.18, linewidth=0)
  axes.text(
    longest, 1.01, "extrapolation", transform=axes.get_xaxis_transform(), va="bottom", fontsize=8,
    color=SOFT,
  )  # fmt: skip


def _bars(e: Estimate) -> list[list[float]] | None:
  if e.low is None or e.high is None:
    return None
  return [[e.value - e.low], [e.high - e.value]]


def _crossing(a: Analysis) -> Figure:
  """Probability that the gap is closed, over tokens as times the longest run."""
  figure, (axes,) = _panels(1)
  ends = []
  for i, gap in enumerate(gap for gap in a.gaps if gap.law and gap.law.curve):
    assert gap.law and gap.law.curve
    curve, color = gap.law.curve, COLORS[i % len(COLORS)]
    times = np.array(curve.tokens) / curve.tokens[0]
    axes.plot(times, curve.value, color=color, linewidth=1.8)
    ends.append((curve.value[-1], f"{gap.size}", color))
  for height, text, color in _apart(ends, 0.055):
    _label(axes, OUTSIDE, height, text, color)
  axes.set_ylim(-0.03, 1.03)
  _log(axes, "training tokens, times the longest run of the size", lambda x: f"{x:g} x")
  axes.set_xticks([1, 2, 5, 10])
  axes.set_xlim(1, OUTSIDE)
  axes.set_ylabel("probability that the gap is closed", fontsize=9, color=SOFT)
  return figure


def _apart(ends: Sequence[tuple[float, str, str]], least: float) -> list[tuple[float, str, str]]:
  """Labels at the ends of lines, pushed up so far that none covers another."""
  placed: list[tuple[float, str, str]] = []
  for height, text, color in sorted(ends):
    if placed:
      height = max(height, placed[-1][0] + least)
    placed.append((height, text, color))
  return placed


def _forecast(scored: Sequence[Scored]) -> Figure:
  """Predicted intervals and what was observed, both as differences from what was predicted."""
  seen = [of for of in scored if of.observed]
  figure, (axes,) = _panels(1, 0.9 + 0.34 * len(seen))
  for y, of in enumerate(reversed(seen)):
    p, color = of.predicted, COLORS[0]
    if p.low is not None and p.high is not None:
      axes.plot([p.low - p.value, p.high - p.value], [y, y], color=color, alpha=0.3, linewidth=9)
    axes.plot([0, 0], [y - 0.25, y + 0.25], color=color, linewidth=2)
    axes.scatter([each - p.value for each in of.each], [y] * len(of.each), 12, "0.55", zorder=3)
    assert of.error is not None
    axes.scatter([of.error], [y], 42, COLORS[1], marker="D", zorder=4)
  axes.set_yticks(
    range(len(seen)), [f"{words.name(of.what)}, {of.size}" for of in reversed(seen)], color=INK
  )
  axes.set_ylim(-0.6, len(seen) - 0.4)
  axes.margins(x=0.1)
  axes.set_xlabel("observed less predicted, nats per token", fontsize=9, color=SOFT)
  axes.set_title(
    "bar: predicted, 90 % interval · diamond: observed mean · small: seeds", fontsize=9, color=SOFT,
    loc="left",
  )  # fmt: skip
  return figure


def _flops(number: float) -> str:
  """3e12."""
  exponent = math.floor(math.log10(number) + 1e-9)
  return f"{number / 10.0**exponent:.3g}e{exponent}"


def _cost(a: Analysis) -> Figure:
  """Loss over FLOPs and over seconds, every variant and size."""
  colors = _colors(a)
  figure, panels = _panels(2, 4.2, one_x=False)
  readings: tuple[tuple[str, Callable[[Row], float], Callable[[float], str]], ...] = (
    ("training FLOPs, exact", lambda row: row.flops, _flops),
    ("training time, seconds", lambda row: row.seconds, lambda x: f"{x:,.4g}"),
  )
  losses = [cell.loss for cell in a.cells]
  least = 0.035 * ((max(losses) - min(losses)) or 1)
  for axes, (label, read, form) in zip(panels, readings, strict=True):
    ends: dict[str, tuple[float, float, str]] = {}
    for variant, color in colors.items():
      for size in _sizes(a):
        cells = [c for c in a.cells if (c.variant, c.size) == (variant, size)]
        if not cells:
          continue
        x = [cell.mean(read) for cell in cells]
        axes.plot(x, [cell.loss for cell in cells], color=color, linewidth=1.2, alpha=0.8)
        for place, cell in zip(x, cells, strict=True):
          e = over_seeds([row.loss for row in cell.rows])
          fill = "white" if cell.repeated else color
          axes.errorbar(place, e.value, _bars(e), fmt="o", color=color, mfc=fill, markersize=3.5,
                        linewidth=0.9)  # fmt: skip
        ends[f"{words.name(variant)} {size}"] = x[-1], cells[-1].loss, color
    _log(axes, label, form)
    beside = _apart([(loss, text, color) for text, (_, loss, color) in ends.items()], least)
    for height, text, color in beside:
      axes.annotate(
        text, ends[text][:2], (1.04, height), textcoords=axes.get_yaxis_transform(),
        fontsize=7, color=color, va="center", annotation_clip=False,
        arrowprops={"arrowstyle": "-", "color": color, "alpha": 0.35, "linewidth": 0.6},
      )  # fmt: skip
  _ylabel(panels, "loss, nats per token")
  return figure
