import subprocess
import sys

import conftest
import exports
import models
import numpy as np
import official
import pytest
from official import Official, OfficialGPT2Block, as_nanogpt, as_safetensors, as_torch, torch

import crate_jax
from crate_jax.errors import UserError
from crate_jax.hf import exported, imported, names, source
from crate_jax.training import loop

tokenizer = official.tokenizer


def load(path, tokenizer=None, heads=None):
  """What the command does."""
  workdir = path.parent / f"{path.name} loaded"
  imported.write(source.read(path, tokenizer, heads), workdir)
  return crate_jax.load(workdir)


def agree(run, model, rows=3):
  tokens = models.tokens(run.model, rows=rows)
  with torch.no_grad():
    want = model(torch.from_numpy(tokens).long()).numpy()
  np.testing.assert_allclose(run.logits(tokens), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("write", [as_safetensors, as_torch, as_nanogpt])
def test_the_official_arithmetic_agrees(tmp_path, tokenizer, write):
  model = Official().randomized()
  run = load(write(model, tmp_path), tokenizer)
  c = run.config.model
  assert (c.architecture, c.heads, c.layers, c.context, c.vocab_size) == ("crate", 4, 2, 24, 264)
  assert run.step == 0 and run.tokenizer.vocab_size == 257
  agree(run, model)
  assert len(run.generate("ab", 5)) > 2


def test_it_agrees_at_the_init(tmp_path, tokenizer):
  model = Official()
  agree(load(as_safetensors(model, tmp_path), tokenizer), model)


def test_the_gpt2_baseline_agrees(tmp_path, tokenizer):
  model = Official(OfficialGPT2Block).randomized()
  run = load(as_nanogpt(model, tmp_path), tokenizer)
  assert run.config.model.architecture == "gpt2" and not run.config.model.bias
  agree(run, model)


def test_heads_are_read_given_or_asked_for(tmp_path, tokenizer):
  model = Official(d=32, heads=8).randomized()
  file = as_safetensors(model, tmp_path)
  with pytest.raises(UserError, match="how many heads a model of width 32 has: give --heads"):
    load(file, tokenizer)
  agree(load(file, tokenizer, heads=8), model)
  agree(load(as_nanogpt(model, tmp_path, n_head=8), tokenizer), model)
  with pytest.raises(UserError, match="heads=5 does not divide"):
    source.read(file, tokenizer, 5)


@models.family
def test_an_exported_folder_gives_the_run_back(tmp_path, name):
  run = exports.run(name)
  exported.write(run, tmp_path, tmp_path / "exported")
  found = source.read(tmp_path / "exported")
  left_out = {key: getattr(found.model, key) for key in names.LEFT_OUT}
  assert found.model == models.member(name, layers=2, vocab_size=260, **left_out).config
  want = names.to_torch(run.params, run.config.model)
  got = names.to_torch(found.params, found.model)
  assert want.keys() == got.keys()
  assert all(want[name].tobytes() == got[name].tobytes() for name in want)
  assert found.tokenizer.digest() == run.tokenizer.digest()


def test_a_loaded_folder_can_be_trained_from(tmp_path, text):
  run = exports.run(context=16)
  exported.write(run, tmp_path, tmp_path / "exported")
  loaded = load(tmp_path / "exported")
  tokens = models.tokens(run.model)
  np.testing.assert_array_equal(loaded.logits(tokens), run.logits(tokens))
  small = conftest.small_config(text)
  small.model.vocab_size = 260
  small.train.steps, small.optimizer.warmup_steps = 1, 0
  small.optimizer.learning_rate = 1e-30
  small.init_from = str(tmp_path / "exported loaded")
  loop.train(small, tmp_path / "more")
  np.testing.assert_allclose(
    crate_jax.load(tmp_path / "more").logits(tokens), run.logits(tokens), rtol=0, atol=1e-6
  )
  # In the loaded folder itself there is no run to go on with.
  small.init_from = ""
  with pytest.raises(UserError, match=r"holds a run with init_from='.*exported'"):
    loop.train(small, tmp_path / "exported loaded")


def test_the_command_says_what_it_did_and_what_it_cannot(tmp_path, tokenizer):
  def command(module, *arguments):
    done = subprocess.run(
      [sys.executable, "-m", f"crate_jax.{module}", *arguments],
      cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr

  file = as_safetensors(Official(), tmp_path)
  arguments = (f"--from={file}", f"--tokenizer={tokenizer}")
  code, said = command("hf.load", *arguments, "--workdir=loaded")
  assert code == 0 and "crate, 2 layers of width 128, 4 heads" in said, said
  code, said = command("hf.load", *arguments, "--workdir=loaded")
  assert (code, said) == (1, "error: --workdir=loaded is not empty: name a folder that is not "
                             "there yet.\n")  # fmt: skip
  code, said = command("evaluate", "--workdir=loaded")
  assert code == 1 and "'unknown, loaded from " in said and "no such file or folder" in said
