import models
import numpy as np

from crate_jax.interpret.network import Network, choose
from crate_jax.model import activations
from crate_jax.model.activations import Edit


def test_neurons_are_drawn_by_the_seed():
  assert choose(6, 2, 0, 0).tolist() == [[0, 1, 2, 3, 4, 5]] * 2
  drawn = choose(100, 2, 10, 3)
  assert drawn.shape == (2, 10)
  assert (np.diff(drawn) > 0).all()
  np.testing.assert_array_equal(drawn, choose(100, 2, 10, 3))
  assert drawn[0].tolist() != drawn[1].tolist()
  assert drawn.tolist() != choose(100, 2, 10, 4).tolist()


@models.every_part
def test_a_network_shows_its_neurons_the_edited_too(name):
  model = models.member(name)
  params, tokens_BT = models.random_params(model), models.tokens(model)
  units_Ln = choose(model.config.codes, model.config.layers, 4, 0)
  variables = {"params": params}
  whole = activations.neurons(model.config)
  _, seen = activations.apply(model, variables, tokens_BT, [whole])
  wanted = np.take_along_axis(np.asarray(seen[whole]), units_Ln[:, None, None], axis=-1)
  network = Network(model, params, units_Ln)
  np.testing.assert_allclose(network.see()(tokens_BT), wanted, rtol=1e-6, atol=1e-7)
  silent = network._replace(edits=(Edit(whole),)).see()(tokens_BT)
  assert not np.any(silent)
