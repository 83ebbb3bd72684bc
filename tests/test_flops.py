import jax
import jax.numpy as jnp
import models
import numpy as np
import pytest

from crate_jax.model import flops
from crate_jax.training.step import token_nll


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
    for value in equation.params.values():
      if hasattr(value, "jaxpr"):  # a closed program
        total += dot_flops(value.jaxpr, times * inner)
      elif hasattr(value, "eqns"):
        total += dot_flops(value, times * inner)
  return total


@pytest.mark.parametrize("architecture", ["crate", "gpt2"])
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("unroll", [False, True])
def test_equal_the_dots_of_the_program(architecture, steps, unroll):
  model = models.small(architecture, ista_steps=steps, overcompleteness=3, unroll=unroll)
  params, tokens = models.random_params(model), models.tokens(model, length=13)

  def loss(params):
    return jnp.mean(token_nll(model, params, tokens))

  count = 2 * model.config.context
  forward = dot_flops(jax.make_jaxpr(loss)(params).jaxpr)
  assert forward == count * flops.forward_flops_per_token(model.config)
  training = dot_flops(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)
  assert training == count * flops.training_flops_per_token(model.config)


def test_a_block_costs_36_d_squared_in_crate_and_24_in_gpt2():
  def block(architecture):
    def at(layers):
      config = models.small(architecture, layers=layers, width=768, heads=12).config
      return flops.forward_flops_per_token(config)

    return at(2) - at(1) - 4 * 12 * 768  # scores at context 12

  assert block("crate") == 36 * 768**2
  assert block("gpt2") == 24 * 768**2
