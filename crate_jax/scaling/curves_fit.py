"""Laws of a study's runs with the intervals of a bootstrap, as numbers and as a table."""

import dataclasses
from typing import Any

import numpy as np

from crate_jax.errors import UserError
from crate_jax.scaling import fit
from crate_jax.scaling.curves_read import Runs
from crate_jax.scaling.uncertainty import DEGREES, OUTSIDE, interval

SIZES = 3  # distinct N from which L(N, D) is fitted
MANY = 200  # fits at once, which bounds the memory


@dataclasses.dataclass(frozen=True)
class Number:
  """A fitted number with its 90 % interval; without bounds where there is none."""

  value: float
  low: float | None
  high: float | None


@dataclasses.dataclass(frozen=True)
class Fit:
  """One law.

  Attributes:
    what: the law, and of which runs.
    numbers: by their names.
    runs: that it was fitted to.
    clusters: that these come in.
    residual: root mean square of the residuals of log L.
    worst: the largest of them, with its sign: log of measured over fitted.
    note: what to think of the intervals; empty if nothing speaks against them.
  """

  what: str
  numbers: dict[str, Number]
  runs: int
  clusters: int
  residual: float
  worst: float
  note: str


def fits(runs: Runs, draws: int, rng: np.random.Generator) -> list[Fit]:
  """L(N, D) where N takes three values or more, otherwise L(D) for each N.

  Raises:
    UserError: the law is not identifiable from these runs.
  """
  if runs.params_R is None:
    return [_lengths("L(D) = E + B D^-beta", runs, draws, rng)]
  sizes = np.unique(runs.params_R)
  if len(sizes) >= SIZES:
    return [_sizes(runs, draws, rng)]
  return [
    _lengths(f"L(D) = E + B D^-beta at N = {size:,.0f}", runs.of(runs.params_R == size), draws, rng)
    for size in sizes
  ]


def _sizes(runs: Runs, draws: int, rng: np.random.Generator) -> Fit:
  def fitted(weights_NR: np.ndarray | None) -> fit.SizeLaw:
    return fit.fit_sizes(runs.params_R, runs.tokens_R, runs.loss_R, weights_NR)  # type: ignore[arg-type]

  def numbers(law: fit.SizeLaw) -> dict[str, np.ndarray]:
    return dataclasses.asdict(law) | {"a = beta / (alpha + beta)": law.compute_exponent}

  law = fitted(None)
  values = numbers(law)
  drawn = [numbers(fitted(part)) for part in _weights(runs, 5, draws, rng)]
  what = "L(N, D) = E + A N^-alpha + B D^-beta"
  return _fit(what, runs, 5, values, drawn, law.loss(runs.params_R, runs.tokens_R))  # type: ignore[arg-type]


def _lengths(what: str, runs: Runs, draws: int, rng: np.random.Generator) -> Fit:
  far = OUTSIDE * runs.tokens_R.max()

  def fitted(weights_NR: np.ndarray | None) -> fit.Law:
    return fit.fit_lengths(runs.tokens_R, runs.loss_R, weights_NR)

  def numbers(law: fit.Law) -> dict[str, np.ndarray]:
    return dataclasses.asdict(law) | {f"loss at {far:.3g} tokens": law.loss(far)}

  try:
    law = fitted(None)
  except UserError as error:
    raise UserError(f"{what}: {error}") from error
  drawn = [numbers(fitted(part)) for part in _weights(runs, 3, draws, rng)]
  return _fit(what, runs, 3, numbers(law), drawn, law.loss(runs.tokens_R))


def _weights(runs: Runs, parameters: int, draws: int, rng: np.random.Generator) -> list[np.ndarray]:
  """Weights of the runs in parts of at most `MANY` draws; none if clusters are too few.

  A cluster's weight is drawn from a gamma distribution (a Bayesian bootstrap, Rubin 1981), so that
  no draw lacks a length altogether. Its variance is C / (C - P) for C clusters and P parameters,
  which widens the intervals by as much as the fit's residuals are smaller than the noise.
  """
  clusters = int(runs.cluster_R.max()) + 1
  if clusters <= parameters:
    return []
  shape = (clusters - parameters) / clusters
  weights_NC = rng.gamma(shape, 1 / shape, (draws, clusters))
  return [part[:, runs.cluster_R] for part in np.split(weights_NC, range(MANY, draws, MANY))]


def _fit(
  what: str,
  runs: Runs,
  parameters: int,
  values: dict[str, np.ndarray],
  drawn: list[dict[str, np.ndarray]],
  expected_R: np.ndarray,
) -> Fit:
  numbers, clusters = {}, int(runs.cluster_R.max()) + 1
  for name, value in values.items():
    bounds = interval(np.concatenate([part[name] for part in drawn])) if drawn else (None, None)
    numbers[name] = Number(float(value), *bounds)
  residual_R = np.log(runs.loss_R / expected_R)
  notes = []
  spare = clusters - parameters
  if spare < DEGREES:
    notes.append(
      f"{clusters} clusters for {parameters} numbers leave {max(spare, 0)} degrees of freedom, of "
      f"{DEGREES} that an interval needs: "
      + ("**take these for a lower bound of the doubt**." if drawn else "**no intervals**.")
    )
  if values["E"] <= 0:
    notes.append("E stands at 0: **these runs do not determine it**.")
  for name in ("alpha", "beta"):
    if name in values and not fit.EXPONENTS[0] < values[name] < fit.EXPONENTS[1]:
      notes.append(
        f"{name} stands at the edge of what is fitted ({fit.EXPONENTS[0]:g} to "
        f"{fit.EXPONENTS[1]:g}): **these runs do not determine it**."
      )
  return Fit(
    what,
    numbers,
    len(runs.loss_R),
    clusters,
    float(np.sqrt(np.mean(residual_R**2))),
    float(residual_R[np.abs(residual_R).argmax()]),
    " ".join(notes),
  )


def lines(data: str, runs: Runs, found: list[Fit]) -> list[str]:
  """The fits as Markdown."""
  text = [
    f"{data}: {len(runs.loss_R)} runs, {runs.tokens_R.min():.3g} to {runs.tokens_R.max():.3g} "
    f"tokens"
    + ("" if runs.params_R is None else f", {len(np.unique(runs.params_R))} distinct N")
    + f". Drawn again in the bootstrap: {runs.clustered}.",
  ]
  if runs.params_R is None:
    text += ["", "L(N, D) is not identifiable: there is no column of N."]
  elif len(found) > 1 or "N =" in found[0].what:
    count = len(np.unique(runs.params_R))
    text += ["", f"L(N, D) is not identifiable: {count} distinct N, and it needs three or more."]
  for one in found:
    text += ["", f"**{one.what}**", "", "| | value | 90 % interval |", "|---|---|---|"]
    for name, number in one.numbers.items():
      bounds = "-" if number.low is None else f"{number.low:.4g} to {number.high:.4g}"
      text.append(f"| {name} | {number.value:.4g} | {bounds} |")
    text += [
      "",
      f"{one.runs} runs in {one.clusters} clusters. Residuals of log L: root mean square "
      f"{one.residual:.2g}, largest {one.worst:+.2g}.",
    ]
    if one.note:
      text += ["", one.note]
  return text


def as_dict(runs: Runs, found: list[Fit]) -> dict[str, Any]:
  """Every number, for JSON."""
  return {
    "runs": len(runs.loss_R),
    "clustered": runs.clustered,
    "fits": [dataclasses.asdict(one) for one in found],
  }
