"""What `scaling.ablations` found, in words, as a table, as numbers and as a picture."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crate_jax.scaling.effects import BASE, FAMILIES, GOAL, SURE, Effect, Study
from crate_jax.scaling.paired import LEVEL, UNLIKE, Estimate

NONE = "-"  # what a table does not have
COLUMNS = (
  "variant",
  "loss",
  "difference",
  "p",
  "p (Holm)",
  "p (Holm, pooled)",
  "over works",
  "at equal FLOPs",
  "of the gap",
  "active neurons by layer",
  "FLOPs per token",
  "parameters",
  "rate",
)
NOTES = f"""\
Losses are nats per token of the evaluation text, means over seeds. Brackets: {LEVEL:.0%} intervals.

- **difference**: to {BASE}, below zero is better, each seed against {BASE} of the same seed (same
  order of the data); Student's interval and p over seeds. **Holm**: p corrected for all variants of
  the table. **pooled**: what variant and seed leave of a loss is taken to have one standard
  deviation for all variants that have every seed of {BASE}. A few seeds of one variant cannot tell
  it well; all together can, if it is one. A variant whose seeds spread more than the others' (F
  test, p below {UNLIKE}, corrected) is not among them, and has none.
- **over works**: the same difference, resampled over the works of the text; the seeds as they are.
- **at equal FLOPs**: difference to {BASE} trained with as many FLOPs as the variant, from its
  losses at its lengths, between them linear in the logarithms. * continued beyond these lengths.
- **of the gap**: share of the way from {BASE} to {GOAL}, Fieller's interval over seeds.
- **active neurons**: share that is not zero, mean over tokens. FLOPs are those of training, exact;
  positions are not among the parameters.
- **rate**: the learning rate, the best of those tried for the variant. * the lowest or highest of
  these, so that a better one may lie beyond.
