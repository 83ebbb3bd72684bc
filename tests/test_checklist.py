import json

import pytest
import studies

from crate_jax.errors import UserError
from crate_jax.scaling.report import checklist as checklist_lib
from crate_jax.scaling.report.analysis import Choice, analyse

RECIPE = {
  "model": {"context": 64},
  "data": {"tokenizer": "bpe", "bpe_vocab_size": 4096},
  "optimizer": {
    "decay_fraction": 0.2, "warmup_steps": 1500, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95,
  },
}  # fmt: skip
UNKNOWN = ("share of the decay", "optimiser, warm-up, weight decay", "tokenizer and vocabulary")


def test_the_checklist_takes_from_the_config_what_the_table_does_not_say(tmp_path):
  a, path = analyse(studies.study(), Choice(draws=20)), tmp_path / "config.json"

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


def test_a_size_whose_rate_was_tried_at_another_is_named():
  def line(sizes, trials):
    a = analyse(studies.study(sizes=sizes) + trials, Choice(draws=20))
    return dict(checklist_lib.table(a, {}).rows)["sizes at which no rate was tried"]

  assert line([(2, 128)], []) == "not recorded"
  assert line([(2, 128)], studies.trials()) == "none"
  assert line([(1, 128), (2, 128), (2, 64)], studies.trials()) == (
    "1L x 128 and 2L x 64, by the rate of those nearest in size"
  )
