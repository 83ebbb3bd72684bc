import conftest
import numpy as np
import pytest

import crate_jax
from crate_jax.errors import UserError
from crate_jax.training import loop


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  loop.train(conftest.small_config(conftest.write_text(folder / "text.txt")), folder)
  return folder


def test_load_gives_model_parameters_tokenizer_and_config(workdir):
  run = crate_jax.load(workdir)
  assert (run.step, run.config.model.layers) == (10, 2)
  tokens = run.tokenizer.encode("the cat sat")[None]
  logits = run.logits(tokens)
  assert logits.shape == (1, 11, 257)
  np.testing.assert_allclose(
    logits, run.model.apply({"params": run.params}, tokens), rtol=1e-5, atol=1e-6
  )


def test_an_older_step_is_another_model(workdir):
  older, newer = crate_jax.load(workdir, 5), crate_jax.load(workdir)
  tokens = newer.tokenizer.encode("the cat")
  assert older.step == 5 and older.loss(tokens).nats > newer.loss(tokens).nats
  with pytest.raises(UserError, match=r"no checkpoint of step 7; it has \[5, 10\]"):
    crate_jax.load(workdir, 7)


def test_generate_continues_the_prompt_reproducibly(workdir):
  run = crate_jax.load(workdir)
  sample = run.generate("the cat", 20, seed=1)
  assert sample.startswith("the cat") and len(sample) > len("the cat")
  assert sample == run.generate("the cat", 20, seed=1) != run.generate("the cat", 20, seed=2)
  assert run.generate("", 5)
