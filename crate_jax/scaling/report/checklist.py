"""What papers on scaling laws tend to leave out, filled in from a sweep's table and config.

The list follows the survey "(Mis)Fitting" (Li et al. 2025, arXiv 2502.18969), which found that most
of more than fifty papers say nothing of several of these.
"""

import collections
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crate_jax.errors import UserError
from crate_jax.page import Table
from crate_jax.scaling import fit, uncertainty
from crate_jax.scaling.report import words
from crate_jax.scaling.report.analysis import Analysis
from crate_jax.scaling.report.cells import LEVEL, MOST_EPOCHS
from crate_jax.scaling.report.laws import SPREADS
from crate_jax.scaling.table import Row

NOT = "not recorded"
DECAY = "the last {:.0%} of a length"
OPTIMISER = "AdamW, beta1 {:g}, beta2 {:g}; {:,} steps of linear warm-up; weight decay {:g}"


def recipe(path: Path) -> dict[str, Any]:
  """The config that a sweep wrote down, by part and key; empty if there is none.

  Raises:
    UserError: the file is no config.
  """
  try:
    found = json.loads(path.read_text("utf-8"))
  except FileNotFoundError:
    return {}
  except ValueError as error:
    raise UserError(f"{path} is not the config of a sweep: {error}.") from error
  if not (isinstance(found, dict) and all(isinstance(of, dict) for of in found.values())):
    raise UserError(f"{path} is not the config of a sweep: it is not one of parts and keys.")
  return found


def table(a: Analysis, recipe: Mapping[str, Any]) -> Table:
  """Every line with what the table or the config says of it, or that they say nothing."""
  rows = [row for cell in a.cells for row in cell.rows]
  lines = [*_fits(a), *_models(rows), *_training(a, rows, recipe), *_evaluation(a, rows)]
  return Table(("what", "here"), lines, text=True)


def _fits(a: Analysis) -> list[tuple[str, str]]:
  fitted = sum(len(cell.rows) for cell in a.cells if not cell.repeated)
  all_rows = sum(len(cell.rows) for cell in a.cells)
  longest = max((curve.tokens[-1] for curve in a.curves), default=0)
  return [
    ("form fitted", "L(D) = E + B D^-beta for every variant and size; L(N, D) = E + A N^-alpha + "
     "B D^-beta where the width varies; the gap g + k D^-gamma"),
    ("loss of the fit", f"Huber, delta = {fit.HUBER:g}, of the residuals of log L (for the gap: "
     "see `crate_jax.scaling.fit`), on means over seeds"),
    ("optimiser and starts", "many exponents as starts, the rest by linear least squares, refined "
     "by damped Gauss-Newton steps; exponents within "
     f"{fit.EXPONENTS[0]:g} to {fit.EXPONENTS[1]:g}"),
    ("runs in the fits", f"{fitted} of {all_rows} cells; {all_rows - fitted} beyond "
     f"{MOST_EPOCHS:g} epochs are shown and not fitted"),
    ("runs dropped", f"{len(a.dropped)} without a finite loss"
     + (f": {', '.join(a.dropped)}" if a.dropped else "")),
    ("uncertainty", f"{words.percent(LEVEL)} intervals: Student's over seeds; parametric "
     f"bootstrap of {a.choice.draws:,} draws (seed {a.choice.seed}) for laws; the text's works "
     "drawn again"),
    ("noise between seeds", _noise(a)),
    ("range of extrapolation", f"to {uncertainty.OUTSIDE:.0f} times the longest run, "
     f"that is fitted, {words.count(uncertainty.OUTSIDE * longest)} tokens; nothing beyond"),
  ]  # fmt: skip


def _noise(a: Analysis) -> str:
  if not a.noise:
    return "not known: a single seed"
  said = (
    f"standard deviations {a.noise.trunk:.4f} nats that a seed's lengths share and "
    f"{a.noise.branch:.4f} of each cell, {a.noise.degrees} degrees of freedom"
  )
  if a.noise_of_gap:
    said += (
      f"; of the gap {a.noise_of_gap.trunk:.4f} and {a.noise_of_gap.branch:.4f}, "
      f"{a.noise_of_gap.degrees}"
    )
  if a.borrowed:
    said += ", that of two independent losses, because the pairs are too few"
  for (variant, size), noise in a.unlike.items():
    said += (
      f"; **{words.name(variant)} at {size} spreads more than the others** (F test, "
      f"p < {SPREADS:g}) and has {noise.trunk:.4f} and {noise.branch:.4f}"
    )
  return said


