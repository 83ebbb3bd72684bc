"""The tables of a run's neurons: by layer and state, with intervals."""

import dataclasses
import json
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Protocol

import numpy as np

from crate_jax import page as page_lib
from crate_jax.data import atomic
from crate_jax.interpret import sheet, statistics
from crate_jax.interpret.measure import OTHERS, SAMPLE
from crate_jax.interpret.record import INIT, NULL, OWN_TOP, PAGES, SPEARMAN, STATES, TRAINED, Record
from crate_jax.interpret.statistics import Summary
from crate_jax.page import Block, Code, Heading, Paragraph, Table
from crate_jax.scaling.paired import holm
from crate_jax.training import report

DRAWS = 1000
NONE = "-"
ALL = "all"
# Medians over a layer's neurons that stand beside the scores; what they are is in measure.COLUMNS.
BESIDE = (
  "purity",
  "effective_tokens",
  "gain",
  "information",
  "explained",
  "spearman",
  "kurtosis",
  "firing_rate",
  "concept_area",
  "agreement",
)
ONE = "in each of which the neurons and the works are drawn again, each by itself"
SEVERAL = """\
in each of which the works are drawn again, and what the seeds' means spread is added by Student's t
of as many degrees of freedom as there are seeds less one"""
NOTES = """\
A score is the Pearson correlation, from -1 to 1, of a neuron's activation with what its rule
expects, over all tokens of the scoring works; the rule was made from other works, and whether it
looks at one token or at two was chosen on a third set. **Interval**: the middle 95 % of {draws}
draws, {drawn}. Coverage:
the share of the neurons whose score is defined; it is not where the activation or the rule is
constant. "With zeros" counts those as 0. SD is over neurons, SE is the standard deviation of the
mean over draws, of several seeds with that of the seeds' means. **Random init** is the same network
before training, from its own seed; "own top 1 %" sets all activations of a neuron to zero but its
largest hundredth; "others' rules" scores every neuron with the rules of {others} others
of its layer, and takes the mean: they can explain nothing of it but what the layer's neurons share.
"Trained, Spearman": the correlation of ranks in place of values, on {sample} windows of the scoring
works that all neurons share; works that are drawn again keep their ranks. p: two-sided, of no
difference, corrected over the layers by Holm's method. Purity and what follows it are medians.
"""


@dataclasses.dataclass(frozen=True)
class Line:
  """One line of the table: a layer in a state.

  Attributes:
    layer: its number; None for all layers together.
    name: of the state.
    summary: of its scores.
  """

  layer: int | None
  name: str
  summary: Summary


@dataclasses.dataclass(frozen=True)
class Difference:
  """What training made of a layer's mean score.

  Attributes:
    layer: its number; None for all layers together.
    value: mean of the defined scores, trained minus random init.
    interval: of it.
    p: of no difference, corrected over the layers.
  """

  layer: int | None
  value: float
  interval: tuple[float, float]
  p: float


@dataclasses.dataclass(frozen=True)
class Analysis:
  """What the tables of one network say, or of several that differ in their seed.

  Attributes:
    lines: all layers' in every state, by others' rules, and of ranks.
    differences: what training made of them.
  """

  lines: list[Line]
  differences: list[Difference]

  def line(self, layer: int | None, name: str) -> Summary:
    """A line's numbers."""
    return next(x.summary for x in self.lines if (x.layer, x.name) == (layer, name))


