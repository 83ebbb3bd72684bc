"""How arrays lie over the devices, said by logical axis names alone.

Which mesh axis a name stands for is known to the program that is being traced
(`training.sharding.over`). Outside of one, on a single device, nothing here does anything.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.extend
from jax.sharding import PartitionSpec

STORED = "stored_"  # before an axis' name: as it is stored, where that differs from its use
Axes = Sequence[str | None]  # logical name of every axis of an array, None for one without


def constrain(x: jax.Array, axes: Axes) -> jax.Array:
  """Lays an array out, and its gradient likewise."""
  return nn.with_logical_constraint(x, tuple(axes)) if on_a_mesh() else x


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gather(x: jax.Array, axes: Axes) -> jax.Array:
  """Brings a parameter, stored in parts, to where it is computed with.

  Its gradient goes the other way: from sums on every device to parts of the whole sum, where the
  parameter is stored. Left to itself it would be whole on every device in between.
  """
  return constrain(x, axes)


def _gather_forward(x: jax.Array, axes: Axes) -> tuple[jax.Array, None]:
  return constrain(x, axes), None


def _gather_backward(axes: Axes, _: None, gradient: jax.Array) -> tuple[jax.Array]:
  return (constrain(gradient, [f"{STORED}{axis}" for axis in axes]),)


gather.defvjp(_gather_forward, _gather_backward)


def keep_what_is_in_place(primitive: jax.extend.core.Primitive, *_: Any, **__: Any) -> bool:
  """A policy of rematerialisation: the backward pass rounds and gathers parameters again by itself.

  A layer's parameters are gathered where they are used. Were the gathered ones kept for the
  backward pass, those of all layers would be whole on every device after all.
  """
  return primitive.name not in ("convert_element_type", "sharding_constraint")


def mesh_axes(axis: str) -> tuple[str, ...]:
  """The mesh axes that a logical axis is really split along; none outside of a mesh."""
  if not on_a_mesh():
    return ()
  (names,) = _spec([axis])
  sizes = jax.sharding.get_abstract_mesh().shape
  names = (names,) if isinstance(names, str) else tuple(names or ())
  return tuple(name for name in names if sizes[name] > 1)


def per_device(
  function: Callable[..., Any], inputs: Sequence[Axes], outputs: Sequence[Axes]
) -> Callable[..., Any]:
  """The function, given each device's part of its arguments instead of the whole ones.

  Args:
    function: of arrays to a tuple of arrays. What it sums over devices itself, it sums by
      `mesh_axes`.
    inputs: the axes of every argument; those that are not split arrive whole.
    outputs: the axes of every result; what is not split must be the same on all devices.
  """
  if not on_a_mesh():
    return function
  specs = tuple(map(_spec, inputs)), tuple(map(_spec, outputs))
  # Unchecked: the checker wants every sum over devices told in its own terms.
  return jax.shard_map(function, in_specs=specs[0], out_specs=specs[1], check_vma=False)


def on_a_mesh() -> bool:
  """Whether what is traced here is laid out over several devices."""
  mesh = jax.sharding.get_abstract_mesh()
  return bool(nn.get_logical_axis_rules()) and math.prod(mesh.shape.values()) > 1


def _spec(axes: Axes) -> PartitionSpec:
  spec = nn.logical_to_mesh_axes(tuple(axes))
  assert spec is not None  # None is for no axes at all
  return spec
