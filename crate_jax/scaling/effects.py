"""What each variant of a sweep does for the loss, beside CRATE and on the way to GPT-2."""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from crate_jax.errors import UserError
from crate_jax.scaling import paired, uncertainty
from crate_jax.scaling.paired import Estimate
from crate_jax.scaling.table import Row

BASE = "crate"  # what all are compared with
GOAL = "gpt2"  # whose loss is to be reached
# Variants that differ in one number, by the beginning of their name: GPT-2 made sparse, of which
# the one counts whose share of active neurons is nearest to CRATE's.
FAMILIES = {"l1_": "ReLU MLP with an L1 penalty", "topk_": "top-k MLP"}
SURE = 0.05  # adjusted p below which a difference is called one
BEYOND = 2.0  # times the longest or shortest crate: as far as its curve is continued
DRAWS = 10_000  # of works


@dataclasses.dataclass(frozen=True)
class Effect:
  """A variant, and its difference to CRATE in nats per token; below zero is better.

  Attributes:
    variant: its name.
    loss: mean over its seeds.
    losses: by seed.
    rate: the learning rate of its cells.
    tried: the rates that were tried for it.
    nonzero: share of active neurons by layer, mean over seeds.
    parameters: positions not among them.
    flops_per_token: of training.
    difference: over the seeds that both have; None if there is none, or no CRATE.
    holm: its p, corrected for all variants of the table.
    pooled: the same difference with the standard deviation that variant and seed leave of all
      losses; None for a variant that lacks one of CRATE's seeds or spreads more (`paired.alike`).
    pooled_holm: its p, corrected.
    by_work: the same difference with its interval over the text's works, means over seeds.
    equal_flops: difference to CRATE trained with this variant's FLOPs.
    equal_tokens: tokens that CRATE is trained on with these FLOPs.
    continued: whether that is outside the lengths that CRATE was trained for.
    closed: share of the gap from CRATE to GPT-2 that it closes.
  """

  variant: str
  loss: float
  losses: dict[int, float]
  rate: float
  tried: tuple[float, ...]
  nonzero: tuple[float, ...]
  parameters: int
  flops_per_token: int
  difference: Estimate | None = None
  holm: float | None = None
  pooled: Estimate | None = None
  pooled_holm: float | None = None
  by_work: Estimate | None = None
  equal_flops: Estimate | None = None
  equal_tokens: float | None = None
  continued: bool = False
  closed: Estimate | None = None

  @property
  def active(self) -> float | None:
    """Share of active neurons, mean over layers; None if it has no neurons."""
    return statistics.fmean(self.nonzero) if self.nonzero else None

  @property
  def outermost(self) -> bool:
    """Whether its rate is the lowest or highest tried, so that a better one may lie beyond."""
    return len(self.tried) > 1 and self.rate in (self.tried[0], self.tried[-1])

  @property
  def white_box(self) -> bool:
    """Whether it is CRATE with a part changed, not GPT-2 or GPT-2 made sparse."""
    return self.variant != GOAL and not self.variant.startswith(tuple(FAMILIES))


@dataclasses.dataclass(frozen=True)
class Study:
  """All variants of one shape that were trained for one length.

  Attributes:
    layers, width, heads, steps, tokens: what was trained.
    seeds: that any variant has.
    effects: the best first; those that cannot be compared last.
    matched: of each of `FAMILIES`, the variant nearest to CRATE in its share of active neurons.
    missing: sentences, what the table lacks.
    texts, commits: of the cells.
  """

  layers: int
  width: int
  heads: int
  steps: int
  tokens: int
  seeds: tuple[int, ...]
  effects: tuple[Effect, ...]
  matched: dict[str, str]
  missing: tuple[str, ...]
  texts: tuple[str, ...]
  commits: tuple[str, ...]

  def of(self, variant: str) -> Effect | None:
    """A variant by its name, None if it is not there."""
    return next((effect for effect in self.effects if effect.variant == variant), None)


def studies(rows: Sequence[Row]) -> list[Study]:
  """A study of every shape in a table, at each length that is some variant's longest.

  The shortest first: of all variants; then of those that were trained for longer.

  Raises:
    UserError: there is no finished cell, or the cells are of different texts.
  """
  cells = [row for row in rows if row.kind == "grid"]
  if not any(math.isfinite(row.loss) for row in cells):
    raise UserError("The table has no cell of the grid with a finite loss: nothing to report yet.")
  texts = {row.text for row in rows if row.text}  # of a run that diverged it is not known
  if len(texts) > 1:
    raise UserError(f"The cells are of {len(texts)} different texts, and do not compare.")
  shapes = sorted({_shape(row) for row in cells if math.isfinite(row.loss)})
  by_shape = [[row for row in rows if _shape(row) == shape] for shape in shapes]
  return [_study(of, steps) for of in by_shape for steps in sorted(set(_ends(of).values()))]