"""


def prose(study: Study) -> list[str]:
  """Paragraphs: what helps and hurts, the gap to GPT-2, other sparsity, what is missing."""
  compared = [effect for effect in study.effects if effect.difference]
  where = (
    f"At {study.layers} layer{'s' * (study.layers > 1)} of width {study.width} and "
    f"{study.tokens:,} tokens ({study.steps:,} steps), {len(study.seeds)} "
    f"seed{'s' * (len(study.seeds) > 1)} ({', '.join(map(str, study.seeds))})"
  )
  parts = [_what_helps(where, compared) if compared else f"{where}: nothing to compare yet."]
  parts += [_gap(study), *_sparsity(study)]
  if outermost := [effect.variant for effect in study.effects if effect.outermost]:
    parts.append(
      f"The rate is the lowest or highest of those tried for {', '.join(outermost)}: these may be "
      f"better than they stand here."
    )
  if wild := _wild(study):
    parts.append(
      f"The losses of {', '.join(wild)} spread more over the seeds than those of the others, as "
      "where some seeds do not bear a rate: judged by their own spread alone."
    )
  if study.missing:
    parts.append(f"**Not complete:** {'; '.join(study.missing)}.")
  return [part for part in parts if part]


def _what_helps(where: str, compared: Sequence[Effect]) -> str:
  """The first paragraph."""
  tested = [effect for effect in compared if effect.holm is not None]
  if not tested:
    listed = _named(compared)
    return f"{where}: no error is known, and nothing can be said to help or hurt. Seen: {listed}."
  sure = [effect for effect in tested if _sure(effect.holm)]
  rest = [effect for effect in compared if effect not in sure]
  shared = [effect for effect in rest if _sure(effect.pooled_holm)]
  unclear = [effect for effect in rest if effect not in shared]
  text = (
    f"{where}: beyond the error ({1 - SURE:.0%}, corrected for {len(tested)} variants), "
    f"{_sides(sure)}. "
  )
  if shared:
    text += (
      "If the spread between seeds is taken to be the same for all variants, this adds: "
      f"{_sides(shared)}. "
    )
  return (text + (f"Not told from {BASE}: {_named(unclear)}." if unclear else "")).rstrip()


def _wild(study: Study) -> list[str]:
  """Variants that have every seed of CRATE and yet no part in the deviation that others share."""
  base, pooled = study.of(BASE), any(effect.pooled for effect in study.effects)
  whole = [e for e in study.effects if base and set(base.losses) <= set(e.losses)]
  return [e.variant for e in whole if pooled and e.difference and not e.pooled]


def _sure(p: float | None) -> bool:
  return p is not None and p < SURE


def _sides(effects: Sequence[Effect]) -> str:
  """Which lower the loss and which raise it."""
  better = [effect for effect in effects if _value(effect) < 0]
  worse = [effect for effect in reversed(effects) if _value(effect) > 0]
  return f"what helps is {_named(better) or 'nothing'}; what hurts is {_named(worse) or 'nothing'}"


def _named(effects: Sequence[Effect]) -> str:
  return ", ".join(f"{effect.variant} ({_value(effect):+.4f})" for effect in effects)


def _value(effect: Effect) -> float:
  return effect.difference.value if effect.difference else 0.0


def _gap(study: Study) -> str:
  """What closes the gap to GPT-2."""
  goal = study.of(GOAL)
  if not goal or not goal.difference:
    return ""
  gap = _interval(_opposite(goal.difference), ".4f")
  text = f"{BASE} is {gap} nats above {GOAL}. "
  changed = [e for e in study.effects if e.white_box and e.closed]
  if not any(effect.closed.high is not None for effect in changed if effect.closed):
    return text + "What closes it cannot be said: the gap is not told from zero, or has one seed."
  closing = [e for e in changed if e.closed and (e.closed.low or 0) > 0]
  closing.sort(key=lambda e: -e.closed.value if e.closed else 0)
  if not closing:
    return text + "No changed part of CRATE closes a share of it that is told from zero."
  shares = ", ".join(f"{e.variant} {_percent(e.closed)}" for e in closing)
  whole = [e.variant for e in closing if e.closed and (e.closed.high or 0) >= 1]
  end = (
    f"Able to close it, as far as these intervals go: {', '.join(whole)}."
    if whole
    else "None alone closes it: no interval reaches 100 %."
  )
  return f"{text}Of this gap, told from zero each by its own interval, are closed: {shares}. {end}"


def _sparsity(study: Study) -> list[str]:
  """What the simpler ways to sparse neurons cost, at CRATE's share of active ones."""
  base, goal, parts = study.of(BASE), study.of(GOAL), []
  for family, variant in study.matched.items():
    effect = study.of(variant)
    if not base or not effect or base.active is None or effect.active is None:
      continue
    text = (
      f"{FAMILIES[family]} in {GOAL}: nearest to {BASE}'s {base.active:.1%} of active neurons is "
      f"{variant} with {effect.active:.1%}"
    )
    if effect.difference:
      text += f"; it is {_interval(effect.difference, '+.4f')} nats from {BASE}"
    if goal and variant != GOAL:
      text += f" and {effect.loss - goal.loss:+.4f} from {GOAL}"
    parts.append(text + ".")
  return parts


def markdown(studies: Sequence[Study], facts: dict[str, Any]) -> str:
  """All studies: words first, then their tables.

  Args:
    studies: of a sweep.
    facts: `command` and `commit` of this analysis.
  """
  lines = ["# One part changed at a time", ""]
  for study in studies:
    if len(studies) > 1:
      lines += [f"## {_shape(study)}, {study.tokens:,} tokens", ""]
    for paragraph in prose(study):
      lines += [paragraph, ""]
    lines += [*_table(COLUMNS, [_cells(effect) for effect in study.effects]), ""]
    texts, commits = (", ".join(x[:12] for x in of) for of in (study.texts, study.commits))
    lines += [f"Text sha256 {texts}; trained at commit {commits}.", ""]
  lines += [NOTES]
  lines += [f"Commit {facts['commit']}:", "", "```", facts["command"], "```", ""]
  return "\n".join(lines)


def _shape(study: Study) -> str:
  return f"{study.layers} layer{'s' * (study.layers > 1)} of width {study.width}"


def _cells(effect: Effect) -> tuple[str, ...]:
  return (
    effect.variant,
    f"{effect.loss:.4f}",
    _interval(effect.difference, "+.4f"),
    _p(effect.difference.p if effect.difference else None),
    _p(effect.holm),
    _p(effect.pooled_holm),
    _interval(effect.by_work, "+.4f"),
    _interval(effect.equal_flops, "+.4f") + " *" * effect.continued,
    _percent(effect.closed),
    ", ".join(f"{share:.1%}" for share in effect.nonzero) or NONE,
    f"{effect.flops_per_token:,}",
    f"{effect.parameters:,}",
    f"{effect.rate:.3g}" + " *" * effect.outermost,
  )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
  lines = [head, ["---"] * len(head), *rows]
  return [f"| {' | '.join(line)} |" for line in lines]


