"""`scaling.plateau` on tables whose laws are known, against NumPy by hand."""

import dataclasses
import html.parser
import itertools
import json
import math
import subprocess
import sys

import conftest
import numpy as np
import pytest
import studies
from scipy import stats

from crate_jax.errors import UserError
from crate_jax.scaling import fit, table
from crate_jax.scaling.report import analysis as analysis_lib
from crate_jax.scaling.report import checklist as checklist_lib
from crate_jax.scaling.report import laws as laws_lib
from crate_jax.scaling.report import output as output_lib
from crate_jax.scaling.report import sections as sections_lib
from crate_jax.scaling.report.analysis import Choice, analyse
from crate_jax.scaling.report.cells import Size

SIZES = ((1, 128), (2, 128), (2, 64))
SIZE = Size(2, 128, 4, "2L x 128")
SEEDS = (0, 1, 2, 3, 4)
FEW = Choice(draws=40)
TOKENS = [steps * studies.TOKENS_PER_STEP for steps in studies.STEPS]


@pytest.fixture(scope="module")
def rows():
  return studies.study(sizes=SIZES, seeds=SEEDS)


@pytest.fixture(scope="module")
def full(rows):
  """Everything that a table may hold."""
  longer = studies.study(sizes=((2, 128),), seeds=SEEDS, steps=(19200,))
  tried = studies.trials() + studies.trials("gpt2", ((0.002, 3.9), (0.004, 4.0), (0.008, math.inf)))
  return rows + longer + tried + studies.checks(rows)


@pytest.fixture(scope="module")
def written(full, tmp_path_factory):
  """A report's folder, with a forecast of the longest length that was made without it."""
  folder = tmp_path_factory.mktemp("plateau")
  shorter = [row for row in full if row.kind != "grid" or row.steps < 4800]
  output_lib.write_forecast(shorter, "4800", FEW, folder, "forecast")
  output_lib.write_report(full, FEW, folder, folder, "the command --as=typed")
  return folder


@pytest.fixture(scope="module")
def numbers(written):
  return json.loads((written / "plateau.json").read_text())


def interval(values):
  """Mean and Student's 90 % interval."""
  mean, error = np.mean(values), np.std(values, ddof=1) / np.sqrt(len(values))
  half = stats.t.ppf(0.95, len(values) - 1) * error
  return pytest.approx([mean, mean - half, mean + half], abs=1e-12)


def bounds(estimate):
  return [estimate["value"], estimate["low"], estimate["high"]]


def losses(rows, variant, size=(2, 128)):
  """(seeds, lengths) of the grid."""
  found = {
    (r.seed, r.tokens): r.loss for r in rows if (r.variant, r.layers, r.width) == (variant, *size)
  }
  return np.array([[found[seed, tokens] for tokens in TOKENS] for seed in SEEDS])


def of(listed, size=(2, 128), **chosen):
  """The one entry of the report's numbers that this is about."""
  found = [
    entry
    for entry in listed
    if (entry.get("size", entry)["layers"], entry.get("size", entry)["width"]) == size
    and all(entry[name] == value for name, value in chosen.items())
  ]
  assert len(found) == 1
  return found[0]


def test_losses_are_means_over_seeds_with_students_interval(numbers, rows):
  expected = losses(rows, "crate")
  for i, tokens in enumerate(TOKENS):
    cell = of(numbers["cells"], variant="crate", tokens=tokens)
    assert bounds(cell["loss"]) == interval(expected[:, i])
    first = next(r for r in rows if r.cell == cell["names"][0])
    assert cell["flops"] == first.flops_per_token * tokens
    assert cell["epochs"] == pytest.approx(first.epochs)


def test_gaps_pair_the_seeds(numbers, rows):
  expected = losses(rows, "crate") - losses(rows, "gpt2")
  gap = of(numbers["gaps"])
  fitted = [point for point in gap["points"] if not point["repeated"]]
  assert [point["tokens"] for point in fitted] == TOKENS
  for i, point in enumerate(fitted):
    assert point["each"] == pytest.approx(list(expected[:, i]), abs=1e-12)
    assert bounds(point["gap"]) == interval(expected[:, i])
    assert point["works"]["low"] < point["gap"]["value"] < point["works"]["high"]
    assert point["works"]["value"] == pytest.approx(point["gap"]["value"], abs=1e-9)


def test_slopes_are_least_squares_of_every_seed(numbers, rows):
  expected = losses(rows, "crate") - losses(rows, "gpt2")
  slopes = [np.polyfit(np.log2(TOKENS), gap, 1)[0] for gap in expected]
  gap = of(numbers["gaps"])
  assert bounds(gap["slope"]) == interval(slopes)
  assert bounds(gap["end"]) == interval(expected[:, -1] - expected[:, -2])
  curve = of(numbers["curves"], variant="gpt2")
  gpt2 = losses(rows, "gpt2")
  assert bounds(curve["end"]) == interval(gpt2[:, -1] - gpt2[:, -2])


