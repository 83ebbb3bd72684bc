"""What can be said of the neurons of kinds of networks beside each other."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from crate_jax.errors import UserError
from crate_jax.interpret import neurons_report, statistics
from crate_jax.interpret.neurons_report import ALL, DRAWS, Analysis, number, spread
from crate_jax.interpret.record import OWN_TOP, SPEARMAN, TRAINED, Record
from crate_jax.interpret.record import kinds as kinds_of
from crate_jax.interpret.statistics import Matched, Scored
from crate_jax.page import Block, Heading, Paragraph, Table

Kinds = Mapping[str, Mapping[str, Record]]  # names of kinds to the runs of each by their folders
MATCHED = "trained, matched by firing rate"
SAME = ("text_sha256", "tokenizer_sha256", "windows_sha256", "layers")


@dataclasses.dataclass(frozen=True)
class Contrast:
  """Two kinds' mean scores of a layer.

  Attributes:
    a: name of the kind,
    b: and of that which is subtracted.
    layer: its number; None for all layers together.
    what: which scores: `TRAINED`, `SPEARMAN`, `OWN_TOP` or `MATCHED`.
    value: a's mean over defined scores minus b's.
    interval: of it.
    p: of no difference, corrected over the layers.
    shares: of a's and b's neurons that could be matched; None where they were not.
  """

  a: str
  b: str
  layer: int | None
  what: str
  value: float
  interval: tuple[float, float]
  p: float
  shares: tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class Comparison:
  """What was found.

  Attributes:
    analyses: each kind's own tables.
    contrasts: each later kind against the first.
    lead: the answer in words.
  """

  analyses: dict[str, Analysis]
  contrasts: list[Contrast]
  lead: str


def kinds(records: Mapping[str, Record]) -> Kinds:
  """Runs by kind: those whose models are equal and that were trained alike and equally long.

  Raises:
    UserError: they were not measured on the same windows, cannot be compared layer by layer, are
      fewer than two kinds, or two of a kind are of the same seed.
  """
  first, *others = records
  for name in others:
    for key in SAME:
      if records[name].facts[key] != records[first].facts[key]:
        raise UserError(
          f"{first} and {name} differ in {key.removesuffix('_sha256')}: networks are compared on "
          "the same tokens, layer by layer; name one text for all with --data."
        )
  found: dict[str, dict[str, Record]] = {}
  every = zip(records.items(), kinds_of(list(records.values())), strict=True)
  for (workdir, record), kind in every:
    end = "" if record.ended else f" of {record.facts['train_steps']:,}"
    of_kind = found.setdefault(f"{kind}, step {record.facts['step']:,}{end}", {})
    for other, r in of_kind.items():
      if r.facts["train_seed"] == record.facts["train_seed"]:
        raise UserError(
          f"{other} and {workdir} are both {kind} of seed {r.facts['train_seed']}: runs of a kind "
          "are taken for its seeds, so name one of them."
        )
    of_kind[workdir] = record
  if len(found) < 2:
    raise UserError(
      f"--workdir={','.join(records)} names one kind of network, and two are compared: "
      "`interpret.neurons` describes one."
    )
  return _short(found)


def _short(found: dict[str, dict[str, Record]]) -> Kinds:
  """Kinds by their architecture alone, where they do not differ in anything else."""
  short, rest = zip(*(name.split(maxsplit=1) for name in found), strict=True)
  if len(set(short)) < len(short) or len(set(rest)) > 1:
    return found
  return dict(zip(short, found.values(), strict=True))


def compare(kinds: Kinds, seed: int, draws: int = DRAWS) -> Comparison:
  """Summarises each kind, and contrasts the later ones with the first.

  Args:
    kinds: runs by kind.
    seed: of the draws.
    draws: how many.
  """
  records = {name: list(runs.values()) for name, runs in kinds.items()}
  analyses = {name: neurons_report.analyse(runs, seed, draws) for name, runs in records.items()}
  first, *others = records
  contrasts = []
  for other in others:
    for what in (TRAINED, SPEARMAN, OWN_TOP, MATCHED):
      contrasts += _contrasts(first, other, records[first], records[other], what, seed, draws)
  return Comparison(analyses, contrasts, _lead(kinds, contrasts))


def _contrasts(
  a: str,
  b: str,
  runs_a: Sequence[Record],
  runs_b: Sequence[Record],
  what: str,
  seed: int,
  draws: int,
) -> list[Contrast]:
  """The later kind minus the first, layer by layer and for all layers."""
  works = len(runs_a[0].tokens_W)
  # The same draws of works for both: a work that is easy to explain is easy for both.
  counts_DW = statistics.draw_works(works, draws, np.random.default_rng([seed, works]))
  found = []
  for layer in (*range(runs_a[0].layers), None):
    scored = [_scored(runs, layer, what) for runs in (runs_a, runs_b)]
    shares = None
    if what == MATCHED:
      scored, shares = _matched(runs_a, runs_b, layer)
    place = layer if layer is not None else 1 << 20
    sides = [
      statistics.summarise(side, counts_DW, np.random.default_rng([seed, place, i]))
      for i, side in enumerate(scored)
    ]
    off_D = sides[1][1][:, 0] - sides[0][1][:, 0]
    value = sides[1][0].mean - sides[0][0].mean
    interval, p = statistics.interval(off_D), statistics.p_value(off_D)
    found.append(Contrast(b, a, layer, what, value, interval, p, shares))
  *layers, whole = found
  corrected = neurons_report.corrected(layers)
  return [
    *(dataclasses.replace(c, p=p) for c, p in zip(layers, corrected, strict=True)),
    whole,
  ]


def _scored(runs: Sequence[Record], layer: int | None, what: str) -> list[Scored]:
  state = TRAINED if what == MATCHED else what
  return [run.scored(state, layer) for run in runs]


def _matched(
  runs_a: Sequence[Record], runs_b: Sequence[Record], layer: int | None
) -> tuple[list[list[Scored]], tuple[float, float]]:
  """Both kinds' neurons, weighted so that they fire equally often."""
  sides = (_scored(runs_a, layer, TRAINED), _scored(runs_b, layer, TRAINED))
  rates = [
    [run.states[TRAINED].columns["firing_rate"][run.of_layer(layer)] for run in runs]
    for runs in (runs_a, runs_b)
  ]
  found: Matched = statistics.match(*(np.concatenate(of_kind) for of_kind in rates))
  weighted = []
  for side, of_kind, weight_M in zip(
    sides, rates, (found.weight_a_M, found.weight_b_M), strict=True
  ):
    parts = np.split(weight_M, np.cumsum([len(rate) for rate in of_kind])[:-1])
    weighted.append(
      [dataclasses.replace(one, weight_M=part) for one, part in zip(side, parts, strict=True)]
    )
  return weighted, (found.share_a, found.share_b)


