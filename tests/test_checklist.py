import dataclasses
import json
import math

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


def test_sizes_whose_rate_was_tried_at_others_are_named():
  def line(sizes, trials):
    a = analyse(studies.study(sizes=sizes) + trials, Choice(draws=20))
    return dict(checklist_lib.table(a, {}).rows)["sizes at which no rate was tried"]

  assert line([(2, 128)], []) == "not recorded"
  of_crate = studies.trials()
  both = of_crate + studies.trials("gpt2")
  assert line([(2, 128)], both) == "none"
  assert line([(1, 128), (2, 128), (2, 64)], both) == (
    "CRATE 1L x 128, CRATE 2L x 64, GPT-2 1L x 128 and GPT-2 2L x 64: the nearest tried size's "
    "rate, or one between those of two"
  )
  assert line([(2, 128)], of_crate).startswith("GPT-2 2L x 128: ")


def test_a_run_that_diverged_has_no_tokens_and_no_text_to_be_listed():
  rows = studies.study(sizes=[(2, 128)])
  lost = dataclasses.replace(rows[0], kind="trial", loss=math.inf, loss_of_rates=math.inf)
  rows.append(dataclasses.replace(lost, cell="lost", learning_rate=0.1, tokens=0, text=""))
  lines = dict(checklist_lib.table(analyse(rows, Choice(draws=20)), {}).rows)
  assert lines["batch size"].startswith("1,024 tokens")
  assert lines["training text"] == "sha256 " + "ab" * 6
