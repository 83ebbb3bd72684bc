"""How answers on a blinded sheet are read and scored."""

import numpy as np
import pytest

from crate_jax.errors import UserError
from crate_jax.interpret import answers


def test_answers_are_scored_by_model_and_person():
  key = [{"model": m, "right": "ABCD"[i % 4]} for i in range(30) for m in ("one", "two")]
  right = [k["right"] for k in key]
  half = [r if k["model"] == "one" else "-" for r, k in zip(right, key, strict=True)]
  table, words = answers.report(key, {"a.csv": right, "b.csv": half})
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
  assert answers.fleiss(list(zip(*subjects, strict=True))) == pytest.approx(0.2099, abs=1e-4)
  assert np.isnan(answers.fleiss([["A", "B"]]))
  assert answers.fleiss([["A", "B"], ["A", "B"]]) == 1


def test_bad_answers_are_named_by_file_and_line(tmp_path):
  file = tmp_path / "anna.csv"
  file.write_text("question,answer\n1,a\n2,\n3,E\n")
  with pytest.raises(UserError, match=r"anna\.csv, line 4: 'E' is none of A, B, C, D and -"):
    answers.read(file, 3)
  file.write_text("question,answer\n9,A\n")
  with pytest.raises(UserError, match=r"anna\.csv, line 2: '9' is no question from 1 to 3"):
    answers.read(file, 3)
  file.write_text("question,answer\n1,a\n3,-\n")
  assert answers.read(file, 3) == ["A", "-", "-"]
  with pytest.raises(UserError, match="is missing"):
    answers.read(tmp_path / "none.csv", 3)
