import json
from pathlib import Path

import conftest
import pytest

from configs import base, shakespeare_char, tiny
from crate_jax import config as config_lib
from crate_jax.errors import UserError
from crate_jax.model import lm

CONFIGS = sorted(p.stem for p in Path(conftest.ROOT, "configs").glob("*.py"))


def test_every_config_resolves():
  assert CONFIGS == [
    "ablations",
    "base",
    "c4",
    "pile",
    "plateau",
    "plateau_pile",
    "shakespeare_char",
    "tiny",
  ]
  for config in (base, shakespeare_char, tiny):
    for argument in ([], ["gpt2" if config is not base else "1L,gpt2"]):
      resolved = config_lib.resolve(config.get_config(*argument), 200)
      assert resolved.model.architecture == ("gpt2" if argument else "crate")


@pytest.mark.parametrize("size", base.SIZES)
def test_base_takes_a_size_and_an_architecture(size):
  c = base.get_config(f"{size},gpt2").model
  assert (c.layers, c.architecture) == (base.SIZES[size][0], "gpt2")
  assert base.get_config(size).model.architecture == "crate"
  if size.endswith("L"):
    assert c.layers == int(size[:-1])
  else:  # the paper's proportions, and the size that the name says, for CRATE
    assert c.width == 64 * c.layers == 64 * c.heads
    count = lm.count_parameters(config_lib.resolve(base.get_config(size), 50257).model)["total"]
    assert count / 1e9 == pytest.approx(int(size[:-1]), rel=0.1)


def test_base_is_the_papers_recipe():
  c = config_lib.resolve(base.get_config(), 50257)
  assert (c.model.eta, c.model.lam, c.model.ista_steps) == (0.1, 0.1, 2)
  assert c.optimizer.final_learning_rate == pytest.approx(6e-5)
  assert c.train.steps * c.train.batch_size * c.model.context == 157_286_400_000


@pytest.mark.parametrize(
  ("argument", "sentence"),
  [
    ("5L", "Unknown size '5L'.*1L, 2L, 3L, 6L, 12L"),
    ("", "Unknown size ''"),
    ("6L,gpt3", "Unknown architecture 'gpt3'"),
  ],
)
def test_an_unknown_size_or_architecture_is_refused(argument, sentence):
  with pytest.raises(UserError, match=sentence):
    base.get_config(argument)


def test_every_key_of_base_has_a_comment():
  source = Path(base.__file__).read_text().splitlines()
  keys = [line for line in source if line.startswith("  ") and "." in line.split("=")[0]]
  assigned = [line for line in keys if " = " in line and not line.strip().startswith("#")]
  assert len(assigned) > 35
  assert [line for line in assigned if "  # " not in line and "ConfigDict()" not in line] == []


def test_derived_keys_follow_overrides():
  config = base.get_config("1L")
  config.optimizer.learning_rate = 1e-3
  config.model.vocab_size = None
  resolved = config_lib.resolve(config, 300)
  assert resolved.optimizer.final_learning_rate == pytest.approx(1e-4)
  assert resolved.model.vocab_size == 300
  config.optimizer.final_learning_rate = 3e-4
  assert config_lib.resolve(config, 300).optimizer.final_learning_rate == 3e-4


def test_a_resolved_config_survives_json():
  resolved = config_lib.resolve(base.get_config(), 50257)
  text = json.dumps(config_lib.to_dict(resolved))
  assert config_lib.from_dict(json.loads(text)) == resolved


