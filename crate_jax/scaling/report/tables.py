"""The tables of the report of `scaling.plateau`."""

import math
from collections.abc import Sequence

from crate_jax.page import Table
from crate_jax.scaling.report import words
from crate_jax.scaling.report.analysis import Analysis
from crate_jax.scaling.report.cells import Cell, Estimate, Trials, over_seeds
from crate_jax.scaling.report.forecast import GAP, Scored
from crate_jax.scaling.report.gap import DIRECT, TIMES, Extrapolation
from crate_jax.scaling.report.laws import Curve
from crate_jax.scaling.uncertainty import Crossing

NONE = "-"
DIVERGED = "diverged"
ANSWERS = """\
Gap: at the longest length that is fitted. Slope: of the gap, nats per doubling of the tokens, \
least squares over all lengths. Gap at 10 x: at ten times the longest run, median of the draws. P: \
probability that the fitted gap is closed before then. Numbers in brackets are intervals."""
EXTRAPOLATIONS = """\
g: what stays of the gap for any number of tokens, k and gamma: how the rest falls, all three of \
the form g + k D^-gamma; "rejected" where that misses the gaps by more than their noise, so that \
no other number rests on it. At 10 x: the gap at ten times the longest run, median of the draws. \
P: probability that it is closed before so many times the longest run. Closed at: tokens, median \
of the draws. Of these one half are of the form g + k D^-gamma and one half differences of two \
laws L(D), because the runs cannot tell which is right, unless one of them is rejected. Residuals: \
of the one and of the other, nats. Beyond 10 x: outside the data."""
AXES = """\
The gap where both have used as much of something: by interpolation in the logarithm of the axis, \
where both have runs. Seconds are as measured, on devices that may have been busy with other \
things."""


def answers(a: Analysis) -> Table:
  """What each size comes to."""
  head = ("size", "longest", "seeds", "gap", "slope", "gap at 10 x", "P", "so")
  rows = []
  for gap, verdict in zip(a.gaps, a.verdicts, strict=True):
    last = gap.fitted[-1] if gap.fitted else None
    rows.append(
      (
        str(gap.size),
        words.count(last.tokens) if last else NONE,
        str(len(last.seeds)) if last else NONE,
        _cell(last.gap if last else None),
        _cell(gap.slope),
        _cell(gap.law.ten if gap.law else None),
        words.probability(gap.law.before[10]) if gap.law else NONE,
        verdict.words,
      )
    )
  return Table(head, rows)


def losses(a: Analysis) -> Table:
  """Every cell of the grid."""
  head = (
    "variant", "size", "parameters", "tokens", "epochs", "seeds", "loss", "±", "bits per byte",
    "FLOPs", "seconds",
  )  # fmt: skip
  return Table(head, [_losses(cell) for cell in a.cells])


def _losses(cell: Cell) -> tuple[str, ...]:
  loss = over_seeds([row.loss for row in cell.rows])
  half = NONE if loss.high is None else f"{loss.high - loss.value:.4f}"
  return (
    words.name(cell.variant),
    str(cell.size),
    f"{cell.rows[0].parameters:,}",
    f"{cell.tokens:,}{' *' * cell.repeated}",
    f"{cell.mean(lambda row: row.epochs):.2f}",
    str(len(cell.rows)),
    f"{loss.value:.4f}",
    half,
    f"{cell.mean(lambda row: row.bits_per_byte):.4f}",
    f"{cell.mean(lambda row: row.flops):.3e}",
    f"{cell.mean(lambda row: row.seconds):,.0f}",
  )


def laws(a: Analysis) -> Table:
  """L(D) and the slope at its end."""
  head = ("variant", "size", "lengths", "E", "B", "beta", "residual", "end", "lacks")
  return Table(head, [_law(curve) for curve in a.curves])


