"""The words of `scaling.plateau`'s answer, each by numbers that allow it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import studies

from crate_jax.page import Picture
from crate_jax.scaling.report import gap as gap_lib
from crate_jax.scaling.report import sections as sections_lib
from crate_jax.scaling.report import tables as tables_lib
from crate_jax.scaling.report import words
from crate_jax.scaling.report.analysis import Choice, analyse
from crate_jax.scaling.report.cells import Estimate, Size
from crate_jax.scaling.report.gap import Extrapolation, Point, SizeGap
from crate_jax.scaling.report.laws import Line

SURE, UNSURE = Estimate(0.2, 0.19, 0.21), Estimate(0.01, -0.01, 0.03)
NARROWS, WIDENS = Estimate(-0.02, -0.03, -0.01), Estimate(0.02, 0.01, 0.03)


def gap(last=SURE, slope=UNSURE, chance=0.5, repeated=False, law=True):
  """A gap whose last length and whose probability are these."""
  point = Point(1_000_000, repeated, [0, 1, 2], [0.2] * 3, last, None)
  fitted = Extrapolation(
    0.1, 1.0, 0.3, {}, [], Line([], []), SURE, {2: 0.0, 5: 0.1, 10: chance}, None, None, "",
    lambda tokens: tokens, None,
  )  # fmt: skip
  return SizeGap(
    Size(2, 128, 4, "2L x 128"), [point], slope, slope, fitted if law else None, "why", []
  )


@pytest.mark.parametrize(
  "given, code, said",
  [
    (gap(repeated=True), "no pair", "cannot tell: no length"),
    (gap(Estimate(0.2)), "few", "cannot tell: a single seed"),
    (gap(Estimate(-0.1, -0.12, -0.08)), "crossed", "has caught up within these runs"),
    (gap(UNSURE), "level", "cannot tell which is lower"),
    (gap(law=False), "no law", "cannot tell beyond the longest run"),
    (gap(chance=None), "no law", "cannot tell beyond the longest run"),
    (gap(chance=0.95), "closes", "catches up before 10 x"),
    (gap(chance=0.949, slope=NARROWS), "open", "the gap narrows, but cannot tell"),
    (gap(chance=0.051), "open", "cannot tell whether it closes"),
    (gap(chance=0.05), "stays", "the gap does not close before 10 x"),
    (gap(chance=0.0, slope=NARROWS), "stays", "the gap narrows, and does not close"),
    (gap(chance=0.0, slope=WIDENS), "stays", "the gap widens"),
  ],
)
def test_a_verdict_is_the_first_rule_that_holds(given, code, said):
  verdict = words.verdict(given)
  assert verdict.code == code and said in verdict.words
  trends = {SURE: "widens", NARROWS: "narrows", WIDENS: "widens", UNSURE: "unclear"}
  assert verdict.trend == trends[given.slope]


def headline(*gaps):
  sizes = [f"{i}L x 128" for i in range(1, len(gaps) + 1)]
  return words.headline([words.verdict(g) for g in gaps], sizes, "crate", "gpt2")


def test_the_headline_says_yes_no_or_that_it_cannot_tell():
  crossed, closes = gap(Estimate(-0.1, -0.12, -0.08)), gap(chance=1.0)
  stays, opened = gap(chance=0.0), gap(chance=0.5)
  assert headline(crossed, crossed).startswith("**Yes: CRATE has caught up with GPT-2")
  assert headline(closes).startswith("**Probably yes: if the fitted law of the gap holds")
  assert headline(stays, stays).startswith("**No: if the fitted law of the gap holds")
  assert headline(stays, closes) == (
    "**Whether more training lets CRATE catch up with GPT-2 depends on the size.** At 1L x 128: "
    "the gap does not close before 10 x the longest run. At 2L x 128: catches up before 10 x the "
    "longest run."
  )
  assert headline(opened, opened) == (
    "**These runs cannot tell whether more training would let CRATE catch up with GPT-2.** At "
    "every size: cannot tell whether it closes before 10 x the longest."
  )
  assert headline(stays, opened).startswith("**These runs cannot tell for every size whether")
  assert headline(gap(Estimate(0.2))).startswith("**These runs cannot tell whether")
  assert "no size, length and seed" in headline()


@pytest.mark.parametrize(
  "end, said",
  [
    (Estimate(-0.1, -0.12, -0.08), "CRATE has not plateaued at 2L x 128: its loss still falls, by "
     "0.100 nats"),
    (Estimate(-0.002, -0.008, -0.001), "CRATE has plateaued at 2L x 128: its loss changes by "
     "-0.002 nats per doubling of the tokens at the longest run, and certainly by less than 0.01"),
    (Estimate(0.1, 0.08, 0.12), "CRATE's loss rises at 2L x 128, by 0.100"),
    (Estimate(-0.1, -0.3, 0.1), "these runs cannot tell: its loss changes by -0.100 nats per "
     "doubling at the longest run, and the interval has zero in it"),
    (Estimate(-0.1), "one seed says nothing"),
    (None, "it takes two lengths"),
  ],
)  # fmt: skip
def test_a_plateau_is_claimed_only_where_the_fall_is_certainly_small(end, said):
  assert said in words.plateau([("2L x 128", end)], "crate")


def test_sizes_that_differ_are_named():
  falls = Estimate(-0.1, -0.12, -0.08)
  assert "at any size" in words.plateau([("a", falls), ("b", falls)], "crate")
  mixed = words.plateau([("a", falls), ("b", Estimate(-0.1)), ("c", falls)], "crate")
  assert mixed.startswith("CRATE has not plateaued at a and c:")
  assert "Whether CRATE has plateaued at b these runs cannot tell" in mixed


SEEDS = (0, 1, 2, 3, 4)
STUDIES = {
  "No: ": ({"crate": (3.2, 60.0, 0.28)}, {}),
  "Yes: ": ({"crate": (3.0, 400.0, 0.42)}, {}),
  "Probably yes: ": ({"crate": (2.95, 110.0, 0.31)}, {}),
  "These runs cannot tell whether": (
    {"crate": (2.95, 80.0, 0.29)},
    {"trunk": 0.03, "branch": 0.015},
  ),
  "These runs cannot tell": ({"crate": (3.01, 60.0, 0.28)}, {"trunk": 0.05, "branch": 0.03}),
}


@pytest.mark.parametrize("start", STUDIES)
def test_known_laws_are_answered(start):
  laws, noise = STUDIES[start]
  laws = {**laws, "gpt2": studies.LAWS["gpt2"]}
  rows = studies.study(laws, ((1, 128), (2, 128)), seeds=SEEDS, **noise)
  answer = sections_lib.answer(analyse(rows, Choice(draws=60)))
  assert answer.startswith(f"**{start}")
  assert "2L x 128, after 4.92 M tokens, CRATE's loss less GPT-2's is" in answer
  assert "5 seeds a cell, on the text with sha256 abababababab" in answer
  assert "more than 10 times the longest run (49.2 M tokens)" in answer
  assert answer.count("**") == 2


def test_a_form_that_does_not_fit_is_left_out():
  # The difference of two laws with other exponents is no law of the other form.
  laws = {"crate": (2.8, 32.0, 0.2), "gpt2": studies.LAWS["gpt2"]}
  a = analyse(studies.study(laws, seeds=SEEDS, sizes=((1, 128), (2, 128))), Choice(draws=40))
  for found in a.gaps:
    assert found.law.used == [gap_lib.DIFFERENCE]
    assert len(found.law.draws.at(1e6)) == 20
    assert found.law.ten.value == np.median(found.law.draws.at(10 * found.fitted[-1].tokens))
    tokens = 10 * 4800 * studies.TOKENS_PER_STEP
    truth = studies.law(laws["crate"], tokens) - studies.law(laws["gpt2"], tokens)
    assert found.law.ten.low < truth < found.law.ten.high
  (caption,) = captions(a)
  assert "line and band: median and 90 % interval of draws of the difference of two laws" in caption
  assert all(row[3].endswith(" (rejected)") for row in tables_lib.extrapolations(a).rows)


def captions(a):
  """Of the picture of the gap."""
  pictures = dict.fromkeys(("curves", "gap", "crossing", "cost"), Path("a.png"))
  facts = dict.fromkeys(("commit", "device", "jax", "command"), "")
  blocks = sections_lib.blocks(a, None, [], pictures, {}, facts)
  return [b.caption for b in blocks if isinstance(b, Picture) and b.caption.startswith("The gap")]


def test_the_caption_of_the_gap_says_what_its_lines_are():
  a = analyse(studies.study(seeds=SEEDS, sizes=((1, 128), (2, 128))), Choice(draws=40))
  both = "draws of g + k D^-gamma and the difference of two laws L(D); shaded"
  assert [g.law.used for g in a.gaps] == [[gap_lib.DIRECT, gap_lib.DIFFERENCE]] * 2
  assert both in captions(a)[0]
  for found in a.gaps:
    draws = found.law.draws.at(np.array(found.law.line.tokens))
    assert found.law.line.value == pytest.approx(np.median(draws, axis=0))
    assert found.law.ten.low < found.law.ten.value < found.law.ten.high
  assert not any("rejected" in row[3] for row in tables_lib.extrapolations(a).rows)
  first, second = a.gaps
  law = dataclasses.replace(second.law, draws=None, used=[])
  mixed = dataclasses.replace(a, gaps=[first, dataclasses.replace(second, law=law)])
  assert captions(mixed)[0].endswith(
    "line and band: at 1L x 128 median and 90 % interval of draws of g + k D^-gamma and the "
    "difference of two laws L(D); at 2L x 128 g + k D^-gamma, which does not fit, without "
    "interval; shaded: extrapolation, up to ten times the longest run."
  )


def test_numbers_for_people():
  assert [words.count(n) for n in (300, 9_999, 12_345, 4_915_200, 157e9, 1.2e12)] == [
    "300", "9,999", "12.3 k", "4.92 M", "157 B", "1.2 T",
  ]  # fmt: skip
  assert words.number(-0.0001) == "0.000"
  assert words.between(Estimate(0.1234, 0.1, 0.2)) == "0.123 (0.100 to 0.200)"
  assert words.between(Estimate(0.1)) == "0.100 (no interval)"
  assert words.listed(["a"]) == "a" and words.listed("abc") == "a, b and c"
  assert [words.probability(p) for p in (None, 0.0, 0.5, 1.0)] == ["-", "< 0.01", "0.50", "> 0.99"]
  assert (words.name("gpt2"), words.name("tost")) == ("GPT-2", "tost")