def _shape(row: Row) -> tuple[int, int, int]:
  return row.layers, row.width, row.heads


def _ends(rows: Iterable[Row]) -> dict[str, int]:
  """Every variant's longest length, of those that any variant has a finite loss for."""
  cells = [row for row in rows if row.kind == "grid"]
  finite = {row.steps for row in cells if math.isfinite(row.loss)}
  ends: dict[str, int] = {}
  for row in cells:
    if row.steps in finite:
      ends[row.variant] = max(row.steps, ends.get(row.variant, 0))
  return ends


def _study(rows: Sequence[Row], steps: int) -> Study:
  finite = [row for row in rows if row.kind == "grid" and math.isfinite(row.loss)]
  by_variant: dict[str, dict[int, Row]] = {}
  for row in finite:
    if row.steps == steps:
      seeds = by_variant.setdefault(row.variant, {})
      if row.seed in seeds:
        raise UserError(f"{row.cell} and {seeds[row.seed].cell} are the same cell trained twice.")
      seeds[row.seed] = row
  curves = _curves(finite)
  tried = {name: _tried(name, rows) for name in by_variant}
  effects = _corrected([_effect(name, by_variant, tried[name], curves) for name in by_variant])
  one = next(iter(next(iter(by_variant.values())).values()))
  return Study(
    *(*_shape(one), steps, one.tokens),
    seeds=tuple(sorted({seed for seeds in by_variant.values() for seed in seeds})),
    effects=tuple(sorted(effects, key=_order)),
    matched=_matched(effects),
    missing=tuple(_missing(rows, by_variant, steps)),
    texts=tuple(sorted({row.text for row in finite})),
    commits=tuple(sorted({row.commit for row in finite})),
  )


def _order(effect: Effect) -> tuple[bool, float]:
  if effect.variant == BASE:
    return False, 0.0
  return effect.difference is None, effect.difference.value if effect.difference else effect.loss


def _effect(
  name: str,
  by_variant: Mapping[str, Mapping[int, Row]],
  tried: tuple[float, ...],
  curves: Mapping[int, Mapping[int, float]],
) -> Effect:
  own, base, goal = by_variant[name], by_variant.get(BASE, {}), by_variant.get(GOAL, {})
  row = own[min(own)]
  layers = zip(*(own[seed].nonzero for seed in own), strict=True)
  effect = Effect(
    name,
    statistics.fmean(row.loss for row in own.values()),
    {seed: own[seed].loss for seed in sorted(own)},
    row.learning_rate,
    tried,
    tuple(map(statistics.fmean, layers)),
    row.parameters,
    row.flops_per_token,
  )
  both = sorted(set(own) & set(base))
  if name == BASE or not both:
    return effect
  equal, tokens, continued = _equal_flops(own, base[both[0]], curves)
  three = [seed for seed in both if seed in goal]
  closed = paired.ratio(
    [base[s].loss - own[s].loss for s in three], [base[s].loss - goal[s].loss for s in three]
  )
  return dataclasses.replace(
    effect,
    difference=paired.over_seeds([own[s].loss - base[s].loss for s in both]),
    by_work=_by_work([own[s] for s in both], [base[s] for s in both]),
    equal_flops=equal,
    equal_tokens=tokens,
    continued=continued,
    closed=closed if three and name != GOAL else None,
  )


def _curves(rows: Iterable[Row]) -> dict[int, dict[int, float]]:
  """CRATE's loss by seed and tokens."""
  found: dict[int, dict[int, float]] = {}
  for row in rows:
    if (row.variant, row.kind) == (BASE, "grid") and math.isfinite(row.loss):
      found.setdefault(row.seed, {})[row.tokens] = row.loss
  return found


def _equal_flops(
  own: Mapping[int, Row], base: Row, curves: Mapping[int, Mapping[int, float]]
) -> tuple[Estimate | None, float, bool]:
  """Difference to CRATE of the same FLOPs, its tokens, and whether its curve had to be continued.

  Between two lengths the logarithm of the loss is a line in that of the tokens.
  """
  row = own[min(own)]
  tokens = row.flops / base.flops_per_token
  seeds = [seed for seed in sorted(own) if len(curves.get(seed, ())) > 1]
  # Of the lengths that every seed has, so that no seed is judged by another's line.
  known = sorted(set.intersection(*(set(curves[seed]) for seed in seeds))) if seeds else []
  if len(known) < 2 or not known[0] / BEYOND <= tokens <= known[-1] * BEYOND:
    return None, tokens, False
  right = min(max(int(np.searchsorted(known, tokens)), 1), len(known) - 1)
  low, high = known[right - 1], known[right]
  part = math.log(tokens / low) / math.log(high / low)
  expected = {s: curves[s][low] ** (1 - part) * curves[s][high] ** part for s in seeds}
  differences = [own[seed].loss - expected[seed] for seed in seeds]
  return paired.over_seeds(differences), tokens, not known[0] <= tokens <= known[-1]


