import jax
import jax.numpy as jnp
import pytest

from configs import base, shakespeare_char, tiny
from crate_jax import config as config_lib
from crate_jax.model.presets import PRESETS
from crate_jax.training import program

EVERY = [(base, f"{size},{name}") for size in base.SIZES for name in PRESETS]
EVERY += [(module, name) for module in (tiny, shakespeare_char) for name in PRESETS]


@pytest.mark.parametrize(("module", "argument"), EVERY, ids=lambda x: getattr(x, "__name__", x))
def test_every_config_builds_a_step_that_keeps_its_state(module, argument):
  config = module.get_config(argument)
  c = config_lib.resolve(config, config.model.vocab_size or 2048)
  pieces = program.build(c)
  state = jax.eval_shape(pieces.init, jax.random.key(0))
  batch = jax.ShapeDtypeStruct((c.train.batch_size, c.model.context + 1), jnp.int32)
  after, metrics = jax.eval_shape(pieces.update, state, batch)
  assert after == state
  scalars = ("loss", "grad_norm", "learning_rate", "applied")
  shapes = dict.fromkeys(scalars, ()) | {"batch_hash": (2,)}
  assert {name: m.shape for name, m in metrics.items()} == shapes