def analyse(records: Sequence[Record], seed: int, draws: int = DRAWS) -> Analysis:
  """Summarises the scores of a run, or of runs that differ in the seed they were trained from.

  Args:
    records: measured on the same windows.
    seed: of the draws.
    draws: how many.
  """
  first = records[0]
  counts_DW = statistics.draw_works(
    len(first.tokens_W), draws, np.random.default_rng([seed, len(first.tokens_W)])
  )
  lines: list[Line] = []
  drawn: dict[tuple[int | None, str], np.ndarray] = {}
  for layer in (*range(first.layers), None):
    for name in (*STATES, NULL, SPEARMAN):
      scored = [record.scored(name, layer) for record in records]
      # A layer's neurons in two states are not the same draw: they are the same only by number.
      rng = np.random.default_rng([seed, layer if layer is not None else 1 << 20, len(drawn)])
      summary, drawn[layer, name] = statistics.summarise(scored, counts_DW, rng)
      lines.append(Line(layer, name, summary))
  differences = []
  for layer in (*range(first.layers), None):
    off_D = drawn[layer, TRAINED][:, 0] - drawn[layer, INIT][:, 0]
    value = _mean(lines, layer, TRAINED) - _mean(lines, layer, INIT)
    difference = Difference(layer, value, statistics.interval(off_D), statistics.p_value(off_D))
    differences.append(difference)
  *layers, whole = differences
  layers = [dataclasses.replace(d, p=p) for d, p in zip(layers, corrected(layers), strict=True)]
  return Analysis(lines, [*layers, whole])


class _Tested(Protocol):
  @property
  def p(self) -> float: ...


def corrected(layers: Sequence[_Tested]) -> list[float]:
  """Holm's correction over layers; what is undefined counts as no difference."""
  return holm([1.0 if math.isnan(layer.p) else layer.p for layer in layers])


def _mean(lines: Sequence[Line], layer: int | None, name: str) -> float:
  return next(x.summary.mean for x in lines if (x.layer, x.name) == (layer, name))


def scores_table(analysis: Analysis) -> Table:
  """Scores by layer and state."""
  head = ("layer", "network", "n", "coverage", "mean", "95 %", "with zeros", "median", "SD", "SE")
  return Table(
    head,
    [
      (
        ALL if line.layer is None else str(line.layer),
        line.name,
        f"{line.summary.n:,}",
        f"{line.summary.coverage:.1%}",
        number(line.summary.mean),
        spread(line.summary.interval),
        number(line.summary.mean_zero),
        number(line.summary.median),
        number(line.summary.std),
        number(line.summary.error, 4),
      )
      for line in analysis.lines
    ],
  )


def differences_table(analysis: Analysis) -> Table:
  """What training made of the scores."""
  return Table(
    ("layer", "trained - random init", "95 %", "p"),
    [
      (
        ALL if d.layer is None else str(d.layer),
        number(d.value),
        spread(d.interval),
        f"{d.p:.3f}" if d.p >= 0.001 else "< 0.001",
      )
      for d in analysis.differences
    ],
  )


def beside_table(records: Sequence[Record]) -> Table:
  """Medians of what stands beside the scores."""
  rows = []
  for layer in range(records[0].layers):
    for name in STATES:
      cells = []
      for column in BESIDE:
        values = np.concatenate(
          [r.states[name].columns[column][r.of_layer(layer)] for r in records]
        )
        values = values[~np.isnan(values)]
        cells.append(number(float(np.median(values))) if len(values) else NONE)
      rows.append((str(layer), name, *cells))
  return Table(("layer", "network", *(c.replace("_", " ") for c in BESIDE)), rows)


def lead(analysis: Analysis, what: str) -> str:
  """The answer in a sentence or two."""
  whole = analysis.differences[-1]
  trained, init = analysis.line(None, TRAINED), analysis.line(None, INIT)
  low, high = whole.interval
  if math.isnan(low):
    verdict = "cannot be compared with those of its random init"
  elif low > 0:
    verdict = "are explained better than those of its random init"
  elif high < 0:
    verdict = "are explained **worse** than those of its random init"
  else:
    verdict = "cannot be told from those of its random init"
  return (
    f"By rules that look at one or two tokens, the neurons of {what} {verdict}: mean score "
    f"{number(trained.mean)} {spread(trained.interval)} against {number(init.mean)} "
    f"{spread(init.interval)}, a difference of {number(whole.value)} {spread(whole.interval)}. "
    f"With only each neuron's own top 1 % of activations it is "
    f"{number(analysis.line(None, OWN_TOP).mean)} {spread(analysis.line(None, OWN_TOP).interval)}."
  )