def _law(curve: Curve) -> tuple[str, ...]:
  law = curve.law
  return (
    words.name(curve.variant),
    str(curve.size),
    str(len(curve.tokens)),
    _cell(law.E if law else None),
    _scientific(law.B) if law else NONE,
    _cell(law.beta if law else None),
    f"{law.residual:.4f}" if law else NONE,
    _cell(curve.end, 4),
    curve.missing or NONE,
  )


def shared(a: Analysis) -> Table:
  """The laws with E in common."""
  rows = []
  for fitted in a.shared:
    for variant, B in fitted.B.items():
      rows.append(
        (
          str(fitted.size),
          words.name(variant),
          f"{fitted.E:.3f}",
          f"{B:.3g}",
          f"{fitted.beta[variant]:.3f}",
          f"{fitted.residual:.4f}",
        )
      )
  return Table(("size", "variant", "E of both", "B", "beta", "residual"), rows)


def sizes(a: Analysis) -> Table:
  """L(N, D)."""
  names = ("E", "A", "alpha", "B", "beta", "compute_exponent")
  rows = []
  for fitted in a.sizes:
    cells = [
      NONE if not fitted.numbers
      else _scientific(fitted.numbers[n]) if n in "AB" else _cell(fitted.numbers[n])
      for n in names
    ]  # fmt: skip
    residual = NONE if fitted.residual is None else f"{fitted.residual:.4f}"
    rows.append(
      (words.name(fitted.variant), str(fitted.runs), *cells, residual, fitted.missing or NONE)
    )
  head = ("variant", "cells", "E", "A", "alpha", "B", "beta", "beta / (alpha + beta)", "residual")
  return Table((*head, "lacks"), rows)


def gaps(a: Analysis) -> Table:
  """The gap at every length."""
  rows = [
    (
      str(gap.size),
      f"{point.tokens:,}{' *' * point.repeated}",
      str(len(point.seeds)),
      _cell(point.gap, 4),
      _interval(point.works, 4),
    )
    for gap in a.gaps
    for point in gap.points
  ]
  return Table(
    ("size", "tokens", "seeds", "gap (interval over seeds)", "interval over works"), rows
  )


def extrapolations(a: Analysis) -> Table:
  """The fitted gap."""
  head = (
    "size", "slope", "slope at the end", "g", "k", "gamma", "residuals", "forms that fit",
    "at 10 x", *(f"P, {times} x" for times in TIMES), "closed at", "free E: difference", "lacks",
  )  # fmt: skip
  rows = []
  for gap in a.gaps:
    law = gap.law
    rows.append(
      (
        str(gap.size),
        _cell(gap.slope, 4),
        _cell(gap.end, 4),
        *_direct(law),
        "; ".join(f"{rest:.4f}" for rest in law.residuals.values()) if law else NONE,
        " and ".join(law.used) or "none fits" if law else NONE,
        _cell(law.ten if law else None),
        *(words.probability(law.before[times]) if law else NONE for times in TIMES),
        _closed(law.closed if law else None),
        _cell(a.floors(gap.size)),
        gap.missing or NONE,
      )
    )
  return Table(head, rows)


def _direct(law: Extrapolation | None) -> tuple[str, str, str]:
  """g, k and gamma."""
  if law is None:
    return NONE, NONE, NONE
  note = "" if DIRECT in law.used else " (rejected)"
  return f"{law.g:.3f}{note}", f"{law.k:.3g}{note}", f"{law.gamma:.3f}{note}"


def _closed(crossing: Crossing | None) -> str:
  if crossing is None:
    return NONE
  low, median, high = (
    words.count(tokens) if tokens else "beyond"
    for tokens in (crossing.low, crossing.median, crossing.high)
  )
  return "beyond 10 x" if low == "beyond" else f"{median} ({low} to {high})"


