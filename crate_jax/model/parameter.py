"""How a module declares a parameter."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from crate_jax.model import layout


def parameter(
  module: nn.Module,
  name: str,
  init: nn.initializers.Initializer,
  axes: dict[str, int],
  dtype: jax.typing.DTypeLike,
) -> jax.Array:
  """A parameter of a Linen module, with a logical name on every axis, as it is computed with.

  On a mesh this is where its parts are gathered: in the layer that uses it, in the type that it is
  used in.

  Args:
    module: who owns it.
    name: its name in the tree, which is its name on disk.
    init: its initial distribution.
    axes: logical name and size of every axis, in order.
    dtype: of the computation. What is stored is float32, or float64 in float64 models.
  """
  boxed = nn.with_logical_partitioning(init, tuple(axes))
  stored = jnp.promote_types(dtype, jnp.float32)
  value: jax.Array = module.param(name, boxed, tuple(axes.values()), stored)  # type: ignore[assignment]
  return layout.gather(value.astype(dtype), tuple(axes))
