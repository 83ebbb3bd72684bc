"""The gap: what CRATE's loss has on top of GPT-2's, at one size, over the lengths of training.

Seeds are paired: a seed has the same order of the data in both.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from crate_jax.scaling import fit, uncertainty
from crate_jax.scaling import works as works_lib
from crate_jax.scaling.report import axes as axes_lib
from crate_jax.scaling.report.axes import Axis
from crate_jax.scaling.report.cells import Cell, Estimate, Size, common_seeds, over_seeds
from crate_jax.scaling.report.laws import Line, estimate, line, misfit, miss, stream, too_few
from crate_jax.scaling.uncertainty import Crossing, Noise

DIRECT, DIFFERENCE = "g + k D^-gamma", "two laws"  # forms of the gap
TIMES = (2, 5, 10)  # the longest run, where crossings are given


@dataclasses.dataclass(frozen=True)
class Point:
  """The gap at one length.

  Attributes:
    tokens: the length.
    repeated: the text was seen too often to be fitted.
    seeds: that both variants have.
    each: the gap of each of them, nats per token.
    gap: their mean, with Student's interval over seeds.
    works: with the interval over the works of the evaluation text; None with too few works.
  """

  tokens: int
  repeated: bool
  seeds: list[int]
  each: list[float]
  gap: Estimate
  works: Estimate | None


@dataclasses.dataclass(frozen=True)
class Draws(uncertainty.GapDraws):
  """Plausible gaps of the forms that fit.

  Attributes:
    used: which these are.
  """

  used: tuple[str, ...] = (DIRECT, DIFFERENCE)

  def at(self, tokens: fit.Number) -> np.ndarray:
    """CRATE's loss minus GPT-2's in nats; shape (draws, ...) with the axes of `tokens`."""
    found = []
    if DIRECT in self.used:
      found.append(self.direct.at(tokens))
    if DIFFERENCE in self.used:
      found.append(self.crate.loss(tokens) - self.gpt2.loss(tokens))
    return np.concatenate(found)

  def median(self, tokens: fit.Number) -> np.ndarray:
    """Of the draws; with the axes of `tokens`."""
    return np.asarray(np.median(self.at(tokens), axis=0))


@dataclasses.dataclass(frozen=True)
class Extrapolation:
  """g + k D^-gamma fitted to the gap, and what its draws say up to ten times the longest run.

  Attributes:
    g: the gap that stays, nats per token.
    k: coefficient of what does not, with D in tokens.
    gamma: its exponent.
    residuals: root mean square of the mean gaps about each form.
    used: the forms that fit, of which the draws are.
    line: `at` from the shortest length to ten times the longest.
    ten: `at` ten times the longest.
    before: probability that the gap is closed before so many times the longest; None: no draws.
    closed: after how many tokens, by the draws; None: no draws.
    curve: tokens and that probability, for the picture.
    missing: why there are no intervals; empty if there are.
    at: the gap after so many tokens: median of the draws; without any, of the first form that fits,
      or of g + k D^-gamma if none does.
    draws: gaps of the bootstrap.
  """

  g: float
  k: float
  gamma: float
  residuals: dict[str, float]
  used: list[str]
  line: Line
  ten: Estimate
  before: dict[int, float | None]
  closed: Crossing | None
  curve: Line | None
  missing: str
  at: Callable[[fit.Number], np.ndarray]
  draws: Draws | None


@dataclasses.dataclass(frozen=True)
class SizeGap:
  """All about the gap at one size.

  Attributes:
    size: the networks' shape.
    points: one a length, the shortest first; those that are repeated too.
    slope: nats per doubling of the tokens, least squares over all fitted lengths, over seeds.
    end: the same between the two longest.
    law: None where `missing` says why.
    missing: what the runs lack for it; empty if nothing.
    axes: equal tokens, equal FLOPs, equal seconds.
  """

  size: Size
  points: list[Point]
  slope: Estimate | None
  end: Estimate | None
  law: Extrapolation | None
  missing: str
  axes: list[Axis]

  @property
  def fitted(self) -> list[Point]:
    """The lengths that are not repeated."""
    return [point for point in self.points if not point.repeated]


def paired(
  crate: Sequence[Cell], gpt2: Sequence[Cell], repeated: bool = False
) -> list[tuple[Cell, Cell, list[int]]]:
  """Cells of equal length with the seeds that both have; with `repeated`, also such lengths."""
  other = {cell.tokens: cell for cell in gpt2}
  pairs = []
  for cell in crate:
    beside = other.get(cell.tokens)
    if beside is None or not (seeds := common_seeds((cell, beside))):
      continue
    if repeated or not (cell.repeated or beside.repeated):
      pairs.append((cell, beside, seeds))
  return pairs


def matrices(pairs: Sequence[tuple[Cell, Cell, list[int]]]) -> tuple[np.ndarray, np.ndarray]:
  """Losses of both, (S, D) each, a row a seed; NaN where a seed has no pair."""
  seeds = sorted({seed for *_, common in pairs for seed in common})

  def of(side: int) -> np.ndarray:
    return np.array(
      [[p[side].of(s).loss if s in p[2] else np.nan for p in pairs] for s in seeds]  # type: ignore[union-attr]
    )

  return of(0), of(1)


def size_gap(
  crate: Sequence[Cell],
  gpt2: Sequence[Cell],
  noise: Noise | None,
  noise_of_loss: Noise | None,
  draws: int,
  seed: int,
) -> SizeGap | None:
  """The gap at one size; None if the two share no length and seed.

  Args:
    crate: cells of the one, the shortest first, repeated ones too.
    gpt2: of the other.
    noise: of the gap between seeds, pooled over sizes.
    noise_of_loss: of the losses.
    draws: of the bootstraps.
    seed: of their random numbers.
  """
  size = crate[0].size
  everything = paired(crate, gpt2, repeated=True)
  if not everything:
    return None
  points = [
    _point(*pair, draws, stream(seed, "works", size, pair[0].tokens)) for pair in everything
  ]
  pairs = paired(crate, gpt2)
  law, missing = None, ""
  if len(pairs) < fit.LENGTHS:
    missing = f"no fit: {len(pairs)} of the {fit.LENGTHS} lengths that a law of the gap needs"
  else:
    law = _extrapolate(pairs, noise, noise_of_loss, draws, stream(seed, "gap", size))
    missing = law.missing
  axes = [axes_lib.axis(name, crate, gpt2) for name in axes_lib.AXES]
  return SizeGap(size, points, _slope(pairs), _slope(pairs[-2:]), law, missing, axes)


def _point(
  crate: Cell, gpt2: Cell, seeds: list[int], draws: int, rng: np.random.Generator
) -> Point:
  each = [crate.of(seed).loss - gpt2.of(seed).loss for seed in seeds]
  rows = [cell.of(seed) for cell in (crate, gpt2) for seed in seeds]
  works = None
  tokens = rows[0].work_tokens
  if len(tokens) >= works_lib.WORKS and all(r.work_tokens == tokens for r in rows):
    a_W, b_W = (
      np.mean([cell.of(seed).work_nats for seed in seeds], axis=0) for cell in (crate, gpt2)
    )
    value, low, high = works_lib.by_work(a_W, b_W, np.array(tokens), draws, rng)
    works = Estimate(value, low, high) if np.isfinite([low, high]).all() else Estimate(value)
  repeated = crate.repeated or gpt2.repeated
  return Point(crate.tokens, repeated, seeds, each, over_seeds(each), works)


def _slope(pairs: Sequence[tuple[Cell, Cell, list[int]]]) -> Estimate | None:
  """Nats per doubling, by least squares for every seed that has all the lengths."""
  if len(pairs) < 2:
    return None
  crate_SD, gpt2_SD = matrices(pairs)
  gap_SD = crate_SD - gpt2_SD
  whole_SD = gap_SD[np.isfinite(gap_SD).all(axis=1)]
  doublings_D = np.log2([cell.tokens for cell, *_ in pairs])
  centred_D = doublings_D - doublings_D.mean()
  if not len(whole_SD):
    return Estimate(float(np.nanmean(gap_SD, axis=0) @ centred_D / (centred_D @ centred_D)))
  return over_seeds((whole_SD @ centred_D / (centred_D @ centred_D)).tolist())


def _extrapolate(
  pairs: Sequence[tuple[Cell, Cell, list[int]]],
  noise: Noise | None,
  noise_of_loss: Noise | None,
  draws: int,
  rng: np.random.Generator,
) -> Extrapolation:
  tokens_D = np.array([cell.tokens for cell, *_ in pairs], float)
  sides = matrices(pairs)
  crate_D, gpt2_D = (np.nanmean(side_SD, axis=0) for side_SD in sides)
  count_D = np.array([len(seeds) for *_, seeds in pairs])
  weight_D, gap_D = count_D / count_D.max(), crate_D - gpt2_D
  direct = fit.fit_gap(tokens_D, gap_D, weight_D)
  both = fit.fit_lengths(tokens_D, np.stack([crate_D, gpt2_D]), weight_D)
  values: dict[str, Callable[[fit.Number], np.ndarray]] = {
    DIRECT: direct.at,
    DIFFERENCE: lambda tokens: both.loss(tokens)[0] - both.loss(tokens)[1],
  }
  residuals = {form: miss(value(tokens_D), gap_D) for form, value in values.items()}
  reasons = {form: misfit(rest, noise, count_D.min()) for form, rest in residuals.items()}
  used = [form for form, reason in reasons.items() if not reason]
  missing = too_few(noise) or ("" if used else reasons[DIRECT])
  sample = None
  if noise and not missing:
    found = uncertainty.gap_draws(tokens_D, *sides, noise, draws, rng, noise_of_loss)
    sample = Draws(found.direct, found.crate, found.gpt2, found.shortest, tuple(used))
  longest = float(tokens_D[-1])
  far = uncertainty.OUTSIDE * longest
  value = sample.median if sample else values[used[0] if used else DIRECT]
  before, closed, curve = _closing(sample, longest)
  return Extrapolation(
    g=float(direct.g),
    k=float(direct.k),
    gamma=float(direct.gamma),
    residuals=residuals,
    used=used,
    line=line(tokens_D[0], far, value, sample.at if sample else None, 61),
    ten=estimate(float(value(far)), None if sample is None else sample.at(far)),
    before=before,
    closed=closed,
    curve=curve,
    missing=missing,
    at=value,
    draws=sample,
  )


def _closing(
  sample: Draws | None, longest: float
) -> tuple[dict[int, float | None], Crossing | None, Line | None]:
  """Probabilities that the gap closes, where, and the line of them for the picture."""
  if sample is None:
    return dict.fromkeys(TIMES), None, None
  closed = uncertainty.crossing(sample, longest)
  before = {t: uncertainty.crossing_probability(sample, t * longest, longest) for t in TIMES}
  times = np.geomspace(1, uncertainty.OUTSIDE, 31)
  places = [float(longest * t) for t in times]
  chances = [uncertainty.crossing_probability(sample, place, longest) or 0.0 for place in places]
  return before, closed, Line(places, chances)