def axes(a: Analysis) -> Table:
  """The gap on every axis, where it begins and where it ends."""
  rows = []
  for gap in a.gaps:
    for axis in gap.axes:
      if axis.missing:
        rows.append((str(gap.size), f"equal {axis.name}", NONE, NONE, NONE, axis.missing))
        continue
      span = f"{_amount(axis.name, axis.low)} to {_amount(axis.name, axis.high)}"
      ends = _cell(axis.gaps[0], 4), _cell(axis.gaps[-1], 4)
      rows.append((str(gap.size), f"equal {axis.name}", span, *ends, NONE))
  head = (
    "size",
    "axis",
    "both have runs from",
    "gap at the lower end",
    "at the upper end",
    "lacks",
  )
  return Table(head, rows)


def forecast(scored: Sequence[Scored]) -> Table:
  """Predicted and observed."""
  head = ("of", "size", "predicted", "observed", "error", "inside", "remark")
  rows = []
  for of in scored:
    rows.append(
      (
        "gap" if of.what == GAP else words.name(of.what),
        str(of.size),
        _cell(of.predicted, 4),
        _cell(of.observed, 4),
        NONE if of.error is None else f"{of.error:+.4f}",
        NONE if of.inside is None else "yes" if of.inside else "no",
        "beyond the epochs that are fitted" if of.repeated else NONE,
      )
    )
  return Table(head, rows)


def checks(a: Analysis) -> Table:
  """Both schedules."""
  rows = [
    (c.beside, f"{c.wsd:.4f}", f"{c.cosine:.4f}", f"{c.cosine - c.wsd:+.4f}") for c in a.checks
  ]
  return Table(("cell", "constant, then decayed", "cosine", "cosine less the other"), rows)


def trials(a: Analysis) -> Table:
  """The best rate of every variant, size and length, and the price of its neighbours."""
  used = {(c.variant, c.size): {r.learning_rate for r in c.rows} for c in a.cells}
  rows = []
  for of in a.trials:
    rate = used.get((of.variant, of.size))
    rows.append(
      (
        words.name(of.variant),
        str(of.size),
        f"{of.steps:,}",
        f"{of.rates[of.best]:g}",
        "yes" if of.interior else "**no**",
        _step(of, -1),
        _step(of, 1),
        ", ".join(f"{r:g}" for r in sorted(rate)) if rate else NONE,
      )
    )
  head = ("variant", "size", "steps", "best rate", "interior", "one down", "one up", "used")
  return Table(head, rows)


def _step(of: Trials, by: int) -> str:
  """What the rate beside the best one costs, in nats."""
  if not 0 <= of.best + by < len(of.rates):
    return "not tried"
  cost = of.losses[of.best + by] - of.losses[of.best]
  return f"{cost:+.4f}" if math.isfinite(cost) else DIVERGED


def tried(a: Analysis) -> Table:
  """The loss of every trial."""
  rates = sorted({rate for of in a.trials for rate in of.rates})
  rows = []
  for of in a.trials:
    by = dict(zip(of.rates, of.losses, strict=True))
    cells = [
      NONE if rate not in by else f"{by[rate]:.4f}" if math.isfinite(by[rate]) else DIVERGED
      for rate in rates
    ]
    rows.append((words.name(of.variant), str(of.size), f"{of.steps:,}", *cells))
  return Table(("variant", "size", "steps", *(f"{rate:g}" for rate in rates)), rows)


def _amount(axis: str, value: float) -> str:
  if axis == "tokens":
    return words.count(value)
  return f"{value:.2e}" if axis == "FLOPs" else f"{value:,.0f} s"


def _cell(e: Estimate | None, digits: int = 3) -> str:
  if e is None:
    return NONE
  return words.number(e.value, digits) if e.low is None else words.between(e, digits)


def _interval(e: Estimate | None, digits: int) -> str:
  if e is None or e.low is None or e.high is None:
    return NONE
  return f"{words.number(e.low, digits)} to {words.number(e.high, digits)}"


def _scientific(e: Estimate) -> str:
  said = f"{e.value:.3g}"
  return said if e.low is None or e.high is None else f"{said} ({e.low:.2g} to {e.high:.2g})"
