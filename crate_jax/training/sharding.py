"""The mesh, and the ONE table from logical axes to mesh axes."""

from typing import Any

import flax.linen as nn
import jax
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from crate_jax.config import MeshConfig
from crate_jax.errors import UserError
from crate_jax.training.step import TrainState

# What every axis of every array is split along; None is kept whole on each device.
RULES: tuple[tuple[str, str | tuple[str, ...] | None], ...] = (
  ("batch", ("data", "fsdp")),
  ("vocab", "tensor"),
  ("heads", "tensor"),
  ("codes", "tensor"),
  ("embed", "fsdp"),
  ("layers", None),
  ("head_width", None),
  ("positions", None),
  ("qkv", None),
  ("rank", None),
)


def make_mesh(config: MeshConfig) -> Mesh:
  """A mesh with axes data, fsdp and tensor over all devices; one size of -1 takes the rest."""
  sizes = {"data": config.data, "fsdp": config.fsdp, "tensor": config.tensor}
  devices = jax.device_count()
  free = [name for name, size in sizes.items() if size == -1]
  fixed = 1
  for name, size in sizes.items():
    if size < 1 and size != -1:
      raise UserError(f"mesh.{name}={size} must be at least 1, or -1 for the devices left.")
    fixed *= max(size, 1)
  if len(free) > 1 or devices % fixed or (not free and fixed != devices):
    shape = ", ".join(f"{name}={size}" for name, size in sizes.items())
    raise UserError(f"The mesh ({shape}) does not fit the {devices} devices: set one size to -1.")
  if free:
    sizes[free[0]] = devices // fixed
  # Auto, not JAX's default Explicit: Linen's logical partitioning names axes, not types.
  return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * 3)


def param_shardings(axes: Any, mesh: Mesh) -> Any:
  """Shardings of a tree whose leaves are tuples of logical axis names (`lm.logical_axes`)."""
  specs = jax.tree.map(
    lambda names: PartitionSpec(*names), axes, is_leaf=lambda x: isinstance(x, tuple)
  )
  return nn.logical_to_mesh_sharding(specs, mesh, RULES)


def state_shardings(
  state: TrainState, optimizer: optax.GradientTransformation, axes: Any, mesh: Mesh
) -> TrainState:
  """Shardings of a training state: moments lie as their parameters do, counters everywhere.

  Args:
    state: abstract or concrete, for its structure.
    optimizer: what made `state.opt_state`.
    axes: the tree of logical axis names of the parameters.
    mesh: where to.
  """
  params = param_shardings(axes, mesh)
  whole = replicated(mesh)
  moments = optax.tree_map_params(
    optimizer, lambda _, s: s, state.opt_state, params, transform_non_params=lambda _: whole
  )
  return TrainState(step=whole, params=params, opt_state=moments)  # type: ignore[arg-type]


def batch_sharding(mesh: Mesh, rows: int) -> NamedSharding:
  """Sharding of an array whose first axis is the batch, `rows` of which are computed at once."""
  parts = mesh.shape["data"] * mesh.shape["fsdp"]
  if rows % parts:
    raise UserError(
      f"train.batch_size / train.accumulation = {rows} is not a multiple of the mesh's "
      f"data x fsdp = {parts}."
    )
  return NamedSharding(mesh, PartitionSpec(dict(RULES)["batch"]))


def replicated(mesh: Mesh) -> NamedSharding:
  """Sharding of what every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())