def blocks(record: Record, analysis: Analysis, command: str) -> list[Block]:
  """The report of one run."""
  f = record.facts
  what = f"{f['architecture']} ({f['layers']} layers of width {f['width']}, step {f['step']:,})"
  windows, works = f["windows"], f["works"]
  return [
    Paragraph(lead(analysis, what), lead=True),
    Paragraph(
      f"Text: {f['text']}. Rules are made from {windows['explain']:,} windows of {f['window']} "
      f"tokens out of {works['explain']:,} works, chosen on {windows['calibrate']:,} of "
      f"{works['calibrate']:,} and scored on {windows['score']:,} of {works['score']:,}; no work "
      f"is in two sets, and {f['works_too_short']:,} works shorter than a window are left out. "
      f"One checkpoint of one seed: intervals say nothing of other seeds."
    ),
    Paragraph(
      "Loss on the scoring windows, nats per token: "
      + ", ".join(f"{name} {record.states[name].loss:.3f}" for name in STATES if name != OWN_TOP)
      + "."
    ),
    Heading("Scores"),
    scores_table(analysis),
    Heading("What training made of them"),
    differences_table(analysis),
    Heading("Beside the scores"),
    Paragraph("Medians over the neurons for which a number is defined."),
    beside_table([record]),
    Heading("What the columns are"),
    notes(),
    made_by(command),
  ]


def notes(seeds: bool = False) -> Paragraph:
  """What the tables' columns and lines are, of one network or of several seeds'."""
  drawn = ONE + (f"; of several seeds, {SEVERAL}" if seeds else "")
  text = NOTES.format(draws=DRAWS, others=OTHERS, sample=SAMPLE, drawn=drawn)
  return Paragraph(text.replace("\n", " ").strip())


def made_by(command: str) -> Code:
  """The command, and the versions and the commit that it ran with."""
  facts = [f"# {name}: {value}" for name, value in report.environment().items()]
  return Code("\n".join([command, *facts]))


def number(value: float, digits: int = 3) -> str:
  """A number as the tables write it."""
  return NONE if math.isnan(value) else f"{value:.{digits}f}"


def spread(interval: tuple[float, float]) -> str:
  """An interval as the tables write it."""
  low, high = interval
  return NONE if math.isnan(low) else f"[{low:.3f}, {high:.3f}]"


def write(
  out: Path, title: str, blocks: Sequence[Block], models: Sequence[tuple[str, Path]], seed: int
) -> None:
  """Writes OUT/index.html, the tables and the neurons' pages, OUT/neurons.md, and the sheet.

  Args:
    out: the folder.
    title: of both.
    blocks: the report.
    models: names, and the folders with their pages.
    seed: of the sheet.
  """
  files = [(name, folder / PAGES) for name, folder in models]
  sheet.write(out, files, seed)
  shown = [{"name": name, **json.loads(path.read_text("utf-8"))} for name, path in files]
  asset = resources.files("crate_jax.interpret") / "page"
  # "</script>" inside a string would end the element; in JSON "<\\/" is the same string.
  data = json.dumps(shown, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
  end = (
    '<section class="neurons" aria-label="Neurons">\n<h2>Neurons</h2>\n<p>Drawn at random, and '
    "in random order. Arrow keys go on and back, / searches by number (layer.neuron) or text, Esc "
    "ends a search. A token is the bluer the larger the activation. Excerpts are from the scoring "
    'works.</p>\n<div class="bar"><label>Search <input id="search" type="search"></label>'
    '<button data-go="-1">Previous</button><button data-go="1">Next</button>'
    '<span id="status" role="status"></span></div>\n<div id="models" class="models"></div>\n'
    f'</section>\n<script type="application/json" id="neurons-data">{data}</script>\n'
    f"<script>\n{(asset / 'neurons.js').read_text('utf-8')}</script>\n"
  )
  style = (asset / "neurons.css").read_text("utf-8")
  atomic.write(out / "index.html", page_lib.page(title, blocks, style, end))
  atomic.write(out / "neurons.md", page_lib.markdown(title, blocks))
