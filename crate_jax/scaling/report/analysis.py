"""All that `scaling.plateau` finds in a sweep's table, as numbers."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from crate_jax.errors import UserError
from crate_jax.scaling.report import cells as cells_lib
from crate_jax.scaling.report import gap as gap_lib
from crate_jax.scaling.report import laws as laws_lib
from crate_jax.scaling.report import sizes as sizes_lib
from crate_jax.scaling.report import words as words_lib
from crate_jax.scaling.report.cells import Cell, Check, Estimate, Size, Trials
from crate_jax.scaling.report.gap import SizeGap
from crate_jax.scaling.report.laws import Curve, SharedFit
from crate_jax.scaling.report.sizes import SizesFit
from crate_jax.scaling.report.words import Verdict
from crate_jax.scaling.table import Row
from crate_jax.scaling.uncertainty import Noise


@dataclasses.dataclass(frozen=True)
class Choice:
  """What the command was told.

  Attributes:
    crate: name of the one variant of the pair.
    gpt2: of the other.
    seed: of the random numbers of all bootstraps.
    draws: of each.
  """

  crate: str = "crate"
  gpt2: str = "gpt2"
  seed: int = 0
  draws: int = 2000


@dataclasses.dataclass(frozen=True)
class Analysis:
  """What the report is made of.

  Attributes:
    choice: what the command was told.
    rows: of the whole table.
    cells: of the grid, repeated ones too.
    dropped: names of the cells of the grid without a finite loss.
    noise: of the losses between seeds, pooled over variants and sizes; None without two seeds.
    unlike: variants and sizes whose seeds spread more than the others', with their noise.
    noise_of_gap: of the pair's difference, pooled over sizes.
    borrowed: that is the noise of two independent losses, for want of pairs.
    curves: every variant and size, over the lengths that are not repeated.
    shared: the pair's laws with one irreducible loss, a size each.
    sizes: L(N, D), a variant each.
    gaps: a size each.
    verdicts: what each gap comes to, in the same order.
    checks: of the schedule.
    alone: names of checks that have nothing to stand beside.
    trials: of the rates.
  """

  choice: Choice
  rows: Sequence[Row]
  cells: list[Cell]
  dropped: list[str]
  noise: Noise | None
  unlike: dict[tuple[str, Size], Noise]
  noise_of_gap: Noise | None
  borrowed: bool
  curves: list[Curve]
  shared: list[SharedFit]
  sizes: list[SizesFit]
  gaps: list[SizeGap]
  verdicts: list[Verdict]
  checks: list[Check]
  alone: list[str]
  trials: list[Trials]

  def curve(self, variant: str, size: Size) -> Curve | None:
    """Of a variant and size, if it has lengths that are not repeated."""
    found = [c for c in self.curves if (c.variant, c.size) == (variant, size)]
    return found[0] if found else None

  def noise_at(self, variant: str, size: Size) -> Noise | None:
    """Of the losses of a variant and size between seeds."""
    return self.unlike.get((variant, size), self.noise)

  def noise_of_gap_at(self, size: Size) -> Noise | None:
    """Of the pair's difference at a size between seeds."""
    return _of_gap_at(size, (self.choice.crate, self.choice.gpt2), self.noise_of_gap, self.unlike)

  def floors(self, size: Size) -> Estimate | None:
    """The irreducible loss of CRATE less that of GPT-2, each free; None without both laws."""
    one, other = (self.curve(name, size) for name in (self.choice.crate, self.choice.gpt2))
    if not (one and other and one.law and other.law):
      return None
    both = one.draws and other.draws
    draws = np.asarray(one.draws.E) - np.asarray(other.draws.E) if both else None  # type: ignore[union-attr]
    return laws_lib.estimate(one.law.E.value - other.law.E.value, draws)


def analyse(rows: Sequence[Row], choice: Choice) -> Analysis:
  """Fits, compares, and says what it comes to.

  Raises:
    UserError: the grid is empty or has a cell twice, or neither variant of the pair is in it.
  """
  cells, dropped = cells_lib.grid(rows)
  variants = sorted({cell.variant for cell in cells})
  pair = (choice.crate, choice.gpt2)
  if not set(pair) & set(variants):
    raise UserError(
      f"Neither --crate={choice.crate} nor --gpt2={choice.gpt2} is a variant of the table, which "
      f"has {', '.join(variants)}."
    )
  once = cells_lib.series(cell for cell in cells if not cell.repeated)
  every = cells_lib.series(cells)
  groups = {key: laws_lib.matrix(of) for key, of in once.items()}
  noise = laws_lib.pooled(list(groups.values()))
  unlike = laws_lib.unlike(groups, noise)
  both = [size for size in sorted({c.size for c in cells}) if {(v, size) for v in pair} <= {*every}]
  noise_of_gap, borrowed = _noise_of_gap(once, both, pair, noise)
  draws, seed = choice.draws, choice.seed
  curves = [laws_lib.curve(of, unlike.get(key, noise), draws, seed) for key, of in once.items()]
  found = [
    gap_lib.size_gap(
      every[choice.crate, size],
      every[choice.gpt2, size],
      _of_gap_at(size, pair, noise_of_gap, unlike),
      _largest(noise, [unlike.get((name, size)) for name in pair]),
      draws,
      seed,
    )
    for size in both
  ]
  gaps = [gap for gap in found if gap]
  shared = [laws_lib.shared([c for c in curves if c.size == s and c.variant in pair]) for s in both]
  checks, alone = cells_lib.checks(rows)
  return Analysis(
    choice=choice,
    rows=rows,
    cells=cells,
    dropped=dropped,
    noise=noise,
    unlike=unlike,
    noise_of_gap=noise_of_gap,
    borrowed=borrowed,
    curves=curves,
    shared=[fitted for fitted in shared if fitted],
    sizes=[
      sizes_lib.sizes(
        name,
        {size: of for (v, size), of in once.items() if v == name},
        _largest(noise, [of for (v, _), of in unlike.items() if v == name]),
        draws,
        seed,
      )
      for name in variants
    ],
    gaps=gaps,
    verdicts=[words_lib.verdict(gap) for gap in gaps],
    checks=checks,
    alone=alone,
    trials=cells_lib.trials(rows),
  )