def test_the_gap_at_equal_flops_and_seconds_is_interpolated_in_the_logarithm(numbers, rows):
  some = {r.variant: r for r in rows if (r.layers, r.width, r.steps, r.seed) == (2, 128, 1200, 0)}
  for name, per_token in (
    ("FLOPs", {v: r.flops_per_token for v, r in some.items()}),
    ("seconds", {v: r.seconds / r.tokens for v, r in some.items()}),
    ("tokens", {"crate": 1, "gpt2": 1}),
  ):
    axis = next(axis for axis in of(numbers["gaps"])["axes"] if axis["name"] == name)
    x = {v: np.array(TOKENS) * per for v, per in per_token.items()}
    assert axis["low"] == pytest.approx(max(x["crate"][0], x["gpt2"][0]))
    assert axis["high"] == pytest.approx(min(x["crate"][-1], x["gpt2"][-1]))
    for place, gap in zip(axis["places"], axis["gaps"], strict=True):
      a, b = (
        [np.interp(np.log(place), np.log(x[v]), one) for one in losses(rows, v)]
        for v in ("crate", "gpt2")
      )
      assert bounds(gap) == interval(np.subtract(a, b))


def test_laws_are_recovered_and_their_intervals_hold_them(numbers):
  for variant, (E, _, beta) in studies.LAWS.items():
    law = of(numbers["curves"], variant=variant)["law"]
    assert law["E"]["low"] < E < law["E"]["high"]
    assert law["beta"]["low"] < beta < law["beta"]["high"]
    assert law["E"]["value"] == pytest.approx(E, abs=0.1)
  gap = of(numbers["gaps"])
  assert gap["law"]["ten"]["low"] < 0.2 < gap["law"]["ten"]["high"]
  assert gap["law"]["before"] == {"2": 0.0, "5": 0.0, "10": 0.0}
  assert gap["floors"]["low"] < 0.2 < gap["floors"]["high"]
  assert [of(numbers["shared"])["E"]] == pytest.approx([3.1], abs=0.2)


def test_sizes_are_fitted_where_the_width_varies(numbers, rows):
  fitted = {of["variant"]: of for of in numbers["sizes"]}
  assert set(fitted) == {"crate", "gpt2"}
  assert fitted["crate"]["runs"] == len(SIZES) * len(TOKENS)
  depths = analyse([row for row in rows if row.width == 128], FEW)
  assert all(s.missing.startswith("not identifiable") and not s.numbers for s in depths.sizes)


def test_what_is_repeated_is_shown_and_moves_no_fit(rows, full, numbers):
  a, b = analyse(rows, FEW), analyse(full, FEW)
  assert analysis_lib.as_dict(a)["curves"] == analysis_lib.as_dict(b)["curves"]
  for x, y in zip(a.gaps, b.gaps, strict=True):
    assert (x.slope, x.end, x.axes) == (y.slope, y.end, y.axes)
    assert x.law and y.law and (x.law.line, x.law.ten) == (y.law.line, y.law.ten)
  assert a.noise == b.noise and a.noise_of_gap == b.noise_of_gap
  assert a.sizes == b.sizes and a.verdicts == b.verdicts
  shown = [cell for cell in numbers["cells"] if cell["repeated"]]
  assert [cell["tokens"] for cell in shown] == [19200 * 1024] * 2
  assert [p["tokens"] for p in of(numbers["gaps"])["points"] if p["repeated"]] == [19200 * 1024]


def test_checks_and_trials(numbers, rows):
  checked = {check["beside"]: check for check in numbers["checks"]}
  assert len(checked) == 2 * len(SIZES)
  for row in rows:
    if row.cell in checked:
      assert checked[row.cell]["wsd"] == row.loss
      assert checked[row.cell]["cosine"] == pytest.approx(row.loss + 0.003)
  crate, gpt2 = numbers["trials"]
  assert (crate["best"], crate["interior"]) == (0.004, True)
  assert (gpt2["best"], gpt2["interior"]) == (0.002, False)
  assert gpt2["losses"][-1] is None  # it diverged


def test_a_check_without_a_branch_is_named(rows):
  lonely = [r for r in rows if not (r.variant == "crate" and r.steps == 1200)]
  a = analyse(lonely + studies.checks(rows), FEW)
  assert sorted(a.alone) == sorted(
    f"crate-{layers}x{width}x4-1200-seed0-cosine" for layers, width in SIZES
  )


