"""The report of `scaling.plateau`, section by section, as blocks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crate_jax.page import Block, Code, Heading, Paragraph, Picture, Table
from crate_jax.scaling import fit
from crate_jax.scaling.report import checklist as checklist_lib
from crate_jax.scaling.report import tables as tables_lib
from crate_jax.scaling.report import words
from crate_jax.scaling.report.analysis import Analysis
from crate_jax.scaling.report.cells import LEVEL, MOST_EPOCHS
from crate_jax.scaling.report.forecast import Scored
from crate_jax.scaling.report.gap import DIFFERENCE, DIRECT, SizeGap
from crate_jax.scaling.uncertainty import DEGREES, OUTSIDE

TITLE = "Has {crate} plateaued, or would more training let it catch up with {gpt2}?"
FORMS = {DIRECT: DIRECT, DIFFERENCE: "the difference of two laws L(D)"}


def title(a: Analysis) -> str:
  """The question."""
  return TITLE.format(crate=words.name(a.choice.crate), gpt2=words.name(a.choice.gpt2))


def blocks(
  a: Analysis,
  forecast: Mapping[str, Any] | None,
  scored: Sequence[Scored],
  pictures: Mapping[str, Path],
  recipe: Mapping[str, Any],
  facts: Mapping[str, str],
) -> list[Block]:
  """The whole report.

  Args:
    a: what was found.
    forecast: as it was written down; None without one.
    scored: what came of it.
    pictures: files by name.
    recipe: the sweep's config; empty if it is not known.
    facts: `report.environment()`, and the command.
  """
  return [
    *_answer(a),
    *_losses(a, pictures),
    *_fits(a),
    *_gap(a, pictures),
    *_forecast(forecast, scored, pictures),
    *_checks(a),
    Heading("What papers on scaling laws leave out"),
    checklist_lib.table(a, recipe),
    *_provenance(a, facts),
  ]


def answer(a: Analysis) -> str:
  """The first paragraph: what the runs say of the question, how surely, and what they do not."""
  crate = [c for c in a.curves if c.variant == a.choice.crate]
  sizes = [gap.size for gap in a.gaps]
  sentences = [
    words.headline(a.verdicts, sizes, a.choice.crate, a.choice.gpt2),
    words.plateau([(c.size, c.end) for c in crate], a.choice.crate),
  ]
  if main := _main(a):
    sentences.append(_at(a, main))
  return " ".join([*sentences, _studied(a), _limits(a)])


def _answer(a: Analysis) -> list[Block]:
  found: list[Block] = [Paragraph(answer(a), lead=True)]
  if a.gaps:
    found.append(tables_lib.answers(a))
    found.append(Paragraph(tables_lib.ANSWERS))
  return found


def _main(a: Analysis) -> SizeGap | None:
  """The size that says most: by lengths, then seeds, then FLOPs."""

  def weight(gap: SizeGap) -> tuple[int, int, float]:
    flops = max(c.mean(lambda r: r.flops) for c in a.cells if c.size == gap.size)
    return len(gap.fitted), len(gap.fitted[-1].seeds), flops

  return max((gap for gap in a.gaps if gap.fitted), key=weight, default=None)


def _at(a: Analysis, gap: SizeGap) -> str:
  """The numbers of one size in a sentence or two."""
  one, other = words.name(a.choice.crate), words.name(a.choice.gpt2)
  last, n = gap.fitted[-1], len(gap.fitted[-1].seeds)
  said = (
    f"At {gap.size}, after {words.count(last.tokens)} tokens, {one}'s loss less {other}'s is "
    f"{words.between(last.gap)} nats per token over {n} seed{'s' * (n > 1)}"
  )
  if gap.slope:
    lower = last.gap.value < 0
    trend = {
      -1: "it falls with length" if lower else "it narrows with length",
      0: "whether it changes with length is not sure",
      1: "it rises with length" if lower else "it widens with length",
    }
    said += f"; {trend[gap.slope.sign]}: {words.between(gap.slope)} per doubling of the tokens"
  said += "."
  if gap.law and not gap.missing:
    said += (
      f" At ten times as many tokens the fits say {words.between(gap.law.ten)} (the median of "
      "their draws), and that the gap is closed before then with probability "
      f"{words.probability(gap.law.before[10])}."
    )
  elif gap.missing:
    said += f" Beyond that nothing can be said ({gap.missing})."
  floors = [a.curve(v, gap.size) for v in (a.choice.crate, a.choice.gpt2)]
  if all(curve and curve.law for curve in floors):
    both = [
      f"{words.between(c.law.E, 2)} for {words.name(c.variant)}" for c in floors if c and c.law
    ]
    said += f" The irreducible losses, fitted free of each other, are {' and '.join(both)}."
  return said


def _studied(a: Analysis) -> str:
  rows = [row for cell in a.cells for row in cell.rows]
  texts = sorted({row.text[:12] for row in rows})
  tokens = [cell.tokens for cell in a.cells]
  seeds = sorted({len(cell.rows) for cell in a.cells})
  said = (
    f"All intervals are of {words.percent(LEVEL)}. Trained: {len(rows)} cells, "
    f"{words.listed(sorted({cell.size for cell in a.cells}))} (layers x width), "
    f"{words.count(min(tokens))} to {words.count(max(tokens))} tokens, "
    f"{words.listed(seeds)} seed{'s' * (seeds != [1])} a cell, on the text with sha256 "
    f"{words.listed(texts)}."
  )
  return said + (" **These are different texts.**" if len(texts) > 1 else "")


def _limits(a: Analysis) -> str:
  longest = max((curve.tokens[-1] for curve in a.curves), default=0)
  return (
    f"Not said: anything about other sizes, other text, or more than {OUTSIDE:.0f} times the "
    f"longest run ({words.count(OUTSIDE * longest)} tokens); and a law that fits up to the longest "
    "run need not hold beyond it."
  )


def _losses(a: Analysis, pictures: Mapping[str, Path]) -> list[Block]:
  return [
    Heading("Losses"),
    Picture(
      pictures["curves"],
      "Loss over training tokens. Points: finished cells, each seed's, after the decay of the "
      "rate; hollow: beyond the epochs that are fitted. Line and band: the fitted law and its 90 % "
      "interval. Faint: the longest run of each seed on its way, on the beginning of the reserved "
      "text, so not quite comparable with the points.",
    ),
    tables_lib.losses(a),
    Paragraph(
      "± is half of Student's interval over seeds. FLOPs are of training, exact. Seconds are of "
      "the whole path, its share of the trunk among them. **Runs beyond four epochs** "
      f"(more than {MOST_EPOCHS:g}, marked *) **are plotted as repeated and never fitted.**"
    ),
    Picture(
      pictures["cost"], "Loss over what training cost: exact FLOPs, and seconds as measured."
    ),
  ]


def _fits(a: Analysis) -> list[Block]:
  found: list[Block] = [
    Heading("Fits"),
    Paragraph(
      f"L(D) = E + B D^-beta, D in tokens, nats per token, fitted to the means over seeds of at "
      f"least {fit.LENGTHS} lengths. Intervals: parametric bootstrap with the noise between seeds, "
      f"pooled over all variants and sizes, where that has {DEGREES} degrees of freedom; where the "
      "seeds of a variant and size spread more than the others', with its own (checklist). End: "
      "change of the loss per doubling of the tokens between the two longest lengths, over seeds."
    ),
    tables_lib.laws(a),
  ]
  if a.shared:
    found += [
      Paragraph(
        "**Sensitivity**: the same with one irreducible loss for both, as if the same text left "
        "both as much. The gap then goes to zero in the end by assumption, so this says nothing "
        "about whether it does."
      ),
      tables_lib.shared(a),
    ]
  found.append(
    Paragraph(
      "L(N, D) = E + A N^-alpha + B D^-beta, N the parameters as counted above, "
      "whether they grow by width or by depth:"
    )
  )
  found.append(tables_lib.sizes(a))
  return found


def _gap(a: Analysis, pictures: Mapping[str, Path]) -> list[Block]:
  one, other = words.name(a.choice.crate), words.name(a.choice.gpt2)
  found: list[Block] = [Heading(f"The gap: {one}'s loss less {other}'s")]
  if not a.gaps:
    there = {cell.variant for cell in a.cells}
    lacking = [name for name in (a.choice.crate, a.choice.gpt2) if name not in there]
    why = (
      f"the table has no {words.listed(lacking)}"
      if lacking
      else "no size, length and seed is in both"
    )
    return [*found, Paragraph(f"There is none: {why}.")]
  if "gap" in pictures:
    found.append(
      Picture(
        pictures["gap"],
        "The gap over training tokens. Small points: pairs of the same seed; bars: 90 % interval "
        f"over seeds; {_line(a)}; shaded: extrapolation, up to ten times the longest run.",
      )
    )
  found += [tables_lib.gaps(a), tables_lib.extrapolations(a)]
  found.append(Paragraph(tables_lib.EXTRAPOLATIONS))
  if "crossing" in pictures:
    found.append(
      Picture(
        pictures["crossing"],
        "Probability that the gap is closed, over tokens as times the longest run. Beyond 10 x: "
        "outside the data.",
      )
    )
  found += [Paragraph(tables_lib.AXES), tables_lib.axes(a)]
  return found


def _line(a: Analysis) -> str:
  """What the lines of the picture are, and of which sizes if they differ."""
  said: dict[str, list[object]] = {}
  for gap in a.gaps:
    if gap.law and gap.law.draws:
      forms = words.listed(FORMS[form] for form in gap.law.used)
      said.setdefault(f"median and 90 % interval of draws of {forms}", []).append(gap.size)
    elif gap.law:
      form = FORMS[gap.law.used[0]] if gap.law.used else f"{FORMS[DIRECT]}, which does not fit"
      said.setdefault(f"{form}, without interval", []).append(gap.size)
  if len(said) == 1:
    return f"line and band: {next(iter(said))}"
  lines = [f"at {words.listed(sizes)} {what}" for what, sizes in said.items()]
  return f"line and band: {'; '.join(lines) or 'none'}"


def _forecast(
  forecast: Mapping[str, Any] | None, scored: Sequence[Scored], pictures: Mapping[str, Path]
) -> list[Block]:
  found: list[Block] = [Heading("The forecast")]
  if forecast is None:
    text = (
      "None was registered: `--forecast` writes one from the shorter lengths, to be put beside the "
      "table as forecast.json before the longer runs."
    )
    return [*found, Paragraph(text)]
  judged = [of.inside for of in scored if of.inside is not None]
  state = (
    f"{sum(judged)} of {len(judged)} observed means lie in their interval."
    if judged
    else "No run of that length is there yet, or the forecast has no intervals."
  )
  found.append(
    Paragraph(
      f"Registered by commit {forecast.get('commit', 'unknown')[:12]} from "
      f"{len(forecast['cells'])} shorter cells, for {words.count(forecast['tokens'])} tokens. "
      f"**{state}** The intervals are of the mean over as many new seeds as the shorter lengths "
      "have."
    )
  )
  if "forecast" in pictures:
    found.append(Picture(pictures["forecast"], "What was forecast and what was observed."))
  return [*found, tables_lib.forecast(scored)]


def _checks(a: Analysis) -> list[Block]:
  found: list[Block] = [Heading("Checks")]
  if a.checks:
    found += [
      Paragraph("The cosine schedule beside the branch of a trunk, all else equal:"),
      tables_lib.checks(a),
    ]
  else:
    found.append(Paragraph("No run with the cosine schedule stands beside one of the grid."))
  if a.alone:
    found.append(Paragraph(f"Nothing stands beside {words.listed(a.alone)}."))
  if a.trials:
    found += [
      Paragraph(
        "Learning rates that were tried, by the loss on the text for choosing rates. Up and down: "
        "what one step to either side costs. Several lengths of a size choose one rate together, "
        "so the rate used may be next to the best of one length."
      ),
      tables_lib.trials(a),
      tables_lib.tried(a),
    ]
  else:
    found.append(Paragraph("The table has no trials of learning rates."))
  return found


def _provenance(a: Analysis, facts: Mapping[str, str]) -> list[Block]:
  def of(name: str) -> str:
    return ", ".join(sorted({getattr(row, name) for row in a.rows}))

  rows = [
    ("cells", of("commit"), of("device"), of("jax")),
    ("this report", facts["commit"], facts["device"], facts["jax"]),
  ]
  return [
    Heading("Where the numbers come from"),
    Table(("", "commit", "device", "jax"), rows, text=True),
    Code(facts["command"]),
  ]
