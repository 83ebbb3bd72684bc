import functools

import jax
import jax.numpy as jnp
import models
import numpy as np
import pytest
import reference

from crate_jax.errors import UserError
from crate_jax.model import activations
from crate_jax.model.activations import Edit


@functools.partial(jax.jit, static_argnums=(0, 3))
def run(model, variables, tokens, record=()):
  return activations.apply(model, variables, tokens, record)


@models.family_if_slow
def test_every_activation_is_that_of_the_equations(name):
  model = models.member(name)
  params, tokens = models.random_params(model), models.tokens(model)
  names = tuple(activations.widths(model.config))
  logits, got = run(model, {"params": params}, tokens, names)
  np.testing.assert_allclose(logits, models.logits(model, params, tokens), rtol=1e-6, atol=1e-6)
  want = {n: [[None] * 2 for _ in range(3)] for n in names}
  for row in range(2):

    def record(layer, name, value, row=row):
      want[name][layer or 0][row] = value.copy()
      return value

    reference.logits(reference.wide(params), tokens[row], model.config, record)
  for n in names:
    expected = np.array(want[n][0] if n == "logits" else want[n], np.float64)
    assert (
      got[n].shape == expected.shape and got[n].shape[-1] == activations.widths(model.config)[n]
    )
    np.testing.assert_allclose(got[n], expected, atol=1e-5 * np.abs(expected).max(), rtol=1e-4)


def _rule(edits):
  """The edits, as an `edit` of the reference."""

  def edit(layer, name, value):
    value = value.copy()
    for e in edits:
      if e.activation == name and e.layer in (None, layer):
        unit = slice(None) if e.unit is None else e.unit
        value[:, unit] = e.scale * value[:, unit] + e.add
    return value

  return edit


@models.family_if_slow
def test_edits_replace_any_activation(name):
  model = models.member(name)
  params, tokens = models.random_params(model), models.tokens(model, rows=1)
  plain = models.logits(model, params, tokens)
  for activation, width in activations.widths(model.config).items():
    layer = None if activation == "logits" else 1
    neuron = width // 2
    for edits in [
      [Edit(activation, layer)],  # zero all
      [Edit(activation, layer, neuron, add=3.0), Edit(activation, layer, 0)],  # set, zero
      [Edit(activation, None, neuron, scale=-2.0)],  # scale in every layer
      [Edit(activation, layer, neuron, add=2.0), Edit(activation, layer, neuron, scale=0.5)],
    ]:
      variables = {"params": params, **activations.collection(model.config, edits)}
      got, _ = run(model, variables, tokens)
      want = reference.logits(reference.wide(params), tokens[0], model.config, _rule(edits))
      np.testing.assert_allclose(got[0], want, atol=2e-5 * np.abs(want).max())
    assert np.abs(got - plain).max() > 1e-3


def test_a_set_unit_takes_its_value_exactly_and_the_others_keep_theirs():
  model = models.small()
  params, tokens = models.random_params(model), models.tokens(model)
  _, before = run(model, {"params": params}, tokens, ("A2",))
  edits = [Edit("A2", 2, 5, add=0.1)]
  variables = {"params": params, **activations.collection(model.config, edits)}
  _, after = run(model, variables, tokens, ("A2",))
  assert np.all(after["A2"][2, ..., 5] == np.float32(0.1))
  np.testing.assert_array_equal(
    np.delete(after["A2"][2], 5, axis=-1), np.delete(before["A2"][2], 5, axis=-1)
  )


def test_edits_hold_under_remat():
  tokens = models.tokens(models.small(), rows=1)
  edits = [Edit("A2", 1, 5, add=3.0), Edit("u", 0, 2)]
  got = []
  for remat in ("none", "full"):
    model = models.small(remat=remat)
    variables = {
      "params": models.random_params(model),
      **activations.collection(model.config, edits),
    }
    got.append(run(model, variables, tokens)[0])
  np.testing.assert_allclose(got[0], got[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
  ("edit", "sentence"),
  [
    (Edit("A3"), "There is no activation 'A3' in this model: it has stream, u, attention, A1, A2"),
    (Edit("A2", 3), "There is no A2 in layer 3: they are in layers 0 to 2"),
    (Edit("A2", -1), "There is no A2 in layer -1"),
    (Edit("A2", 0, 64), "There is no unit 64 of A2: they are 0 to 63"),
    (Edit("logits", 0), "There is no logits in layer 0: they belong to no layer"),
  ],
)
def test_what_is_not_there_is_refused(edit, sentence):
  with pytest.raises(UserError, match=sentence):
    activations.collection(models.config(), [edit])


def test_a_model_without_a_feature_step_has_no_neurons():
  assert activations.neurons(models.config("crate")) == "A2"
  assert activations.neurons(models.config("gpt2")) == "A1"
  with pytest.raises(UserError, match="has no neurons"):
    activations.neurons(models.config("aot"))


def test_training_and_cached_decoding_record_nothing():
  model = models.small()
  params = models.random_params(model)
  tokens = models.tokens(model)
  _, state = models.cached_logits(model, {"params": params}, tokens, jnp.zeros((2, 12), int))
  assert set(state) == {"cache"}
  assert set(models.init(model)) == {"blocks", "norm", "positions", "tokens"}