def _interval(estimate: Estimate | None, form: str) -> str:
  if estimate is None:
    return NONE
  if estimate.low is None or estimate.high is None:
    return f"{estimate.value:{form}}"
  return f"{estimate.value:{form}} ({estimate.low:{form}} to {estimate.high:{form}})"


def _opposite(estimate: Estimate) -> Estimate:
  def minus(bound: float | None) -> float | None:
    return None if bound is None else -bound

  return Estimate(-estimate.value, minus(estimate.high), minus(estimate.low), estimate.p)


def _percent(estimate: Estimate | None) -> str:
  """A share that nothing bounds, as of a gap that is not told from zero, says nothing."""
  return NONE if estimate is None or estimate.low is None else _interval(estimate, ".0%")


def _p(value: float | None) -> str:
  return NONE if value is None else f"{value:.2g}" if value >= 1e-4 else "<0.0001"


def as_dict(study: Study) -> dict[str, Any]:
  """Everything found, for JSON."""
  found = dataclasses.asdict(study)
  for effect, written in zip(study.effects, found["effects"], strict=True):
    written |= {"active": effect.active, "outermost": effect.outermost}
  return {**found, "words": prose(study)}


def draw(path: Path, studies: Sequence[Study]) -> None:
  """Writes a PNG: a panel a study, a row a variant, sorted by its difference to CRATE."""
  most = max(len(study.effects) for study in studies)
  figure = Figure(figsize=(8 * len(studies), 1.8 + 0.27 * most), layout="constrained")
  panels = figure.subplots(1, len(studies), squeeze=False)[0]
  for axes, study in zip(panels, studies, strict=True):
    _panel(axes, study)
    axes.set_ylim(most - 0.3, -0.7)  # rows are as high in every panel
  temporary = path.with_name(f".{path.name}")
  figure.savefig(temporary, dpi=120, format="png")
  temporary.replace(path)


def _panel(axes: Axes, study: Study) -> None:
  effects = [effect for effect in study.effects if effect.difference]
  title = f"{_shape(study)}, {study.tokens:,} tokens, seeds {', '.join(map(str, study.seeds))}"
  axes.set_title(title, fontsize="medium")
  axes.spines[["top", "right"]].set_visible(False)
  if not effects:
    axes.set_axis_off()
    axes.text(0.5, 0.5, "nothing to compare yet", ha="center", transform=axes.transAxes)
    return
  axes.axvline(0, color="0.3", linewidth=1, label=BASE)
  if goal := next((effect for effect in effects if effect.variant == GOAL), None):
    axes.axvline(_value(goal), color="0.3", linewidth=1, linestyle="--", label=GOAL)
  choices: tuple[tuple[str, str, Callable[[Effect], bool]], ...] = (
    ("C0", "helps or hurts, corrected for all", lambda e: _sure(e.holm)),
    ("C1", "so with the spread of all seeds", lambda e: _sure(e.pooled_holm)),
    ("0.6", f"not told from {BASE}", lambda e: True),
  )
  left = list(enumerate(effects))
  for color, label, fits in choices:
    for at, effect in [item for item in left if fits(item[1])]:
      left.remove((at, effect))
      _bar(axes, effect.by_work, at + 0.22, "0.8", 4.0)
      _bar(axes, effect.difference, at, color, 1.5)
      axes.plot(_value(effect), at, "o", color=color, markersize=4, label=label)
      label = ""  # once in the legend
  if any(effect.by_work for effect in effects):
    axes.plot([], [], color="0.8", linewidth=4, label=f"{LEVEL:.0%} over works")
  axes.set_yticks(range(len(effects)), [effect.variant for effect in effects], fontsize="small")
  axes.grid(axis="y", color="0.95")
  axes.set_xlabel(f"nats per token above {BASE}; dots and thin bars: {LEVEL:.0%} over seeds")
  axes.legend(frameon=False, fontsize="small")


def _bar(axes: Axes, estimate: Estimate | None, at: float, color: str, width: float) -> None:
  if estimate is not None and estimate.low is not None and estimate.high is not None:
    axes.hlines(at, estimate.low, estimate.high, color=color, linewidth=width)
