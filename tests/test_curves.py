import json
import subprocess
import sys

import conftest
import numpy as np
import pytest
import studies

from crate_jax.errors import UserError
from crate_jax.scaling import curves_fit, curves_read, fit, table

PUBLISHED = {"E": 1.8172, "A": 482.01, "alpha": 0.3478, "B": 2085.43, "beta": 0.3658}


def written(path, text):
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return path


def study(sizes=24, lengths=10, noise=0.0, seed=0):
  """Runs of the published law (Besiroglu et al. 2024), as text."""
  law = fit.SizeLaw(*map(np.asarray, PUBLISHED.values()))
  rng, lines = np.random.default_rng(seed), ["N,D,loss"]
  for n in np.geomspace(4.4e7, 1.6e10, sizes):
    for d in np.geomspace(2e9, 5e11, lengths):
      loss = law.loss(n, d) * np.exp(noise * rng.normal())
      lines.append(f"{n:.6e},{d:.6e},{loss:.12f}")
  return "\n".join(lines) + "\n"


def lengths_study(rows, extra="", lengths=5):
  """A law of length at each of some sizes, as text; `rows` are what stands before D and loss."""
  lines = [extra + "D,loss"]
  for i, row in enumerate(rows):
    for d in np.geomspace(1e6, 1.6e7, lengths):
      lines.append(f"{row}{d:.6e},{2.0 + 0.1 * i + 1.5 * (d / 4e6) ** -0.31:.12f}")
  return "\n".join(lines) + "\n"


def fits(path, draws=40):
  return curves_fit.fits(curves_read.read(path), draws, np.random.default_rng(0))


def command(*flags):
  return subprocess.run(
    [sys.executable, "-m", "crate_jax.scaling.curves", *map(str, flags)],
    cwd=conftest.ROOT, capture_output=True, text=True, timeout=300,
  )  # fmt: skip


def test_a_study_of_240_runs_gives_its_law_with_intervals(tmp_path):
  data = written(tmp_path / "runs.csv", study(noise=0.004))
  done = command(f"--data={data}", f"--out={tmp_path / 'fits'}", "--draws=200")
  assert done.returncode == 0, done.stderr
  made = json.loads((tmp_path / "fits" / "fit.json").read_text())
  (one,) = made["fits"]
  assert (one["runs"], one["clusters"], made["draws"], one["note"]) == (240, 240, 200, "")
  for name, value in PUBLISHED.items():
    number = one["numbers"][name]
    half = (number["high"] - number["low"]) / 2
    assert number["low"] < number["value"] < number["high"]
    assert abs(number["value"] - value) < 2 * half  # within 3.3 standard errors
  assert 0.003 < one["residual"] < 0.005 and "commit" in made
  a = one["numbers"]["a = beta / (alpha + beta)"]
  exponents = [one["numbers"][name]["value"] for name in ("alpha", "beta")]
  np.testing.assert_allclose(a["value"], exponents[1] / sum(exponents))
  table = (tmp_path / "fits" / "fit.md").read_text()
  row = f"| {a['value']:.4g} | {a['low']:.4g} to {a['high']:.4g} |"
  assert row in table and row in done.stdout


def test_a_study_without_noise_gives_back_what_was_planted(tmp_path):
  (one,) = fits(written(tmp_path / "runs.csv", study(5, 6)))
  for name, value in PUBLISHED.items():
    number = one.numbers[name]
    np.testing.assert_allclose([number.value, number.low, number.high], value, rtol=1e-4)


def test_without_n_the_law_is_one_of_length(tmp_path):
  path = written(tmp_path / "runs.csv", lengths_study([""]))
  (one,) = fits(path)
  np.testing.assert_allclose(one.numbers["beta"].value, 0.31, atol=1e-6)
  far = one.numbers["loss at 1.6e+08 tokens"]
  np.testing.assert_allclose(far.value, 2 + 1.5 * 40**-0.31, atol=1e-6)
  text = "\n".join(curves_fit.lines("runs.csv", curves_read.read(path), [one]))
  assert "L(N, D) is not identifiable: there is no column of N." in text