def test_the_gaps_noise_is_borrowed_only_where_the_pairs_are_too_few(rows):
  assert not analyse(rows, FEW).borrowed
  fewer = analyse([row for row in rows if row.seed < 3], FEW)  # 6 and 12 degrees of freedom
  assert fewer.borrowed
  assert fewer.noise.degrees == fewer.noise_of_gap.degrees == 12
  assert fewer.noise_of_gap.branch == pytest.approx(math.sqrt(2) * fewer.noise.branch)
  fewest = analyse([row for row in rows if row.seed < 2], FEW)
  assert not fewest.borrowed and fewest.noise.degrees == 6
  assert all("6 degrees of freedom" in curve.missing for curve in fewest.curves)
  assert all(curve.law.E.low is None for curve in fewest.curves)
  assert all(gap.law.before[10] is None for gap in fewest.gaps)


class Reader(html.parser.HTMLParser):
  """Sees that every tag is closed in its turn, and notes what the page would fetch."""

  VOID = frozenset({"meta", "img"})

  def __init__(self):
    super().__init__()
    self.open, self.asked, self.cells = [], [], []

  def handle_starttag(self, tag, attrs):
    self.asked += [v for name, v in attrs if name in ("src", "href", "data", "action", "srcset")]
    assert tag not in ("link", "script", "iframe", "object")
    if tag == "tr":
      self.cells.append(0)
    if tag in ("td", "th"):
      self.cells[-1] += 1
    if tag == "table":
      self.cells.append(None)
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def test_the_page_is_well_formed_and_fetches_nothing(written):
  text = (written / "plateau.html").read_text("utf-8")
  reader = Reader()
  reader.feed(text)
  reader.close()
  assert not reader.open
  assert len(reader.asked) == 5  # pictures
  assert all(value.startswith("data:image/png;base64,") for value in reader.asked)
  assert "@import" not in text and "url(" not in text
  tables = " ".join("|" if n is None else str(n) for n in reader.cells).split("|")
  assert all(len(set(t.split())) == 1 for t in tables if t.strip())  # no row lacks a cell


def test_the_markdown_has_every_section_and_picture(written):
  text = (written / "plateau.md").read_text("utf-8")
  for name in ("curves", "gap", "crossing", "forecast", "cost"):
    assert f"]({name}.png)" in text
    assert (written / f"{name}.png").read_bytes().startswith(b"\x89PNG")
  for said in (
    "# Has CRATE plateaued",
    "never fitted",
    "**Sensitivity**",
    "## The forecast",
    "diverged",
    "not recorded",
    "the command --as=typed",
    "## What papers on scaling laws leave out",
  ):
    assert said in text
  lines = text.splitlines()
  assert lines[2].startswith("**No: if the fitted law of the gap holds, CRATE does not catch up")
  assert not any("nan" in line.split() or "None" in line for line in lines)
  for one, other in itertools.pairwise(lines):
    if one.startswith("|") and other.startswith("|"):
      assert one.count(" | ") == other.count(" | ")


def test_the_same_table_gives_the_same_bytes(full, written, tmp_path):
  (tmp_path / "forecast.json").write_bytes((written / "forecast.json").read_bytes())
  shuffled = [full[i] for i in np.random.default_rng(0).permutation(len(full))]
  output_lib.write_report(shuffled, FEW, tmp_path, tmp_path, "the command --as=typed")
  for path in sorted(written.iterdir()):
    assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


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
  Reader().feed((tmp_path / "plateau.html").read_text("utf-8"))


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


def test_what_is_no_study_is_refused_in_a_sentence(rows):
  with pytest.raises(UserError, match="no cell of the grid"):
    analyse(studies.trials(), FEW)
  with pytest.raises(UserError, match=r"crate-1x128x4-300-seed0 and again are one variant"):
    analyse([*rows, dataclasses.replace(rows[0], cell="again")], FEW)
  with pytest.raises(UserError, match=r"Neither --crate=a nor --gpt2=b .* crate, gpt2"):
    analyse(rows, Choice("a", "b"))


def test_a_law_that_misses_the_means_gives_no_interval(rows):
  def bent(row):
    return dataclasses.replace(row, loss=row.loss + 0.1 * (row.steps in (600, 2400)))

  a = analyse([bent(row) if row.variant == "crate" else row for row in rows], FEW)
  curve = a.curve("crate", SIZE)
  assert curve.missing.startswith("no interval: the law does not fit") and curve.law.E.low is None
  assert a.curve("gpt2", SIZE).law.E.low is not None
  assert all(gap.law.used == [] and gap.law.before[10] is None for gap in a.gaps)
  assert {v.code for v in a.verdicts} == {"no law"}


