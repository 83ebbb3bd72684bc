"""The blinded sheet, and how answers on it are scored."""

import json

import numpy as np
import pytest

from crate_jax.errors import UserError
from crate_jax.interpret import agreement, sheet


def neuron(unit, rng):
  """A neuron whose top excerpts hold token 1, as no random one does."""

  def excerpt(group, fires):
    tokens = rng.integers(2, 30, 8).tolist()
    if fires:
      tokens[5] = 1
    return {"group": group, "tokens": tokens, "values": [float(t == 1) for t in tokens]}

  excerpts = [excerpt("top", True) for _ in range(8)]
  excerpts += [excerpt("random, the same for every neuron", False) for _ in range(10)]
  return {"layer": 0, "unit": unit, "numbers": {"largest": 1.0}, "excerpts": excerpts}


@pytest.fixture
def made(tmp_path):
  rng = np.random.default_rng(0)
  tokens = {str(i): "<&>" if i == 1 else f" w{i}" for i in range(30)}
  models = []
  for name in ("one", "two"):
    folder = tmp_path / name
    folder.mkdir()
    pages = {"tokens": tokens, "neurons": [neuron(i, rng) for i in range(40)]}
    (folder / "pages.json").write_text(json.dumps(pages))
    models.append((name, folder / "pages.json"))
  count = sheet.write(tmp_path, models, 0)
  return tmp_path, count, json.loads((tmp_path / sheet.KEY).read_text())


def test_the_sheet_is_blinded_and_shows_both_models_alike(made):
  folder, count, key = made
  page = (folder / sheet.SHEET).read_text()
  assert count == len(key) == page.count("<fieldset>") == sheet.NEURONS
  assert sorted(k["model"] for k in key) == ["one"] * 30 + ["two"] * 30
  assert [k["model"] for k in key] != sorted(k["model"] for k in key)
  assert set("".join(k["right"] for k in key)) == set(sheet.CHOICES)
  assert "one" not in page.replace("When you are done", "").split("<form")[1].split("</form>")[0]
  # Only the right choice holds what the neuron fires on.
  for k, part in zip(key, page.split("<fieldset>")[1:], strict=True):
    choices = part.split("In which of these")[1].split('type="radio"')[1:-1]
    holds = [letter for letter, c in zip("ABCD", choices, strict=True) if "&lt;&amp;&gt;" in c]
    assert holds == [k["right"]]
    assert k["foil"] == 0


def test_a_neuron_that_hardly_fires_is_not_asked_about():
  rng = np.random.default_rng(0)
  silent = neuron(0, rng)
  silent["excerpts"] = silent["excerpts"][4:]
  assert sheet._question(silent, {str(i): "x" for i in range(30)}, rng) is None


def test_answers_are_scored_by_model_and_person(made):
  _, _, key = made
  right = [k["right"] for k in key]
  half = [r if k["model"] == "one" else "-" for r, k in zip(right, key, strict=True)]
  table, words = agreement.report(key, {"a.csv": right, "b.csv": half})
  cells = {(row[0], row[1]): row[2:] for row in table.rows}
  assert cells["one", "all"] == ("30", "100.0%", "100.0%, 100.0%")
  assert cells["two", "a.csv"][1] == "100.0%"
  assert cells["two", "b.csv"][1] == "0.0%"
  assert cells["two", "all"][1] == "50.0%"
  assert "25%" in words.text


def test_fleiss_kappa_is_that_of_his_example():
  """Fleiss 1971, ten subjects, fourteen raters, five categories: kappa 0.21."""
  counts = [
    (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
  ]  # fmt: skip
  subjects = [
    [letter for letter, n in zip("ABCD-", row, strict=True) for _ in range(n)] for row in counts
  ]
  assert agreement.fleiss(list(zip(*subjects, strict=True))) == pytest.approx(0.2099, abs=1e-4)
  assert np.isnan(agreement.fleiss([["A", "B"]]))
  assert agreement.fleiss([["A", "B"], ["A", "B"]]) == 1


def test_bad_answers_are_named_by_file_and_line(tmp_path):
  file = tmp_path / "anna.csv"
  file.write_text("question,answer\n1,a\n2,\n3,E\n")
  with pytest.raises(UserError, match=r"anna\.csv, line 4: 'E' is none of A, B, C, D and -"):
    agreement.read(file, 3)
  file.write_text("question,answer\n9,A\n")
  with pytest.raises(UserError, match=r"anna\.csv, line 2: '9' is no question from 1 to 3"):
    agreement.read(file, 3)
  file.write_text("question,answer\n1,a\n3,-\n")
  assert agreement.read(file, 3) == ["A", "-", "-"]
  with pytest.raises(UserError, match="is missing"):
    agreement.read(tmp_path / "none.csv", 3)
