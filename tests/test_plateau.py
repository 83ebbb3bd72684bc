"""`scaling.plateau` on tables whose laws are known, against NumPy by hand."""

import dataclasses
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
from crate_jax.scaling import table
from crate_jax.scaling.report import analysis as analysis_lib
from crate_jax.scaling.report import output as output_lib
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


def test_the_page_is_well_formed_and_fetches_nothing(written):
  text = (written / "plateau.html").read_text("utf-8")
  reader = studies.Reader()
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


def test_what_is_no_study_is_refused_in_a_sentence(rows):
  with pytest.raises(UserError, match="no cell of the grid"):
    analyse(studies.trials(), FEW)
  with pytest.raises(UserError, match=r"crate-1x128x4-300-seed0 and again are one variant"):
    analyse([*rows, dataclasses.replace(rows[0], cell="again")], FEW)
  with pytest.raises(UserError, match=r"Neither --crate=a nor --gpt2=b .* crate, gpt2"):
    analyse(rows, Choice("a", "b"))


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