def test_two_sizes_give_a_law_of_length_each(tmp_path):
  path = written(tmp_path / "runs.csv", lengths_study(["1e6,", "2e6,"], "params,"))
  found = fits(path)
  np.testing.assert_allclose([one.numbers["E"].value for one in found], [2, 2.1], atol=1e-5)
  assert [one.what[-13:] for one in found] == ["N = 1,000,000", "N = 2,000,000"]
  text = "\n".join(curves_fit.lines("runs.csv", curves_read.read(path), found))
  assert "L(N, D) is not identifiable: 2 distinct N, and it needs three or more." in text


@pytest.mark.parametrize(
  "text",
  [
    "loss,D\n5,1e6\n4.5,2000000\n4.2,4.0e+06\n",
    "\ufeffVal Loss;Training Tokens;remark\n5;1e6;a\n\n4.5;2e6;\n4.2;4e6;x\n",
    'Tokens\tLOSS\r\n1e6\t5\r\n"2e6"\t4.5\r\n4e6\t4.2\r\n\r\n',
    "id, tokens , eval_loss\n7, 1e6, 5\n8, 2e6, 4.5\n9, 4e6, 4.2",
  ],
)
def test_columns_are_found_by_name_whatever_their_order_and_case(tmp_path, text):
  runs = curves_read.read(written(tmp_path / "runs.csv", text))
  np.testing.assert_array_equal(runs.tokens_R, [1e6, 2e6, 4e6])
  np.testing.assert_array_equal(runs.loss_R, [5, 4.5, 4.2])
  assert runs.params_R is None
  np.testing.assert_array_equal(runs.cluster_R, [0, 1, 2])


def test_runs_of_a_cluster_or_of_a_seed_and_n_are_drawn_together(tmp_path):
  rows = ["1e6,0,a", "1e6,1,a", "2e6,0,b", "2e6,0,a"]
  lines = [f"{row},{i + 1}e6,{5 - i}" for i, row in enumerate(rows)]
  by_seed = "\n".join(["N,seed,note,D,loss", *lines])
  by_name = "\n".join(["N,seed,cluster,D,loss", *lines])
  runs = curves_read.read(written(tmp_path / "a.csv", by_seed))
  np.testing.assert_array_equal(runs.cluster_R, [0, 1, 2, 2])
  assert runs.clustered == "runs of one seed and N"
  runs = curves_read.read(written(tmp_path / "b.csv", by_name))
  np.testing.assert_array_equal(runs.cluster_R, [0, 0, 1, 0])
  only = runs.of(np.array([False, False, True, True]))
  np.testing.assert_array_equal(only.cluster_R, [1, 0])
  np.testing.assert_array_equal(only.params_R, [2e6, 2e6])


def test_intervals_of_few_runs_are_labelled_or_refused(tmp_path):
  (one,) = fits(written(tmp_path / "five.csv", lengths_study([""])))
  assert "5 clusters for 3 numbers leave 2 degrees of freedom" in one.note and one.numbers["E"].low
  seeds = lengths_study(["0,", "1,", "2,"], "seed,")
  (one,) = fits(written(tmp_path / "seeds.csv", seeds))
  assert "**no intervals**" in one.note and one.numbers["E"].low is None
  (one,) = fits(written(tmp_path / "many.csv", lengths_study([""], lengths=15)))
  assert one.note == ""


