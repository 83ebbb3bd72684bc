"""The compiled pieces of a run: everything that is jitted, with shardings in and out."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from crate_jax.config import Config
from crate_jax.errors import UserError
from crate_jax.model import lm
from crate_jax.training import optim, sharding
from crate_jax.training.step import TrainState, make_update


@dataclasses.dataclass(frozen=True)
class Program:
  """The compiled pieces of a run.

  Attributes:
    model: the model.
    init: key -> fresh state, laid out on the mesh.
    update: (state, tokens_BT1) -> (state, metrics); consumes the state it is given.
    state_sharding: how a state is laid out.
    batch_sharding: how a batch is laid out.
  """

  model: lm.LM
  init: Callable[[jax.Array], TrainState]
  update: jax.stages.Wrapped
  state_sharding: TrainState
  batch_sharding: NamedSharding


def build(config: Config) -> Program:
  """Builds the pieces; `update` donates the state it is given.

  Raises:
    UserError: the mesh does not fit the devices or the batch, the schedule not the steps, or the
      model is float64 and JAX is not.
  """
  c = config
  if c.model.dtype == "float64" and not jax.config.read("jax_enable_x64"):
    raise UserError('model.dtype="float64" needs the environment variable JAX_ENABLE_X64=1.')
  mesh = sharding.make_mesh(c.mesh)
  model = lm.LM(c.model)
  axes = lm.logical_axes(model)
  optimizer = optim.make_optimizer(c.optimizer, c.train.steps, axes)
  schedule = optim.make_schedule(c.optimizer, c.train.steps)

  def init(key: jax.Array) -> TrainState:
    params = lm.init_params(model, key)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

  abstract = jax.eval_shape(init, jax.random.key(0))
  state_sharding = sharding.state_shardings(abstract, optimizer, axes, mesh)
  batch_sharding = sharding.batch_sharding(mesh, c.train.batch_size // c.train.accumulation)
  update = jax.jit(
    make_update(model, optimizer, schedule, c.train.accumulation),
    in_shardings=(state_sharding, batch_sharding),
    out_shardings=(state_sharding, sharding.replicated(mesh)),
    donate_argnums=0,
  )
  jitted = jax.jit(init, out_shardings=state_sharding)
  return Program(model, jitted, update, state_sharding, batch_sharding)
