import conftest
import numpy as np
import pytest
import reference

import crate_jax
from crate_jax import Edit
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
  both = run.generate(["the cat", "a"], 20, seed=1)
  assert both[0] == sample and both[1].startswith("a") and len(both) == 2


def test_codes_are_every_layers_neurons(workdir):
  run = crate_jax.load(workdir)
  tokens = run.tokenizer.encode("the cat sat")[None]
  codes = run.codes(tokens)
  assert codes.shape == (2, 1, 11, 64) and codes.min() == 0
  # The last layer's codes, decoded with its dictionary, are what the head reads.
  dictionary = np.asarray(run.params["blocks"]["features"]["dictionary"][1], np.float64)
  params = reference.wide(run.params)
  stream = np.asarray(codes[1, 0], np.float64) @ dictionary
  normed = reference.layer_norm(stream, params["norm"]["scale"], params["norm"]["bias"])
  np.testing.assert_allclose(
    run.logits(tokens)[0], normed @ params["tokens"].T, rtol=1e-4, atol=1e-4
  )


def test_edits_set_neurons(workdir):
  run = crate_jax.load(workdir)
  tokens = run.tokenizer.encode("the cat sat")[None]
  codes = np.asarray(run.codes(tokens))
  neuron = int(codes[1, 0].max(0).argmax())
  same = [Edit(run.neurons, 1, n, add=float(codes[1, 0, 0, n])) for n in range(64)]
  np.testing.assert_allclose(
    run.logits(tokens[:, :1], edits=same), run.logits(tokens[:, :1]), rtol=1e-5, atol=1e-5
  )
  off = run.logits(tokens, edits=[Edit("A2", 1, neuron)])
  assert np.abs(off - run.logits(tokens)).max() > 1e-3
  for wrong in ((2, 0), (0, 64), (-1, 0)):
    with pytest.raises(UserError, match=r"There is no (A2 in layer|unit 64 of A2)"):
      run.logits(tokens, edits=[Edit("A2", *wrong)])


def test_activations_are_those_that_the_model_went_on_with(workdir):
  run = crate_jax.load(workdir)
  tokens = run.tokenizer.encode("the cat sat")[None]
  edits = [Edit("attention", 0, scale=0.5)]
  got = run.activations(tokens, ["attention", "A2", "logits"], edits=edits)
  plain = run.activations(tokens, ["attention", "A2"])
  np.testing.assert_allclose(got["attention"][0], 0.5 * plain["attention"][0], rtol=1e-5)
  np.testing.assert_allclose(got["logits"], run.logits(tokens, edits=edits), rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(plain["A2"], run.codes(tokens))
  with pytest.raises(UserError, match="There is no activation 'A9' in this model: it has stream"):
    run.activations(tokens, ["A9"])


def test_an_edited_sample_is_that_of_edited_logits(workdir):
  run = crate_jax.load(workdir)
  ids = run.tokenizer.encode("the ca")
  plain = np.argmax(run.logits(ids[None])[0, -1])
  tried = ([Edit("A2", 0, 3, add=2.0), Edit("A2", 1, n, add=50.0)] for n in range(64))
  edits = next(  # a neuron of the last layer that decides the next token
    edits for edits in tried if np.argmax(run.logits(ids[None], edits=edits)[0, -1]) != plain
  )
  sample = run.generate("the ca", 5, temperature=0, edits=edits)
  for _ in range(5):
    best = int(np.argmax(run.logits(ids[None], edits=edits)[0, -1]))
    ids = np.append(ids, best)
  assert sample == run.tokenizer.decode(ids) != run.generate("the ca", 5, temperature=0)


def test_tokens_that_do_not_fit_are_refused(workdir):
  run = crate_jax.load(workdir)
  for wrong in (np.array([1, 2]), np.zeros((1, 17), int), np.zeros((1, 0), int)):
    with pytest.raises(UserError, match=r"must be \(batch, 1 to 16 tokens\)"):
      run.logits(wrong)
  for wrong in ([[257]], [[-1]]):
    with pytest.raises(UserError, match="Token ids must be from 0 to 256"):
      run.codes(wrong)
