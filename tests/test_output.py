"""Reports of parts of a table, and of odd ones."""

import dataclasses
import math

import pytest
import studies

from crate_jax.scaling.report import output as output_lib
from crate_jax.scaling.report import sections as sections_lib
from crate_jax.scaling.report.analysis import Choice, analyse

FEW = Choice(draws=40)


@pytest.fixture(scope="module")
def rows():
  return studies.study(sizes=((1, 128), (2, 128), (2, 64)), seeds=(0, 1, 2, 3, 4))


def without(name):
  return lambda row: row.variant != name


PARTS = {
  "one variant": (without("gpt2"), "has no gpt2"),
  "the other variant": (without("crate"), "has no crate"),
  "one seed": (lambda row: row.seed == 0, "one seed says nothing of how sure that is"),
  "two lengths": (lambda row: row.steps < 900, "no fit: 2 of the 4 lengths"),
  "one length": (lambda row: row.steps == 600, "it takes two lengths"),
  "one cell": (lambda row: row.cell == "gpt2-2x64x4-300-seed1", "it takes two lengths"),
  "other seeds": (
    lambda row: row.seed % 2 == (row.variant == "crate"),
    "no size, length and seed is in both",
  ),
  "other lengths": (
    lambda row: (row.steps in (300, 1200)) == (row.variant == "crate"),
    "no size, length and seed is in both",
  ),
  "a size in one only": (
    lambda row: row.variant == "crate" or row.width == 128,
    "Has CRATE plateaued",
  ),
  "a seed that ended early": (lambda row: row.seed < 4 or row.steps < 900, "Has CRATE plateaued"),
}


@pytest.mark.parametrize("name", PARTS)
def test_part_of_a_table_is_reported_and_what_lacks_is_said(rows, tmp_path, monkeypatch, name):
  keep, said = PARTS[name]
  if name not in ("one cell", "one seed", "one variant"):
    studies.drawn_as_a_pixel(monkeypatch)
  part = [row for row in rows if keep(row) and row.layers == 2]
  answer = output_lib.write_report(part, Choice(draws=20), tmp_path, tmp_path, "c")
  text = (tmp_path / "plateau.md").read_text("utf-8")
  assert said in text
  if name in ("a size in one only", "a seed that ended early"):
    assert answer.startswith("No: ")
  else:
    assert "cannot tell" in answer.splitlines()[0]
  studies.Reader().feed((tmp_path / "plateau.html").read_text("utf-8"))


def test_odd_tables_are_reported(rows, tmp_path, monkeypatch):
  """A third variant without works, a cell that diverged, runs without evaluations on their way."""
  studies.drawn_as_a_pixel(monkeypatch)
  some = [
    dataclasses.replace(r, curve_tokens=[], curve_loss=[]) if r.variant == "crate" else r
    for r in rows
    if (r.layers, r.width) == (2, 128)
  ]
  third = [
    dataclasses.replace(
      r, variant="x", cell=f"x{r.cell}", work_nats=[], work_tokens=[], nonzero=[], curve_tokens=[]
    )
    for r in some
    if r.seed == 1 and r.variant == "crate"
  ]
  dead = dataclasses.replace(rows[0], seed=9, loss=math.inf, tokens=0, cell="dead", parameters=0)
  output_lib.write_report([*some, *third, dead], Choice(draws=20), tmp_path, tmp_path, "c")
  text = (tmp_path / "plateau.md").read_text("utf-8")
  assert "1 without a finite loss: dead" in text
  assert "not the same in every cell" in text
  assert "| x | 2L x 128 |" in text


def test_a_text_that_is_only_repeated_answers_nothing(rows, tmp_path, monkeypatch):
  studies.drawn_as_a_pixel(monkeypatch)
  repeated = [dataclasses.replace(r, epochs=5.0) for r in rows if r.seed < 2 and r.width == 64]
  output_lib.write_report(repeated, Choice(draws=20), tmp_path, tmp_path, "c")
  text = (tmp_path / "plateau.md").read_text("utf-8")
  assert text.splitlines()[2].startswith("**These runs cannot tell whether")
  assert "0 of 20 cells; 20 beyond 4 epochs are shown and not fitted" in text


def test_texts_that_differ_are_said(rows):
  a = analyse([dataclasses.replace(r, text=("cd" if r.seed else "ab") * 32) for r in rows], FEW)
  assert "**These are different texts.**" in sections_lib.answer(a)