@pytest.mark.parametrize(
  ("key", "value", "sentence"),
  [
    ("model.heads", 3, r"model\.heads=3 does not divide model\.width=128"),
    (
      "model.architecture",
      "gpt3",
      r"model\.architecture='gpt3' is not one of: crate, crate_complete, crate_alpha, tost",
    ),
    ("model.mixing", "attention", r"model\.mixing='attention' is not one of: mssa, mssa_query"),
    ("model.features", "glu", r"model\.features='glu' is not one of: ista, mlp, topk, none"),
    ("model.query_rank", 3, r"query_rank=3 only goes with model\.mixing=\"mssa_query\""),
    ("model.l1", 0.1, r"model\.l1=0\.1 only goes with model\.features=\"mlp\""),
    ("model.topk", 5, r"model\.topk=5 only goes with model\.features=\"topk\""),
    ("model.warm_start", True, r"complete dictionary: model\.overcompleteness=1, not 4"),
    ("model.decoder", "none", r"the codes the stream.*overcompleteness=1, not 4"),
    ("model.features", "mlp", r"model\.decoder='tied' contradicts model\.features='mlp'"),
    ("model.features", "none", r"keeps the stream: model\.decoder=\"none\""),
    ("model.lam", -1.0, r"model\.lam=-1\.0 not negative"),
    ("model.dtype", "float8", r"model\.dtype='float8'"),
    ("model.remat", "some", r"model\.remat='some'"),
    ("model.context", 1, r"model\.context=1 must be at least 2"),
    ("seed", -1, r"seed=-1 is not between 0"),
    ("model.attention", "flash", r"model\.attention='flash'"),
    ("model.layers", 0, r"model\.layers=0 must be at least 1"),
    ("model.layers", "two", r"model\.layers='two' must be of type int"),
    ("model.eta", -0.1, r"model\.eta=-0\.1"),
    ("model.vocab_size", 100, r"model\.vocab_size=100 is smaller than the tokenizer's 257"),
    ("optimizer.schedule", "linear", r"optimizer\.schedule='linear'"),
    ("optimizer.learning_rate", 0.0, r"optimizer\.learning_rate=0\.0 must be positive"),
    ("optimizer.decay_fraction", 1.5, r"optimizer\.decay_fraction=1\.5"),
    ("train.accumulation", 3, r"train\.accumulation=3 does not divide train\.batch_size=256"),
    ("train.steps", 0, r"train\.steps=0 must be at least 1"),
    ("train.steps", True, r"train\.steps=True must be of type int"),
    ("checkpoint.keep", 0, r"checkpoint\.keep=0"),
    ("model.lyers", 3, r"Unknown config key model\.lyers\. Did you mean model\.layers\?"),
    ("modle", 3, r"Unknown config key modle\. Did you mean model\?"),
  ],
)
def test_a_wrong_value_is_named(key, value, sentence):
  tree = base.get_config("1L").to_dict()
  *groups, name = key.split(".")
  at = tree
  for group in groups:
    at = at[group]
  at[name] = value
  with pytest.raises(UserError, match=sentence):
    config_lib.resolve(tree, 257)


@pytest.mark.parametrize(
  ("keys", "sentence"),
  [
    ({"architecture": "gpt2", "learned_eta": True}, "learned_eta=True only goes with"),
    ({"architecture": "gpt2", "nonnegative": False}, "nonnegative=False only goes with"),
    ({"architecture": "gpt2", "features": "topk"}, r"topk=0 is not from 1 to the 512 neurons"),
    ({"mixing": "mssa_query", "query_rank": 128}, r"query_rank=128 is not from 0"),
    ({"learned_lam": True, "lam": 0.0}, r"model\.lam=0 is no place to start from"),
  ],
)
def test_contradictions_are_refused_with_the_reason(keys, sentence):
  tree = base.get_config("1L").to_dict()
  tree["model"] |= keys
  with pytest.raises(UserError, match=sentence):
    config_lib.resolve(tree, 257)


def test_a_part_is_swapped_by_its_key_and_the_others_are_the_presets():
  tree = base.get_config("1L,gpt2").to_dict()
  tree["model"]["mixing"] = "mssa"
  c = config_lib.resolve(tree, 257).model
  assert (c.mixing, c.features, c.residual, c.bias) == ("mssa", "mlp", True, False)


@pytest.mark.parametrize("architecture", ["crate", "gpt2"])
def test_a_config_of_the_first_release_is_read_as_what_it_was(architecture):
  now = config_lib.resolve(base.get_config(f"2L,{architecture}"), 50257)
  old = config_lib.to_dict(now)
  later = """mixing query_rank bias features residual decoder warm_start nonnegative learned_eta
  learned_lam l1 topk"""
  old["model"] = {key: value for key, value in old["model"].items() if key not in later.split()}
  assert config_lib.from_dict(old) == now
  del old["model"]["width"]
  with pytest.raises(UserError, match=r"Config key model\.width is missing"):
    config_lib.from_dict(old)


def test_a_missing_key_is_named():
  tree = base.get_config("1L").to_dict()
  del tree["train"]["steps"]
  with pytest.raises(UserError, match=r"Config key train\.steps is missing"):
    config_lib.resolve(tree, 257)
  del tree["data"]
  with pytest.raises(UserError, match="no key data"):
    config_lib.data_config(tree)
