"""Forecasts: written from the shorter lengths alone, held against the longer ones."""

import dataclasses
import json

import numpy as np
import pytest
import studies
from scipy import stats

from crate_jax.errors import UserError
from crate_jax.scaling.report import forecast as forecast_lib
from crate_jax.scaling.report import output as output_lib
from crate_jax.scaling.report.analysis import Choice, analyse
from crate_jax.scaling.report.cells import grid
from crate_jax.scaling.uncertainty import Noise

FEW = Choice(draws=100)
LONGER = 9600
TOKENS = LONGER * studies.TOKENS_PER_STEP


@pytest.fixture(scope="module")
def rows():
  return studies.study(
    sizes=((1, 128), (2, 128)), seeds=(0, 1, 2, 3, 4), steps=(*studies.STEPS, 9600)
  )


@pytest.fixture(scope="module")
def shorter(rows):
  return [r for r in rows if r.steps < LONGER]


@pytest.fixture(scope="module")
def made(shorter):
  return forecast_lib.make(shorter, TOKENS, FEW)


def test_it_rests_on_the_shorter_runs_alone(rows, shorter, made):
  assert made["tokens"] == TOKENS
  assert made["cells"] == sorted(row.cell for row in shorter)
  other = [dataclasses.replace(r, variant="x") for r in rows if r.variant == "crate"]
  again = forecast_lib.make(shorter + other, TOKENS, FEW)
  assert {of["variant"] for of in again["losses"]} == {"crate", "gpt2"}  # x has been that far


def test_none_is_made_after_the_fact_or_over_another(rows, shorter, tmp_path):
  for late in (rows, [*shorter, dataclasses.replace(rows[-1], tokens=2 * TOKENS, cell="late")]):
    with pytest.raises(UserError, match=r"would come after the fact: .* has been trained"):
      forecast_lib.make(late, TOKENS, FEW)
  (tmp_path / "forecast.json").write_text("{}")
  with pytest.raises(UserError, match=r"forecast\.json is there already"):
    output_lib.write_forecast(shorter, str(LONGER), FEW, tmp_path, "c")
  assert (tmp_path / "forecast.json").read_text() == "{}"


def test_one_form_of_the_gap_is_enough(tmp_path):
  laws = {"crate": (2.8, 32.0, 0.2), "gpt2": studies.LAWS["gpt2"]}
  rows = studies.study(laws, seeds=(0, 1, 2, 3, 4), sizes=((1, 128), (2, 128)))
  assert all(len(gap.law.used) == 1 for gap in analyse(rows, FEW).gaps)
  truth = studies.law(laws["crate"], TOKENS) - studies.law(laws["gpt2"], TOKENS)
  for of in forecast_lib.make(rows, TOKENS, FEW)["gaps"]:
    assert of["low"] < truth < of["high"] and of["low"] < of["value"] < of["high"]


def test_heads_are_part_of_a_size(shorter):
  one = [r for r in shorter if r.layers == 2]
  more = [dataclasses.replace(r, heads=8, cell=f"{r.cell}-8", loss=r.loss + 0.1) for r in one]
  a = analyse(one + more, FEW)
  assert [str(gap.size) for gap in a.gaps] == ["2L x 128 x 4 heads", "2L x 128 x 8 heads"]
  both = forecast_lib.make(one + more, TOKENS, FEW)
  assert [of["heads"] for of in both["gaps"]] == [4, 8]
  assert any(line.startswith("CRATE, 2L x 128 x 8 heads: ") for line in forecast_lib.lines(both))
  assert [str(gap.size) for gap in analyse(one, FEW).gaps] == ["2L x 128"]


def test_known_laws_are_foreseen(made):
  assert len(made["losses"]) == 4 and len(made["gaps"]) == 2
  for of in made["losses"]:
    truth = studies.law(studies.LAWS[of["variant"]], TOKENS) + 0.1 * (of["layers"] == 1)
    assert of["low"] < truth < of["high"]
    assert of["low"] < of["value"] < of["high"] < of["low"] + 0.05
  for of in made["gaps"]:
    assert of["low"] < 0.2 < of["high"] < of["low"] + 0.05


def test_what_came_is_held_against_it(rows, shorter, made):
  cells, _ = grid(rows)
  scored = forecast_lib.score(made, cells)
  assert [of.what for of in scored] == ["crate", "crate", "gpt2", "gpt2", "gap", "gap"]
  for of in scored:
    ours = [
      r
      for r in rows
      if (r.layers, r.width, r.heads, r.steps)
      == (of.size.layers, of.size.width, of.size.heads, LONGER)
    ]
    by = {v: {r.seed: r.loss for r in ours if r.variant == v} for v in ("crate", "gpt2")}
    each = (
      [by["crate"][s] - by["gpt2"][s] for s in range(5)]
      if of.what == "gap"
      else list(by[of.what].values())
    )
    assert of.each == pytest.approx(each)
    assert of.observed.value == pytest.approx(sum(each) / 5)
    assert of.error == of.observed.value - of.predicted.value
    assert of.inside is True
  worse = [dataclasses.replace(r, loss=r.loss + (r.variant == "crate")) for r in rows]
  missed = forecast_lib.score(made, grid(worse)[0])
  assert [of.inside for of in missed] == [False, False, True, True, False, False]
  ahead = forecast_lib.score(made, grid(shorter)[0])
  assert all(of.observed is of.error is of.inside is None for of in ahead)


