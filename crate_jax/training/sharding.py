"""The mesh, and the ONE table from logical axes to mesh axes."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from crate_jax.config import MeshConfig
from crate_jax.errors import UserError
from crate_jax.model import layout
from crate_jax.training.step import TrainState

# Every axis of every array, what it is split along where it is stored, and where it is computed
# with. None is kept whole on each device. An axis that is stored in parts and computed with whole
# is gathered in between, layer by layer (`model.parameter`).
TABLE: tuple[tuple[str, Any, Any], ...] = (
  # axis         stored             in use
  ("batch", ("data", "fsdp"), ("data", "fsdp")),
  ("tokens", None, None),
  ("vocab", "tensor", "tensor"),
  ("heads", "tensor", "tensor"),
  ("codes", "tensor", "tensor"),
  ("embed", "fsdp", None),
  ("layers", None, None),
  ("head_width", None, None),
  ("positions", None, None),
  ("qkv", None, None),
  ("rank", None, None),
)
STORED = tuple((axis, stored) for axis, stored, _ in TABLE)
IN_USE = tuple((axis, in_use) for axis, _, in_use in TABLE)
_BOTH = IN_USE + tuple((f"{layout.STORED}{axis}", stored) for axis, stored in STORED)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """A mesh with axes data, fsdp and tensor; one size of -1 takes the devices that are left.

  Over several TPU slices "data" goes from slice to slice first, since the network between them is
  the slowest.

  Args:
    config: the sizes.
    devices: where to; None for all that there are.

  Raises:
    UserError: the sizes do not fit the devices.
  """
  sizes = {"data": config.data, "fsdp": config.fsdp, "tensor": config.tensor}
  placed = list(jax.devices() if devices is None else devices)
  count = len(placed)
  free = [name for name, size in sizes.items() if size == -1]
  fixed = 1
  for name, size in sizes.items():
    if size < 1 and size != -1:
      raise UserError(f"mesh.{name}={size} must be at least 1, or -1 for the devices left.")
    fixed *= max(size, 1)
  if len(free) > 1 or count % fixed or (not free and fixed != count):
    shape = ", ".join(f"{name}={size}" for name, size in sizes.items())
    advice = "set one size to -1" if not free else f"{fixed} does not divide {count}"
    if len(free) > 1:
      advice = "only one size can be -1"
    raise UserError(f"The mesh ({shape}) does not fit the {count} devices: {advice}.")
  if free:
    sizes[free[0]] = count // fixed
  # Auto, not JAX's default Explicit: Linen's logical partitioning names axes, not types.
  types = (AxisType.Auto,) * 3
  count = slices(placed)
  if count == 1:
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), devices=placed, axis_types=types)
  if sizes["data"] % count:
    raise UserError(
      f"mesh.data={sizes['data']} is not a multiple of the {count} slices, which it goes over."
    )
  of_slice = (sizes["data"] // count, sizes["fsdp"], sizes["tensor"])
  grid = mesh_utils.create_hybrid_device_mesh(of_slice, (count, 1, 1), devices=placed)
  return Mesh(grid, tuple(sizes), axis_types=types)


def slices(devices: Iterable[jax.Device]) -> int:
  """How many TPU slices devices belong to; 1 for all others."""
  return len({getattr(device, "slice_index", 0) for device in devices})


@contextmanager
def over(mesh: Mesh) -> Iterator[None]:
  """What is traced in here is laid out over the mesh as the table says."""
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), nn.logical_axis_rules(_BOTH):
    yield


def param_shardings(axes: Any, mesh: Mesh) -> Any:
  """Shardings of a tree whose leaves are tuples of logical axis names (`lm.logical_axes`)."""
  specs = jax.tree.map(
    lambda names: PartitionSpec(*names), axes, is_leaf=lambda x: isinstance(x, tuple)
  )
  return nn.logical_to_mesh_sharding(specs, mesh, STORED)


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


# What to change where an axis cannot be split evenly.
_KEYS = {
  "vocab": "model.vocab_size",
  "heads": "model.heads",
  "codes": "model.width * model.overcompleteness",
  "embed": "model.width",
}


def check_divides(params: Any, axes: Any, mesh: Mesh) -> None:
  """Refuses a mesh that cannot split the parameters into equal parts, with a `UserError`."""
  where = dict(STORED)
  for names, x in zip(_leaves(axes), jax.tree.leaves(params), strict=True):
    for name, size in zip(names, x.shape, strict=True):
      parts = mesh.shape.get(where[name], 1)
      if size % parts:
        raise UserError(
          f"mesh.{where[name]}={parts} does not divide {_KEYS.get(name, name)}={size}: choose one "
          "that is a multiple of the other."
        )


def _leaves(axes: Any) -> list[tuple[str, ...]]:
  return jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, tuple))


def batch_sharding(mesh: Mesh, rows: int) -> NamedSharding:
  """Sharding of an array whose first axis is the batch, `rows` of which are computed at once."""
  parts = mesh.shape["data"] * mesh.shape["fsdp"]
  if rows % parts:
    raise UserError(
      f"train.batch_size / train.accumulation = {rows} is not a multiple of the mesh's "
      f"data x fsdp = {parts}."
    )
  return NamedSharding(mesh, PartitionSpec(dict(STORED)["batch"]))


def own_rows(sharding: NamedSharding, rows: int) -> np.ndarray:
  """Which rows of a batch this process's devices hold, in order."""
  places = sharding.addressable_devices_indices_map((rows,)).values()
  return np.unique([row for place in places if place for row in range(rows)[place[0]]])


def assemble(local_BT1: np.ndarray, sharding: NamedSharding, rows: int) -> jax.Array:
  """A batch over all processes from the rows that each of them has (`own_rows`)."""
  own = own_rows(sharding, rows)

  def part(index: tuple[slice, ...] | None) -> np.ndarray:
    assert index is not None  # that is for devices of others
    return local_BT1[np.searchsorted(own, range(rows)[index[0]])]

  return jax.make_array_from_callback((rows, local_BT1.shape[1]), sharding, part)


def replicated(mesh: Mesh) -> NamedSharding:
  """Sharding of what every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())