def _lead(kinds: Kinds, contrasts: Sequence[Contrast]) -> str:
  """The answer in words."""
  sentences = []
  for c in contrasts:
    if c.layer is not None or c.what in (SPEARMAN, OWN_TOP):
      continue
    low, high = c.interval
    if math.isnan(low):
      verdict = f"cannot be compared with those of {c.b}"
    elif low > 0:
      verdict = f"are explained **better** than those of {c.b}"
    elif high < 0:
      verdict = f"are explained **worse** than those of {c.b}"
    else:
      verdict = f"cannot be told from those of {c.b}"
    matched = ", with neurons matched by how often they fire," if c.what == MATCHED else ""
    sentences.append(
      f"By rules, the neurons of {c.a}{matched} {verdict}: {number(c.value)} {spread(c.interval)}."
    )
  seeds = {name: len(runs) for name, runs in kinds.items()}
  if min(seeds.values()) == 1:
    sentences.append("This is said of these checkpoints, not of other seeds.")
  return " ".join(sentences)


def contrasts_table(comparison: Comparison) -> Table:
  """Differences of the kinds."""
  return Table(
    ("what", "difference", "layer", "value", "95 %", "p", "matched"),
    [
      (
        c.what,
        f"{c.a} - {c.b}",
        ALL if c.layer is None else str(c.layer),
        number(c.value),
        spread(c.interval),
        neurons_report.NONE if math.isnan(c.p) else f"{c.p:.3f}",
        neurons_report.NONE if c.shares is None else f"{c.shares[1]:.0%}, {c.shares[0]:.0%}",
      )
      for c in comparison.contrasts
    ],
  )


def blocks(kinds: Kinds, comparison: Comparison, command: str) -> list[Block]:
  """The report."""
  runs = "; ".join(f"{name}: {', '.join(of_kind)}" for name, of_kind in kinds.items())
  first = next(iter(next(iter(kinds.values())).values())).facts
  several = max(len(of_kind) for of_kind in kinds.values()) > 1
  found: list[Block] = [
    Paragraph(comparison.lead, lead=True),
    Paragraph(
      f"Runs: {runs}. Text: {first['text']}; rules are made from {first['windows']['explain']:,} "
      f"windows of {first['window']} tokens and scored on {first['windows']['score']:,} of other "
      "works, the same for all."
    ),
    Heading("Differences"),
    contrasts_table(comparison),
    Paragraph(
      "Works are drawn alike for both sides, neurons by themselves on each (of several seeds, what "
      "their means spread). Matched: in each quarter of a decade of firing rates both sides' "
      "neurons count as much as the smaller share of the two, the others nothing; the last column "
      "says which share of each side's neurons counts at all."
    ),
  ]
  for name, of_kind in kinds.items():
    found += [
      Heading(f"Scores of {name}"),
      neurons_report.scores_table(comparison.analyses[name]),
      neurons_report.differences_table(comparison.analyses[name]),
      neurons_report.beside_table(list(of_kind.values())),
    ]
  return [
    *found,
    Heading("What the columns are"),
    neurons_report.notes(several),
    neurons_report.made_by(command),
  ]
