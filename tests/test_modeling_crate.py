import exports
import jax
import models
import numpy as np
import pytest

from crate_jax import Edit
from crate_jax.hf import exported
from crate_jax.model import sampling

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
torch.set_num_threads(1)  # small products: threads would only wait for each other

MIXINGS = pytest.mark.parametrize("name", ["crate", "gpt2", "tost", "low_rank_query"])


def read(folder):
  """The model of an exported folder, as a stranger reads it."""
  from transformers import AutoModelForCausalLM

  return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()


@pytest.fixture
def both(tmp_path):
  """Gives a run and the model in PyTorch that was exported of it."""

  def make(name="crate", **changes):
    run = exports.run(name, **changes)
    exported.write(run, tmp_path / "no run", tmp_path / name)
    return run, read(tmp_path / name)

  return make


def ids(tokens):
  return torch.from_numpy(tokens).long()


@torch.no_grad()
def torch_logits(model, tokens, **arguments):
  return model(ids(tokens), **arguments).logits.numpy()


@models.family
def test_logits_agree_with_jax(both, name):
  run, model = both(name)
  tokens = models.tokens(run.model, rows=3)
  got = torch_logits(model, tokens)
  assert got.dtype == np.float32 and np.abs(got).max() > 0.5
  np.testing.assert_allclose(got, run.logits(tokens), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["crate", "gpt2", "tost"])
def test_logits_agree_with_jax_at_full_size(tmp_path, name):
  run = exports.run(name, std=0.05, layers=12, width=768, heads=12, context=64)
  exported.write(run, tmp_path, tmp_path / name)
  tokens = models.tokens(run.model, rows=2)
  got, want = torch_logits(read(tmp_path / name), tokens), run.logits(tokens)
  print(f"{name}: at most {np.abs(got - want).max()} of {np.abs(want).max()}")
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["crate", "gpt2", "tost"])
def test_256_greedy_tokens_agree_with_jax(both, name):
  run, model = both(name, context=300)
  prompt = models.tokens(run.model, rows=1, length=9)
  choices = {"temperature": 0.0, "top_k": 0, "vocab_size": 257}
  (want,) = sampling.sample(
    run.model, {"params": run.params}, prompt, 256, jax.random.key(0), **choices
  )
  got = generate(model, ids(prompt), 256)
  assert len(set(want[9:].tolist())) > 5
  np.testing.assert_array_equal(got[0], want)


def generate(model, tokens, length, **arguments):
  """Greedy tokens that no end-of-text token ends."""
  model.generation_config.eos_token_id = None
  arguments = {"attention_mask": torch.ones_like(tokens)} | arguments
  return model.generate(
    tokens, max_new_tokens=length, do_sample=False, pad_token_id=256, **arguments
  )


@MIXINGS
@torch.no_grad()
def test_cached_logits_are_the_uncached_ones(both, name):
  run, model = both(name)
  tokens = models.tokens(run.model)
  want = torch_logits(model, tokens, use_cache=False)
  first = model(ids(tokens[:, :5]), use_cache=True)
  parts, cache = [first.logits], first.cache
  for start, end in [(5, 6), (6, 9), (9, 12)]:
    parts.append(model(ids(tokens[:, start:end]), past_key_values=cache).logits)
  np.testing.assert_allclose(torch.cat(parts, dim=1), want, rtol=0, atol=1e-5)
  alike = generate(model, ids(tokens[:, :3]), 8, use_cache=False)
  assert torch.equal(generate(model, ids(tokens[:, :3]), 8), alike)


@pytest.mark.parametrize(
  ("name", "tensors"), [("crate", 1), ("low_rank_query", 1), ("tost", 1), ("gpt2", 2)]
)
@torch.no_grad()
def test_so_many_tensors_are_cached_in_a_layer(both, name, tensors):
  run, model = both(name)
  cache = model(ids(models.tokens(run.model))).cache
  assert len(cache.layers) == 2
  for layer in cache.layers:
    sizes = [x.numel() for x in (layer.keys, layer.values)]
    assert [size for size in sizes if size] == tensors * [2 * 12 * 16]


@MIXINGS
@torch.no_grad()
def test_left_padding_changes_nothing(both, name):
  run, model = both(name, context=20)
  short, long = models.tokens(run.model, rows=1, length=4), models.tokens(run.model, length=9)
  tokens = np.full((2, 9), 256, np.int32)
  tokens[0, 5:], tokens[1] = short[0], long[0]
  mask = torch.ones(2, 9, dtype=torch.long)
  mask[0, :5] = 0
  got = torch_logits(model, tokens, attention_mask=mask)
  np.testing.assert_allclose(got[0, 5:], run.logits(short)[0], rtol=0, atol=1e-5)
  np.testing.assert_allclose(got[1], run.logits(long[:1])[0], rtol=0, atol=1e-5)
  both_rows = generate(model, ids(tokens), 6, attention_mask=mask)
  assert torch.equal(both_rows[0, 5:], generate(model, ids(short), 6)[0])
  assert torch.equal(both_rows[1], generate(model, ids(long[:1]), 6)[0])