def test_a_sweep_s_table_is_read_once_it_is_filtered_as_the_docs_say(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  rows = studies.study(seeds=(0, 1))
  table.write(tmp_path / "runs" / "plateau", [*rows, *studies.checks(rows)])
  with pytest.raises(UserError, match="runs of more than one variant, crate, gpt2"):
    curves_read.read(tmp_path / "runs" / "plateau" / "table.csv")
  docs = (conftest.ROOT / "docs" / "fits.md").read_text("utf-8")
  exec(docs.split("```python\n")[1].split("```")[0], {})
  runs = curves_read.read(tmp_path / "crate.csv")
  assert sorted(runs.loss_R) == sorted(r.loss for r in rows if r.variant == "crate")
  assert runs.clustered == "runs of one seed and N"


def test_what_a_cluster_shares_is_no_news_from_each_of_its_runs(tmp_path):
  rng, lines = np.random.default_rng(0), []
  for seed in range(20):
    trunk = 0.02 * rng.normal()
    for d in np.geomspace(1e6, 1.6e7, 5):
      lines.append(f"{seed},{d:.6e},{2 + trunk + 1.5 * (d / 4e6) ** -0.31:.9f}")
  widths = {}
  for name in ("seed", "note"):
    path = written(tmp_path / f"{name}.csv", "\n".join([f"{name},D,loss", *lines]))
    (one,) = fits(path, 200)
    widths[name] = {key: number.high - number.low for key, number in one.numbers.items()}
  # Every seed's curve has the same shape, so all that is in doubt is the level: a median of 20.
  assert widths["seed"]["beta"] < widths["note"]["beta"] / 2
  expected = 2 * 1.645 * 0.02 * (np.pi / 2 / 20) ** 0.5
  assert 0.6 * expected < widths["seed"]["E"] < 1.6 * expected


@pytest.mark.parametrize(
  ("fall", "says"),
  [
    (0.1, "E stands at 0: **these"),
    (0.04, "beta stands at the edge of what is fitted (0.02 to 2)"),
  ],
)
def test_a_number_on_its_bound_is_said_to_be_undetermined(tmp_path, fall, says):
  text = "".join(f"{2**i}e6,{4 - fall * i}\n" for i in range(16))  # lines in log D
  (one,) = fits(written(tmp_path / "line.csv", "D,loss\n" + text))
  assert says in one.note


@pytest.mark.parametrize(
  ("text", "says"),
  [
    ("D,loss\n1e6,5\n2e6,x\n", "line 3, column 'loss': 'x' is not a positive number."),
    ("D,loss\n1e6,5\n\n-2,4\n", "line 4, column 'D': '-2' is not a positive number."),
    ("D,loss\n1e6,nan\n", "line 2, column 'loss': 'nan' is not a positive number."),
    ("n,D,loss\n,1e6,5\n", "line 2, column 'n': '' is not a positive number."),
    ("D,loss\n1e6,5,6\n", "line 2: 3 fields, where the first line names 2 columns."),
    ("D,value\n1e6,5\n", "has no column of loss, which may be named"),
    ("", "has no column of tokens, which may be named"),
    ("D,loss\n", "has no runs: its first line names columns, and none follows."),
    ("D,loss,tokens\n1,2,3\n", "has more than one column of tokens: 'D' and 'tokens'."),
    (
      "D,loss,variant\n1e6,5,crate\n1e6,4,gpt2\n",
      "more than one variant, crate, gpt2, which follow",
    ),
    ("Kind,D,loss\ngrid,1e6,5\ntrial,1e6,4\n", "more than one kind, grid, trial, which follow no"),
    (b"D,loss\n\xff\xfe,1\n", "is not a CSV in UTF-8"),
  ],
)
def test_a_wrong_file_is_named_with_line_and_column(tmp_path, text, says):
  path = written(tmp_path / "runs.csv", text)
  with pytest.raises(UserError) as error:
    curves_read.read(path)
  assert says in str(error.value) and str(path) in str(error.value)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("text", "says"),
  [
    (study(3, 2), "L(N, D) is not identifiable: 2 distinct D, and it needs three or more."),
    (lengths_study([""], lengths=3), "L(D) is not identifiable: 3 distinct lengths"),
    (
      "N,D,loss\n" + "".join(f"{2**i}e6,{20 * 2**i}e6,{5 - i / 9}\n" for i in range(7)),
      "D / N is the same in every run",
    ),
  ],
)
def test_what_is_not_identifiable_is_said_so(tmp_path, text, says):
  with pytest.raises(UserError) as error:
    fits(written(tmp_path / "runs.csv", text))
  assert says in str(error.value)


def test_the_command_ends_with_one_sentence(tmp_path):
  done = command(f"--data={tmp_path / 'none.csv'}", f"--out={tmp_path}")
  assert done.returncode == 1
  assert done.stderr == f"error: --data={tmp_path / 'none.csv'}: there is no such file.\n"
