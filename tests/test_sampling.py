import jax
import jax.numpy as jnp
import models
import numpy as np
import pytest

from crate_jax.model import sampling


@models.family
def test_cached_logits_equal_uncached(name):
  model = models.member(name)
  params, tokens = models.random_params(model), models.tokens(model)
  want = models.logits(model, params, tokens)
  positions = jnp.broadcast_to(jnp.arange(5), (2, 5))
  logits, cache = models.cached_logits(model, {"params": params}, tokens[:, :5], positions)
  np.testing.assert_allclose(logits, want[:, :5], atol=1e-5)
  for t in range(5, 12):
    logits, cache = models.cached_logits(
      model, {"params": params, **cache}, tokens[:, t : t + 1], jnp.full((2, 1), t)
    )
    np.testing.assert_allclose(logits[:, 0], want[:, t], atol=1e-5)


@pytest.mark.parametrize(
  ("name", "tensors"), [("crate", 1), ("query", 1), ("low_rank_query", 1), ("tost", 1), ("gpt2", 2)]
)
def test_the_cache_holds_one_tensor_a_layer_unless_key_and_value_differ(name, tensors):
  model = models.member(name)
  params = models.random_params(model)
  _, state = models.cached_logits(
    model, {"params": params}, models.tokens(model), jnp.zeros((2, 12), int)
  )
  leaves = jax.tree.leaves(state["cache"])
  assert [leaf.shape for leaf in leaves] == [(3, 2, 12, 2, 8)] * tensors


def greedy(model, params, prompt, length):
  """One token at a time by whole forward passes, with the window rule of `sample`."""
  tokens, start, context = list(prompt), 0, model.config.context
  for _ in range(length):
    if len(tokens) - start >= context:
      start = len(tokens) - context // 2
    window = tokens[start:]
    padded = np.array([window + [0] * (context - len(window))], np.int32)
    logits = models.logits(model, params, padded)
    tokens.append(int(np.argmax(logits[0, len(window) - 1, :30])))
  return tokens


@pytest.mark.parametrize("architecture", ["crate", "tost", "gpt2"])
def test_greedy_samples_are_those_of_whole_forward_passes(architecture):
  model = models.small(architecture)
  params = models.random_params(model)
  ids = models.tokens(model, rows=1, length=30)[0]
  options = {"temperature": 0, "top_k": 0, "vocab_size": 30}
  for lengths, added in [((1,), 3), ((5, 12, 30, 1, 11), 8), ((5,), 7), ((30, 2), 40)]:
    prompts = [ids[:length] for length in lengths]
    got = sampling.sample(model, {"params": params}, prompts, added, jax.random.key(0), **options)
    for sample, prompt in zip(got, prompts, strict=True):
      assert sample.tolist() == greedy(model, params, prompt, added)


def test_a_sample_depends_on_its_prompt_and_place_alone():
  model = models.small()
  variables = {"params": models.random_params(model)}
  ids = models.tokens(model, rows=1, length=12)[0]

  def sampled(*lengths):
    prompts = [ids[:length] for length in lengths]
    options = {"temperature": 1.0, "top_k": 0, "vocab_size": 31}
    return sampling.sample(model, variables, prompts, 30, jax.random.key(3), **options)

  first, second, third = sampled(4, 9, 4)
  np.testing.assert_array_equal(sampled(4)[0], first)
  np.testing.assert_array_equal(sampled(11, 9)[1], second)  # windows begin at other tokens
  assert first.tolist() != third.tolist()


def test_samples_follow_the_softmax():
  model = models.small(layers=1, context=4, vocab_size=8)
  params = models.random_params(model)
  ids = np.array([3, 1], np.int32)
  logits = np.asarray(models.logits(model, params, ids[None])[0, -1], np.float64)

  def frequencies(**options):
    drawn = sampling.sample(
      model, {"params": params}, [ids] * 20_000, 1, jax.random.key(0), vocab_size=7, **options
    )
    return np.bincount([tokens[-1] for tokens in drawn], minlength=8) / len(drawn)

  p = np.exp(logits / 0.7)
  p[7] = 0  # padding of the embedding is never drawn
  np.testing.assert_allclose(frequencies(temperature=0.7, top_k=0), p / p.sum(), atol=0.015)
  p[np.argsort(p)[:-3]] = 0
  np.testing.assert_allclose(frequencies(temperature=0.7, top_k=3), p / p.sum(), atol=0.015)


def test_nothing_is_compiled_anew_for_another_length_or_prompt():
  model = models.small()
  params = models.random_params(model)

  def run(lengths, added, temperature):
    ids = models.tokens(model, rows=1, length=12)[0]
    sampling.sample(
      model, {"params": params}, [ids[:length] for length in lengths], added, jax.random.key(0),
      temperature=temperature, top_k=0, vocab_size=31,
    )  # fmt: skip

  run([3, 7], 4, 0.5)
  before = sampling._fill._cache_size()
  run([5, 1], 30, 1.0)
  assert sampling._fill._cache_size() == before