def _models(rows: Sequence[Row]) -> list[tuple[str, str]]:
  ratios = [row.tokens / row.parameters for row in rows if row.parameters]
  six_n = [row.flops_per_token / (6 * row.parameters) for row in rows if row.parameters]
  blocks = [row.block_parameters for row in rows]
  return [
    ("models", f"{len({(r.variant, r.layers, r.width, r.heads) for r in rows})} of "
     f"{words.listed(sorted({r.variant for r in rows}))}; "
     f"layers {_distinct(r.layers for r in rows)}; width {_distinct(r.width for r in rows)}; "
     f"heads {_distinct(r.heads for r in rows)}"),
    ("parameters counted", "as the paper does: the tied embedding is in, positions are not"),
    ("parameters", f"{_span([r.parameters for r in rows])}; in blocks {_span(blocks)}"),
    ("FLOPs", "of training, counted exactly for each architecture (`model/flops.py`), not 6 N D: "
     f"{_span(six_n, lambda x: f'{x:.2f}')} times that"),
    ("tokens per parameter", _span(ratios, lambda x: f"{x:.3g}")),
    ("neurons that are not zero", _nonzero(rows)),
  ]  # fmt: skip


def _nonzero(rows: Sequence[Row]) -> str:
  """Of every variant, the mean over layers and cells."""
  seen: dict[str, list[float]] = collections.defaultdict(list)
  for row in rows:
    seen[row.variant] += row.nonzero
  return "; ".join(f"{v} {sum(n) / len(n):.1%}" for v, n in sorted(seen.items()) if n) or NOT


def _training(a: Analysis, rows: Sequence[Row], recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
  tried = [f"{of.variant} {of.size}: {len(of.rates)} rates" for of in a.trials]
  ends = [f"{t.variant} {t.size}, {t.steps:,} steps" for t in a.trials if not t.interior]
  known = {(of.variant, of.size) for of in a.trials}
  lacking = [(c.variant, c.size) for c in a.cells if (c.variant, c.size) not in known]
  untried = [f"{words.name(variant)} {size}" for variant, size in dict.fromkeys(lacking)]
  lent = (
    f"{words.listed(untried or [NOT])}: the nearest tried size's rate, or one between those of two"
  )
  batches = {row.tokens / row.steps for row in rows if row.tokens}
  wsd = any(row.schedule == "wsd" for row in rows)
  return [
    ("schedule", _distinct(row.schedule for row in rows)
     + (": a constant rate, then a decay at the end of every length" if wsd else "")),
    ("share of the decay", _said(recipe, DECAY, "optimizer.decay_fraction")),
    ("learning rates", _distinct(f"{r.learning_rate:g}" for r in rows) + ", peak; tuned at "
     + ("; ".join(tried) if tried else "no size: the table has no trials")),
    ("sizes at which no rate was tried", lent if untried and tried else "none" if tried else NOT),
    ("best rate is the outermost tried", words.listed(ends) if ends else "none" if tried else NOT),
    ("batch size", f"{_distinct(f'{x:,.0f}' for x in batches)} tokens (tokens over steps)"),
    ("optimiser, warm-up, weight decay", _said(
      recipe, OPTIMISER, "optimizer.beta1", "optimizer.beta2", "optimizer.warmup_steps",
      "optimizer.weight_decay",
    )),
    ("training text", f"sha256 {_distinct(row.text[:12] for row in rows if row.text)}"),
    ("repetition", f"{_span([r.epochs for r in rows], lambda x: f'{x:.2f}')} epochs"),
    ("tokenizer and vocabulary", _tokenizer(recipe)),
  ]  # fmt: skip


def _said(recipe: Mapping[str, Any], form: str, *names: str) -> str:
  """A line of these keys of the config."""
  values = []
  for name in names:
    part, key = name.split(".")
    values.append(recipe.get(part, {}).get(key))
  return NOT if None in values else form.format(*values)


def _tokenizer(recipe: Mapping[str, Any]) -> str:
  form, keys = "{}", ["data.tokenizer"]
  if _said(recipe, form, *keys) == "bpe":
    form, keys = "{}, at most {:,} tokens", [*keys, "data.bpe_vocab_size"]
  return _said(recipe, form + ", unless a prepared text brought its own", *keys)


def _evaluation(a: Analysis, rows: Sequence[Row]) -> list[tuple[str, str]]:
  works = {tuple(row.work_tokens) for row in rows}
  one = works.pop() if len(works) == 1 else ()
  text = f"{len(one)} works, {sum(one):,} tokens scored, the same in every cell" if one else (
    NOT if not works else "not the same in every cell"
  )  # fmt: skip
  seeds = [len(cell.rows) for cell in a.cells]
  return [
    ("evaluation text", text),
    ("tuned on another text than evaluated", "yes, `loss_of_rates`" if a.trials else NOT),
    ("seeds", f"{_span(seeds, str)} for each cell: {_distinct(r.seed for r in rows)}"),
    ("hardware", _distinct(row.device for row in rows)),
    ("code", f"commit {_distinct(row.commit[:12] for row in rows)}, "
     f"jax {_distinct(row.jax for row in rows)}"),
    ("data of the fits", "the sweep's table.parquet and table.csv; plateau.json beside this"),
  ]  # fmt: skip


def _distinct(values: Iterable[object]) -> str:
  return ", ".join(map(str, sorted(set(values), key=lambda v: (str(type(v)), v)))) or NOT


def _span(values: Sequence[float], form: Callable[[float], str] = words.count) -> str:
  if not values:
    return NOT
  low, high = form(min(values)), form(max(values))
  return low if low == high else f"{low} to {high}"