def test_lengths_of_fewer_seeds_weigh_less_and_may_miss_more(rows):
  """The seeds of one length are cut to one, which is off: laws and their checks allow for it."""
  few = [r for r in rows if r.steps != 600 or r.seed == 0]
  few = [dataclasses.replace(r, loss=r.loss + 0.012) if r.steps == 600 else r for r in few]
  a = analyse(few, FEW)
  curve, noise = a.curve("crate", SIZE), a.noise
  weights = np.array(curve.seeds) / 5
  assert list(curve.seeds) == [5, 1, 5, 5, 5]
  loss = np.array([a.curve(v, SIZE).loss for v in ("crate", "gpt2")])
  expected = fit.fit_shared(np.array(curve.tokens, float), loss[:, None], weights)
  (shared,) = [of for of in a.shared if of.size == SIZE]
  np.testing.assert_allclose(shared.E, expected.E[0, 0])
  assert laws_lib.misfit(2.9 * noise.branch, noise, 1) == ""
  assert laws_lib.misfit(2.9 * noise.branch, noise, 5)
  equal = fit.fit_shared(np.array(curve.tokens, float), loss[:, None])
  assert abs(float(equal.E[0, 0]) - shared.E) > 1e-3
  cells = [c for c in a.cells if c.variant == "crate"]
  runs = [[c.rows[0].parameters, c.tokens, c.loss, len(c.rows) / 5] for c in cells]
  law = fit.fit_sizes(*np.array(runs).T)
  found = next(of for of in a.sizes if of.variant == "crate").numbers
  for name in ("alpha", "beta"):
    np.testing.assert_allclose(found[name].value, getattr(law, name))
  assert abs(found["beta"].value - fit.fit_sizes(*np.array(runs).T[:3]).beta) > 1e-4


RECIPE = {
  "model": {"context": 64},
  "data": {"tokenizer": "bpe", "bpe_vocab_size": 4096},
  "optimizer": {
    "decay_fraction": 0.2, "warmup_steps": 1500, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95,
  },
}  # fmt: skip
UNKNOWN = ("share of the decay", "optimiser, warm-up, weight decay", "tokenizer and vocabulary")


def test_the_checklist_takes_from_the_config_what_the_table_does_not_say(rows, tmp_path):
  a, path = analyse(rows, Choice(draws=20)), tmp_path / "config.json"

  def lines():
    return dict(checklist_lib.table(a, checklist_lib.recipe(path)).rows)

  assert {lines()[what] for what in UNKNOWN} == {"not recorded"}
  path.write_text(json.dumps(RECIPE))
  assert [lines()[what] for what in UNKNOWN] == [
    "the last 20% of a length",
    "AdamW, beta1 0.9, beta2 0.95; 1,500 steps of linear warm-up; weight decay 0.1",
    "bpe, at most 4,096 tokens, unless a prepared text brought its own",
  ]
  path.write_text(json.dumps({"data": {"tokenizer": "bytes"}, "optimizer": {"beta1": 0.9}}))
  assert [lines()[what] for what in UNKNOWN] == [
    "not recorded", "not recorded", "bytes, unless a prepared text brought its own",
  ]  # fmt: skip
  for text in ("{", "[]", '{"data": 3}'):
    path.write_text(text)
    with pytest.raises(UserError, match=r"config\.json is not the config of a sweep"):
      lines()


def command(*flags):
  return subprocess.run(
    [sys.executable, "-m", "crate_jax.scaling.plateau", *flags],
    cwd=conftest.ROOT, capture_output=True, text=True, timeout=240,
  )  # fmt: skip


def test_the_command_writes_the_report_and_names_what_is_wrong(tmp_path):
  none = command(f"--workdir={tmp_path}", f"--out={tmp_path / 'out'}")
  assert none.returncode == 1 and none.stderr.count("\n") == 1
  assert "table.parquet is not there" in none.stderr
  table.write(tmp_path, studies.study(seeds=range(8)))
  done = command(f"--workdir={tmp_path}", f"--out={tmp_path / 'out'}", "--draws=20", "--seed=3")
  assert done.returncode == 0, done.stderr
  assert not done.stderr
  assert done.stdout.startswith("No: if the fitted law of the gap holds")
  names = {path.name for path in (tmp_path / "out").iterdir()}
  pictures = {"curves.png", "gap.png", "crossing.png", "cost.png"}
  assert names == {"plateau.md", "plateau.html", "plateau.json", *pictures}
  numbers = json.loads((tmp_path / "out" / "plateau.json").read_text())
  assert (numbers["seed"], numbers["draws"]) == (3, 20)
  assert "--draws=20 --seed=3" in numbers["command"]
