"""The compiled pieces of a run: everything that is jitted, with shardings in and out."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from crate_jax.config import Config
from crate_jax.errors import UserError
from crate_jax.model import attention, lm
from crate_jax.training import optim, sharding
from crate_jax.training.step import Metrics, TrainState, make_update


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


def build(config: Config, devices: Sequence[jax.Device] | None = None) -> Program:
  """Builds the pieces; `update` donates the state it is given.

  Args:
    config: the run's.
    devices: where it is to run, if they are not all that there are here.

  Raises:
    UserError: the mesh does not fit the devices or the batch, the schedule not the steps, or the
      model is float64 and JAX is not.
  """
  c = config
  if c.model.dtype == "float64" and not jax.config.read("jax_enable_x64"):
    raise UserError('model.dtype="float64" needs the environment variable JAX_ENABLE_X64=1.')
  mesh = sharding.make_mesh(c.mesh, devices)
  kernel = attention.choose_kernel(mesh.devices.flat[0], c.model)
  unroll = c.model.unroll if c.model.unroll is not None else _unrolls(mesh)
  model = lm.LM(dataclasses.replace(c.model, attention=kernel, unroll=unroll))
  axes = lm.logical_axes(model)
  optimizer = optim.make_optimizer(c.optimizer, c.train.steps, axes)
  schedule = optim.make_schedule(c.optimizer, c.train.steps)

  def init(key: jax.Array) -> TrainState:
    params = lm.init_params(model, key)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

  abstract = jax.eval_shape(init, jax.random.key(0))
  sharding.check_divides(abstract.params, axes, mesh)
  state_sharding = sharding.state_shardings(abstract, optimizer, axes, mesh)
  batch_sharding = sharding.batch_sharding(mesh, c.train.batch_size // c.train.accumulation)
  update_on_one = make_update(model, optimizer, schedule, c.train.accumulation)

  def update(state: TrainState, tokens_BT1: jax.Array) -> tuple[TrainState, Metrics]:
    with sharding.over(mesh):
      return update_on_one(state, tokens_BT1)

  jitted_update = jax.jit(
    update,
    in_shardings=(state_sharding, batch_sharding),
    out_shardings=(state_sharding, sharding.replicated(mesh)),
    donate_argnums=0,
  )
  jitted_init = jax.jit(init, out_shardings=state_sharding)
  return Program(model, jitted_init, jitted_update, state_sharding, batch_sharding)


def _unrolls(mesh: Mesh) -> bool:
  """Whether layers are compiled one by one rather than as one loop over them.

  A loop writes what the backward pass needs into arrays of all layers, and reads it from there; on
  a GPU that takes a fifth of the step, on a CPU a tenth (docs/speed.md). Where parameters are
  split, the loop stays: it is what gathers them in turn. So it does on a TPU, where nobody timed
  the two.
  """
  whole = mesh.shape["fsdp"] * mesh.shape["tensor"] == 1
  return whole and mesh.devices.flat[0].platform in ("cpu", "gpu")