NEURONS = {"crate": "ista.A2", "signed": "ista.A3", "gpt2": "mlp.A1", "topk": "mlp.A1"}


@pytest.mark.parametrize("name", NEURONS)
def test_a_hook_sees_and_replaces_the_neurons(both, name):
  run, model = both(name)
  tokens, seen = models.tokens(run.model), {}
  module = model.get_submodule(f"transformer.h.1.{NEURONS[name]}")

  def see(module, inputs, output):
    seen["codes"] = output.numpy()

  handle = module.register_forward_hook(see)
  plain = torch_logits(model, tokens)
  handle.remove()
  np.testing.assert_allclose(seen["codes"], run.codes(tokens)[1], rtol=0, atol=1e-5)
  module.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
  without = torch_logits(model, tokens)
  want = run.logits(tokens, edits=[Edit(run.neurons, 1, None)])
  assert np.abs(without - plain).max() > 0.01
  np.testing.assert_allclose(without, want, rtol=0, atol=1e-5)


def test_hooks_see_the_other_activations(both):
  run, model = both("crate")
  tokens, seen = models.tokens(run.model), {}
  places = {"u": "attn.c_attn", "attention": "attn", "A1": "ista.A1", "decoded": "ista"}
  for name, place in places.items():
    module = model.get_submodule(f"transformer.h.0.{place}")
    module.register_forward_hook(lambda m, i, output, name=name: seen.update({name: output}))
  torch_logits(model, tokens)
  for name, want in run.activations(tokens, list(places)).items():
    np.testing.assert_allclose(seen[name].detach(), want[0], rtol=0, atol=1e-5, err_msg=name)


def test_loss_is_the_mean_nats_of_the_next_token(both):
  run, model = both("crate")
  tokens = models.tokens(run.model)
  got = model(ids(tokens), labels=ids(tokens)).loss
  logp = np.asarray(jax.nn.log_softmax(run.logits(tokens)))[:, :-1]
  want = -np.take_along_axis(logp, tokens[:, 1:, None], axis=-1).mean()
  np.testing.assert_allclose(got.item(), want, rtol=1e-6)
  got.backward()
  assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_more_than_the_context_is_refused(both):
  _, model = both("crate")
  with pytest.raises(ValueError, match="13 tokens do not fit the model's context of 12"):
    torch_logits(model, np.zeros((1, 13), np.int32))


@pytest.mark.parametrize("name", ["crate", "learned", "gpt2"])
def test_saved_by_transformers_and_read_again_it_is_the_same(both, tmp_path, name):
  _, model = both(name)
  assert model.lm_head.weight is model.transformer.wte.weight
  model.save_pretrained(tmp_path / "saved")
  again = read(tmp_path / "saved")
  assert again.lm_head.weight is again.transformer.wte.weight
  for (key, x), (_, y) in zip(model.named_parameters(), again.named_parameters(), strict=True):
    assert torch.equal(x, y), key


def test_bfloat16_computes_in_bfloat16(both):
  run, model = both("crate")
  tokens = models.tokens(run.model)
  got = torch_logits(model.bfloat16(), tokens)
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, run.logits(tokens), rtol=0, atol=0.1)


def test_fresh_models_have_the_published_init():
  from crate_jax.hf.configuration_crate import CrateConfig
  from crate_jax.hf.modeling_crate import CrateForCausalLM

  torch.manual_seed(0)
  config = CrateConfig(layers=2, width=64, heads=4, context=32, vocab_size=100)
  state = CrateForCausalLM(config).state_dict()
  block = {k.removeprefix("transformer.h.0."): x for k, x in state.items() if ".h.0." in k}
  for name, std in [
    ("attn.c_attn.weight", 0.02),
    ("attn.c_proj.weight", 0.01),
    ("ista.weight", (6 / 64) ** 0.5 / 3**0.5),
  ]:
    assert abs(block[name].std().item() / std - 1) < 0.05, name
  assert block["ista.weight"].abs().max() <= (6 / 64) ** 0.5
  assert not block["attn.c_proj.bias"].any() and (block["prenorm_1.weight"] == 1).all()
