import functools

import jax
import jax.numpy as jnp
import models
import numpy as np
import pytest
from jax.interpreters import partial_eval as pe

from crate_jax.model import flops, lm
from crate_jax.model.presets import PRESETS
from crate_jax.training.step import objective


def dot_flops(jaxpr, times=1):
  """Operations of every dot in a program, bodies of scans times their length."""
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      a = equation.invars[0].aval.shape
      out = np.prod(equation.outvars[0].aval.shape)
      total += times * 2 * int(out * np.prod([a[i] for i in contracted]))
    inner = equation.params["length"] if equation.primitive.name == "scan" else 1
    if branches := equation.params.get("branches"):  # a device takes one of them
      (same,) = {dot_flops(branch.jaxpr, times) for branch in branches}
      total += same
    for value in equation.params.values():
      if hasattr(value, "jaxpr"):  # a closed program
        total += dot_flops(value.jaxpr, times * inner)
      elif hasattr(value, "eqns"):
        total += dot_flops(value, times * inner)
  return total


@models.family_if_slow
def test_equal_the_dots_of_the_unrolled_program(name):
  model = models.member(name, unroll=True)
  params, tokens = models.random_params(model), models.tokens(model, length=13)

  def loss(params):
    return objective(model, params, tokens)[0]

  count = 2 * model.config.context
  forward = dot_flops(jax.make_jaxpr(loss)(params).jaxpr)
  assert forward == count * flops.forward_flops_per_token(model.config)
  training = dot_flops(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)
  assert training == count * flops.training_flops_per_token(model.config)


@pytest.mark.parametrize("remat", ["dots", "full"])
@models.family_if_slow
def test_what_is_computed_again_is_counted(name, remat):
  model = models.member(name, remat=remat)
  params, tokens = models.random_params(model), models.tokens(model, length=13)
  loss = jax.grad(lambda params: objective(model, params, tokens)[0])
  # Once more without what nothing needs, as XLA does: JAX traces every product of a layer again.
  jaxpr, _ = pe.dce_jaxpr(jax.make_jaxpr(loss)(params).jaxpr, [True] * len(jax.tree.leaves(params)))
  c = model.config
  want = flops.training_flops_per_token(c) + flops.recomputed_flops_per_token(c)
  assert dot_flops(jaxpr) == 2 * c.context * want


@pytest.mark.parametrize("name", [*PRESETS, "query", "topk"])
def test_are_within_two_percent_of_what_xla_counts_at_width_768(name):
  model = models.member(
    name, layers=2, width=768, heads=12, context=64, vocab_size=512, unroll=True
  )
  params = lm.abstract_params(model)
  tokens = jax.ShapeDtypeStruct((1, 65), jnp.int32)
  loss = functools.partial(objective, model)
  for program, count in [
    (lambda p, t: loss(p, t)[1], flops.forward_flops_per_token(model.config)),
    (
      jax.grad(lambda p, t: loss(p, t)[0], allow_int=True),
      flops.training_flops_per_token(model.config),
    ),
  ]:
    counted = jax.jit(program).lower(params, tokens).compile().cost_analysis()["flops"]
    assert counted == pytest.approx(64 * count, rel=0.02)


def test_a_block_costs_36_d_squared_in_crate_and_24_in_gpt2():
  def block(architecture):
    def at(layers):
      config = models.small(architecture, layers=layers, width=768, heads=12).config
      return flops.forward_flops_per_token(config)

    return at(2) - at(1) - 4 * 12 * 768  # scores at context 12

  assert block("crate") == 36 * 768**2
  assert block("gpt2") == 24 * 768**2