def _noise_of_gap(
  once: dict[tuple[str, Size], list[Cell]],
  sizes: Sequence[Size],
  pair: tuple[str, str],
  noise: Noise | None,
) -> tuple[Noise | None, bool]:
  """The noise of the pair's difference, and whether it is borrowed from that of the losses.

  A pair has half the degrees of freedom of its two sides. Where they do not suffice and those of
  the losses do, the difference is taken to be of two independent losses: what their seeds share
  could only make it surer.
  """
  groups = []
  for size in sizes:
    pairs = gap_lib.paired(once.get((pair[0], size), []), once.get((pair[1], size), []))
    if pairs:
      crate_SD, gpt2_SD = gap_lib.matrices(pairs)
      groups.append(crate_SD - gpt2_SD)
  own = laws_lib.pooled(groups)
  if noise and laws_lib.too_few(own) and not laws_lib.too_few(noise):
    return Noise(2**0.5 * noise.trunk, 2**0.5 * noise.branch, noise.degrees), True
  return own, False


def _largest(noise: Noise | None, others: Iterable[Noise | None]) -> Noise | None:
  """A noise, or the larger ones of what it is for."""
  for other in others:
    if noise and other:
      noise = laws_lib.larger(noise, other)
  return noise


def _of_gap_at(
  size: Size,
  pair: tuple[str, str],
  noise_of_gap: Noise | None,
  unlike: Mapping[tuple[str, Size], Noise],
) -> Noise | None:
  """The noise of the pair's difference at a size, of which one side may spread more than others.

  Then it is that side's own, and what the other side adds is what it adds anywhere.
  """
  own = [unlike[name, size] for name in pair if (name, size) in unlike]
  if not noise_of_gap or not own:
    return noise_of_gap
  half = noise_of_gap.trunk / 2**0.5, noise_of_gap.branch / 2**0.5
  sides = [(of.trunk, of.branch) for of in own] + [half] * (2 - len(own))
  trunk, branch = (float(np.hypot(*of)) for of in zip(*sides, strict=True))
  known = min((of.known for of in own if of.known), default=None)
  return laws_lib.larger(Noise(trunk, branch, noise_of_gap.degrees, known), noise_of_gap)


def _gap(gap: SizeGap) -> dict[str, Any]:
  """Its numbers, without what makes them."""
  law = gap.law
  found = dataclasses.asdict(dataclasses.replace(gap, law=None))
  if law:
    found["law"] = dataclasses.asdict(dataclasses.replace(law, draws=None))
    del found["law"]["draws"], found["law"]["at"]
  return found


def as_dict(analysis: Analysis) -> dict[str, Any]:
  """Every number of the analysis, for JSON."""
  a = analysis
  return {
    **dataclasses.asdict(a.choice),
    "level": cells_lib.LEVEL,
    "cells": [
      {
        "variant": cell.variant,
        **dataclasses.asdict(cell.size),
        "tokens": cell.tokens,
        "repeated": cell.repeated,
        "loss": dataclasses.asdict(cells_lib.over_seeds([row.loss for row in cell.rows])),
        "losses": {str(row.seed): row.loss for row in cell.rows},
        "flops": cell.mean(lambda row: row.flops),
        "seconds": cell.mean(lambda row: row.seconds),
        "epochs": cell.mean(lambda row: row.epochs),
        "bits_per_byte": cell.mean(lambda row: row.bits_per_byte),
        "names": [row.cell for row in cell.rows],
      }
      for cell in a.cells
    ],
    "dropped": a.dropped,
    "noise": a.noise and dataclasses.asdict(a.noise),
    "noise_unlike": {f"{v} {size}": dataclasses.asdict(of) for (v, size), of in a.unlike.items()},
    "noise_of_gap": a.noise_of_gap and dataclasses.asdict(a.noise_of_gap),
    "noise_of_gap_borrowed": a.borrowed,
    "curves": [dataclasses.asdict(dataclasses.replace(c, draws=None)) for c in a.curves],
    "shared": [dataclasses.asdict(fitted) for fitted in a.shared],
    "sizes": [dataclasses.asdict(fitted) for fitted in a.sizes],
    "gaps": [
      {
        **_gap(gap),
        "verdict": dataclasses.asdict(verdict),
        "floors": (floor := a.floors(gap.size)) and dataclasses.asdict(floor),
      }
      for gap, verdict in zip(a.gaps, a.verdicts, strict=True)
    ],
    "checks": [dataclasses.asdict(check) for check in a.checks],
    "checks_alone": a.alone,
    "trials": [
      {**dataclasses.asdict(of), "best": of.rates[of.best], "interior": of.interior}
      for of in a.trials
    ],
  }