def _by_work(own: Sequence[Row], base: Sequence[Row]) -> Estimate | None:
  """None if the works are not the same; without bounds if they are too few."""
  tokens = {tuple(row.work_tokens) for row in [*own, *base]}
  if len(tokens) != 1 or not any(tokens):
    return None
  own_W, base_W = (np.mean([row.work_nats for row in rows], axis=0) for rows in (own, base))
  tokens_W, rng = np.array(next(iter(tokens))), np.random.default_rng(0)
  value, *bounds = uncertainty.by_work(own_W, base_W, tokens_W, DRAWS, rng, paired.LEVEL)
  return Estimate(value, *bounds) if all(map(math.isfinite, bounds)) else Estimate(value)


def _corrected(effects: Sequence[Effect]) -> list[Effect]:
  """With p corrected for all that are compared, and with the spread that they have in common."""
  pooled = _pooled(effects)
  own = {e.variant: e.difference.p for e in effects if e.difference and e.difference.p is not None}
  holm = dict(zip(own, paired.holm(list(own.values())), strict=True))
  shared = {name: estimate.p for name, estimate in pooled.items() if estimate.p is not None}
  pooled_holm = dict(zip(shared, paired.holm(list(shared.values())), strict=True))
  return [
    dataclasses.replace(
      e,
      holm=holm.get(e.variant),
      pooled=pooled.get(e.variant),
      pooled_holm=pooled_holm.get(e.variant),
    )
    for e in effects
  ]


def _pooled(effects: Sequence[Effect]) -> dict[str, Estimate]:
  """Differences with one spread, of the variants that have every seed of CRATE and spread alike."""
  seeds = next((list(effect.losses) for effect in effects if effect.variant == BASE), [])
  whole = {e.variant: e.losses for e in effects if seeds and set(seeds) <= set(e.losses)}
  loss_VS = np.array([[losses[seed] for seed in seeds] for losses in whole.values()])
  alike = paired.alike(loss_VS) if whole else []
  of = {name: loss_VS[i] for i, name in enumerate(whole) if i in alike}
  spread = paired.residual(loss_VS[alike]) if BASE in of else None
  if not spread:
    return {}
  of_difference = math.sqrt(2) * spread[0], spread[1]
  return {
    name: paired.over_seeds(own_S - of[BASE], of_difference)
    for name, own_S in of.items()
    if name != BASE
  }


def _matched(effects: Sequence[Effect]) -> dict[str, str]:
  """Of each family the member nearest to CRATE; GPT-2 is the one without a penalty."""
  share = {e.variant: e.active for e in effects if e.active is not None}
  found = {}
  for family in FAMILIES if BASE in share else ():
    members = [name for name in share if name.startswith(family)]
    if members and family == "l1_" and GOAL in share:
      members.append(GOAL)
    if members:
      found[family] = min(members, key=lambda name: abs(share[name] - share[BASE]))
  return found


def _tried(variant: str, rows: Iterable[Row]) -> tuple[float, ...]:
  """Rates of its trials and of its cells, a trial that became a cell being listed as that."""
  own = [row for row in rows if row.variant == variant and row.kind in ("trial", "grid")]
  return tuple(sorted({row.learning_rate for row in own}))


def _missing(
  rows: Sequence[Row], by_variant: Mapping[str, Mapping[int, Row]], steps: int
) -> Iterable[str]:
  everyone = sorted({seed for seeds in by_variant.values() for seed in seeds})
  for name in (BASE, GOAL):
    if name not in by_variant:
      yield f"{name} has no cell of {steps:,} steps, so nothing is compared with it"
  ends = _ends(rows)
  first = min(ends.values())  # a variant that has only trials is missed where all are compared
  meant = {row.variant for row in rows if ends.get(row.variant, first) >= steps}
  for name in sorted(meant - set(by_variant) - {BASE, GOAL}):
    yield f"{name} has no cell of {steps:,} steps"
  for name, seeds in sorted(by_variant.items()):
    if lacking := [str(seed) for seed in everyone if seed not in seeds]:
      yield f"{name} lacks seed{'s' * (len(lacking) > 1)} {', '.join(lacking)}"
  if len(everyone) < 2:
    yield "there is one seed, so no difference has an interval over seeds"
  for row in rows:
    if (row.kind, row.steps) == ("grid", steps) and not math.isfinite(row.loss):
      yield f"{row.cell} has no finite loss and is left out"
