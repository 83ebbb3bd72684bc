import exports
import jax
import models
import numpy as np
import pytest

from crate_jax.errors import UserError
from crate_jax.hf import names

# The official code's names and shapes of a layer, read in crate_overcomplete.py and gpt.py.
OFFICIAL = {
  "prenorm_1.weight": (16,),
  "prenorm_1.bias": (16,),
  "attn.c_attn.weight": (16, 16),
  "attn.c_proj.weight": (16, 16),
  "attn.c_proj.bias": (16,),
  "prenorm_2.weight": (16,),
  "prenorm_2.bias": (16,),
  "ista.weight": (64, 16),
}


def state(model):
  return names.to_torch(exports.random_params(model), model.config)


@models.family
def test_there_and_back_gives_the_same_bits(name):
  model = models.member(name)
  params = exports.random_params(model)
  there = names.to_torch(params, model.config)
  assert all(x.flags.c_contiguous for x in there.values())
  back = names.to_jax(there, model.config, "there")
  assert jax.tree.structure(back) == jax.tree.structure(params)
  for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(back), strict=True):
    assert (x.shape, x.dtype) == (y.shape, y.dtype)
    assert np.asarray(x).tobytes() == y.tobytes()


def test_names_and_shapes_are_the_official_ones():
  model = models.small(layers=2)
  want = {f"transformer.h.{i}.{name}": shape for i in (0, 1) for name, shape in OFFICIAL.items()}
  want |= {"transformer.wte.weight": (31, 16), "transformer.wpe.weight": (12, 16)}
  want |= {"transformer.ln_f.weight": (16,), "transformer.ln_f.bias": (16,)}
  assert {name: x.shape for name, x in state(model).items()} == want


def test_matrices_are_outputs_by_inputs():
  model = models.small("gpt2")
  params = exports.random_params(model)
  there = names.to_torch(params, model.config)
  mixing = jax.tree.map(lambda x: np.asarray(x)[1], params["blocks"]["mixing"])
  x = np.random.default_rng(0).standard_normal(16).astype(np.float32)
  qkv = there["transformer.h.1.attn.c_attn.weight"] @ x
  want = np.einsum("d,cdkh->ckh", x, mixing["qkv"]).reshape(-1)
  np.testing.assert_allclose(qkv, want, rtol=1e-5, atol=1e-6)
  out = there["transformer.h.1.attn.c_proj.weight"] @ x
  want = np.einsum("kh,khd->d", x.reshape(2, 8), mixing["output"])
  np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-6)


NAME = "transformer.h.1.ista.weight"


@pytest.mark.parametrize(
  ("change", "sentence"),
  [
    (lambda s: s.pop(NAME), f"the tensor {NAME} is missing"),
    (lambda s: s.update({"transformer.h.3.x": s[NAME]}), "transformer.h.3.x is none of this model"),
    (lambda s: s.update({NAME: s[NAME].T}), rf"{NAME} has the shape \(16, 64\) and not \(64, 16\)"),
    (lambda s: s.update({NAME: s[NAME].astype(int)}), f"{NAME} does not hold floating-point"),
    (lambda s: s.update({names.HEAD: s[names.EMBEDDING] + 1}), "lm_head.weight differs from"),
  ],
)
def test_what_does_not_fit_is_named(change, sentence):
  model = models.small()
  there = dict(state(model))
  change(there)
  with pytest.raises(UserError, match=f"weights.x: .*{sentence}"):
    names.to_jax(there, model.config, "weights.x")


def test_a_tied_head_is_accepted():
  model = models.small()
  there = state(model)
  names.to_jax(there | {names.HEAD: there[names.EMBEDDING]}, model.config, "there")


@pytest.mark.timeout(100)
def test_absurd_sizes_cost_nothing():
  model = models.small()
  found = {name: names.header(x) for name, x in state(model).items()}
  for key in ("layers", "context", "vocab_size", "overcompleteness"):
    with pytest.raises(UserError, match=r"missing|has the shape"):
      names.check(found, models.config(**{key: 10**9}), "there")
  with pytest.raises(UserError, match="shape"):
    names.check(found, models.config(width=2**40, heads=2**20), "there")
