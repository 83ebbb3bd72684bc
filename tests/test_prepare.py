"""The command as a person runs it."""

import json

import pytest
from test_main import command

from crate_jax import lock
from crate_jax.data import preparation


def flags(text, out, *more):
  return (
    "--config=configs/tiny.py",
    f"--config.data.train={text}",
    "--config.data.tokenizer=bytes",
    f"--out={out}",
    *more,
  )


def test_prepare_then_train_then_evaluate(text, tmp_path):
  out = tmp_path / "data"
  first = command("prepare", *flags(text, out, "--config.data.validation_fraction=0.3"))
  assert first.returncode == 0, first.stderr
  manifest = json.loads((out / "manifest.json").read_text())
  there = manifest["splits"]["train"]
  assert f"train: {there['tokens']:,} tokens of {there['documents']} documents" in first.stdout
  again = command("prepare", *flags(text, out, "--config.data.validation_fraction=0.3"))
  assert again.returncode == 0 and "is prepared already" in again.stdout
  small = (
    *("--config=configs/tiny.py", "--config.model.width=16", "--config.model.heads=2"),
    *("--config.model.context=16", "--config.train.steps=4", "--config.evaluation.tokens=200"),
    *("--config.optimizer.warmup_steps=2", f"--config.data.prepared={out}"),
  )
  workdir = f"--workdir={tmp_path / 'run'}"
  trained = command("main", *small, workdir)
  assert trained.returncode == 0, trained.stderr
  result = json.loads((tmp_path / "run" / "result.json").read_text())
  assert result["data"]["train_tokens"] == there["tokens"]
  assert "nats per token" in command("evaluate", workdir).stdout


def test_a_second_preparation_of_a_folder_is_refused_and_told_by_whom(text, tmp_path):
  out = tmp_path / "data"
  with lock.held(out / preparation.PROGRESS, "it"):
    failed = command("prepare", *flags(text, out, "--config.data.validation_fraction=0.3"))
  assert failed.returncode == 1 and f"--out={out} is being written to by process " in failed.stderr
  assert not (out / "tokenizer.json").exists()  # before it trains one of its own
  done = command("prepare", *flags(text, out, "--config.data.validation_fraction=0.3"))
  assert done.returncode == 0, done.stderr
  assert not (out / preparation.PROGRESS).exists()


def test_a_wrong_tokenizer_leaves_nothing_that_refuses_the_right_one(text, tmp_path):
  out = tmp_path / "data"
  failed = command("prepare", *flags(text, out, "--config.data.tokenizer=byte"))
  assert failed.returncode == 1 and "data.tokenizer='byte' is not one of" in failed.stderr
  done = command("prepare", *flags(text, out, "--config.data.validation_fraction=0.3"))
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
  ("change", "sentence"),
  [
    ("--config.data.train=nothing", "data.train='nothing': there is no such file or folder"),
    ("--config.data.tokenizer=nothing", "data.tokenizer='nothing' is not one of: characters,"),
    ("--config.data.trian=x", "Unknown config key data.trian. Did you mean data.train?"),
    ("--config.data.validation_fraction=2", "data.validation_fraction=2.0 is not between 0 and 1"),
    ("--out=setup.cfg", "--out=setup.cfg is a file, not a folder"),
  ],
)
def test_one_sentence_says_what_is_wrong(text, tmp_path, change, sentence):
  failed = command("prepare", *flags(text, tmp_path / "out", change))
  assert failed.returncode == 1 and sentence in failed.stderr and "Traceback" not in failed.stderr


def test_a_config_whose_data_is_not_prepared_says_how(tmp_path):
  for config, sentence in (
    ("configs/base.py", "The config names no text: `python -m crate_jax.prepare --config=configs/"),
    ("configs/pile.py", "data.prepared='data/pile' is not there: `python -m crate_jax.prepare"),
    ("configs/c4.py", "data.prepared='data/c4' is not there: `python -m crate_jax.prepare"),
  ):
    failed = command("main", f"--config={config}", f"--workdir={tmp_path}")
    assert failed.returncode == 1, failed.stdout
    assert sentence in failed.stderr and "python_stdlib" in failed.stderr
