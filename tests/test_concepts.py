"""Concepts on a sentence, and areas under curves against all pairs."""

import numpy as np
import pytest

from crate_jax.data.tokenizer import make_tokenizer
from crate_jax.interpret import concepts, scores


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  text = ['He said, "The 12 cats (all red) are not running." Then she walked slowly.\n'] * 50
  return make_tokenizer("bpe", text, [], 420, tmp_path_factory.mktemp("cache"))


def test_concepts_hold_where_a_reader_says(tokenizer):
  text = 'He said, "The 12 cats (all red) are not running." Then she walked slowly.\n'
  tokens_T = tokenizer.encode(text)
  pieces = [tokenizer.decode([t]) for t in tokens_T]
  assert "".join(pieces) == text
  holds_TQ = concepts.concepts(tokens_T[None], tokenizer)[0]

  def where(name):
    at = np.flatnonzero(holds_TQ[:, concepts.NAMES.index(name)])
    return [pieces[i].strip() for i in at]

  assert where("comma") == [","]
  assert where("negation") == ["not"]
  assert where("article") == ["The"]
  assert set(where("pronoun")) == {"He", "she"}
  assert where("all capitals") == []
  assert where("line break") == [""] or where("line break") == [".\n".strip()]
  quoted = where("inside quotation marks")
  assert "cats" in quoted
  assert "she" not in quoted
  inside = where("inside brackets")
  assert "red" in inside
  assert "cats" not in inside
  assert all(any(c.isdigit() for c in piece) for piece in where("digit"))
  capital = concepts.NAMES.index("capital first")
  before = np.flatnonzero(holds_TQ[:, concepts.NAMES.index("before a capital")])
  assert all(holds_TQ[i + 1, capital] for i in before)
  assert holds_TQ[:8, concepts.NAMES.index("first eight of the window")].all()


def test_areas_are_shares_of_pairs_in_order():
  rng = np.random.default_rng(0)
  a_NM = np.maximum(rng.normal(size=(200, 3)), 0)
  holds_NQ = rng.random((200, 2)) < 0.3
  a_NM[holds_NQ[:, 0], 1] += 1
  got = concepts.areas(scores.ranks(a_NM), holds_NQ)
  for q in range(2):
    for m in range(3):
      yes, no = a_NM[holds_NQ[:, q], m], a_NM[~holds_NQ[:, q], m]
      above = (yes[:, None] > no).mean() + (yes[:, None] == no).mean() / 2
      assert got[q, m] == pytest.approx(above)
  rare_NQ = np.zeros((200, 1), bool)
  rare_NQ[:3] = True
  assert np.isnan(concepts.areas(scores.ranks(a_NM), rare_NQ)).all()


def test_probes_are_chosen_on_some_works_and_measured_on_others():
  chosen_QM = np.array([[0.9, 0.5, 0.2, np.nan], [0.6, 0.5, 0.3, np.nan]])
  measured_QM = np.array([[0.8, 0.5, 0.3, 0.5], [0.99, 0.5, 0.1, 0.5]])
  concept_M, area_M = concepts.probes(chosen_QM, measured_QM)
  assert concept_M.tolist() == [0, -1, 0, -1]
  np.testing.assert_allclose(area_M, [0.8, np.nan, 0.7, np.nan])