def test_it_goes_round_through_the_file_and_the_report(rows, shorter, tmp_path, monkeypatch):
  studies.drawn_as_a_pixel(monkeypatch)
  said = output_lib.write_forecast(shorter, str(LONGER), FEW, tmp_path, "the command")
  assert said.startswith("after 9.83 M tokens\nCRATE, 1L x 128: ")
  assert "from 100 shorter cells" in said
  forecast = forecast_lib.load(tmp_path / "forecast.json")
  assert forecast["command"] == "the command" and forecast["commit"]
  output_lib.write_report(shorter, FEW, tmp_path, tmp_path / "before", "c")
  before = (tmp_path / "before" / "plateau.md").read_text()
  assert "No run of that length is there yet" in before
  assert not (tmp_path / "before" / "forecast.png").exists()
  output_lib.write_report(rows, FEW, tmp_path, tmp_path / "after", "c")
  after = (tmp_path / "after" / "plateau.md").read_text()
  assert "6 of 6 observed means lie in their interval" in after
  assert "from 100 shorter cells, for 9.83 M tokens" in after
  assert (tmp_path / "after" / "forecast.png").exists()
  numbers = json.loads((tmp_path / "after" / "plateau.json").read_text())
  assert [of["inside"] for of in numbers["forecast"]] == [True] * 6


def test_without_enough_noise_it_has_no_interval(rows, shorter):
  made = forecast_lib.make([r for r in shorter if r.seed < 2], TOKENS, FEW)
  assert all(of["low"] is of["high"] is None for of in [*made["losses"], *made["gaps"]])
  scored = forecast_lib.score(made, grid(rows)[0])
  assert all(of.observed and of.error is not None and of.inside is None for of in scored)


@pytest.mark.parametrize(
  ("noise", "degrees"), [(Noise(0.03, 0.04, 12), 12), (Noise(0.03, 0.04, 12, 2), 2)]
)
def test_a_mean_of_new_seeds_is_as_unsure_as_the_noise_is_known(noise, degrees):
  """Student's t of the noise's own degrees of freedom, over three seeds."""
  drawn = forecast_lib._new_mean(noise, 3, 40_000, np.random.default_rng(0))
  wanted = stats.t.ppf(0.95, degrees) * 0.05 / 3**0.5
  assert np.quantile(drawn, 0.95) == pytest.approx(wanted, rel=0.03)


def test_a_run_that_repeats_its_text_is_marked(rows, made):
  many = [dataclasses.replace(r, epochs=9.0) if r.steps == LONGER else r for r in rows]
  assert all(of.repeated for of in forecast_lib.score(made, grid(many)[0]))
  assert not any(of.repeated for of in forecast_lib.score(made, grid(rows)[0]))


def test_steps_and_tokens(rows):
  for text in ("9600", " 9,600 ", "9830400tokens", "9.8304e6 tokens"):
    assert forecast_lib.target(text, rows) == TOKENS
  assert forecast_lib.target("48000", rows) == 48000 * 1024


@pytest.mark.parametrize(
  "text, said",
  [
    ("soon", "write a number of steps"),
    ("0", "write a number of steps"),
    ("-3", "write a number of steps"),
    ("1.2.3", "write a number of steps"),
    ("300", "no shorter run"),
    ("1e6", "more than 10 times the longest run before it, 9,830,400 tokens"),
  ],
)
def test_a_target_that_makes_no_sense_is_refused(rows, text, said):
  with pytest.raises(UserError, match=said):
    forecast_lib.target(text, rows)


def test_a_step_that_is_not_always_as_long_is_refused(rows):
  mixed = [dataclasses.replace(r, steps=r.steps * (1 + r.seed)) for r in rows]
  with pytest.raises(UserError, match="a step is not as many tokens in all runs"):
    forecast_lib.target("9600", mixed)
  assert forecast_lib.target("9830400tokens", mixed) == TOKENS


def test_too_few_lengths_are_refused(rows):
  with pytest.raises(UserError, match="four shorter lengths"):
    forecast_lib.make([r for r in rows if r.steps < 1200], 1200 * studies.TOKENS_PER_STEP, FEW)


@pytest.mark.parametrize("text", ["{", "[]", '{"tokens": 3}', '{"losses": [{"value": 1}]}'])
def test_a_file_that_is_no_forecast_is_refused(tmp_path, text):
  path = tmp_path / "forecast.json"
  assert forecast_lib.load(path) is None
  path.write_text(text)
  with pytest.raises(UserError, match=r"forecast\.json is not a forecast"):
    forecast_lib.load(path)


def test_the_size_is_kept(made):
  shapes = {(of["layers"], of["width"], of["heads"]) for of in made["losses"]}
  assert shapes == {(1, 128, 4), (2, 128, 4)}
