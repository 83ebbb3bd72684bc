"""Digests of arrays: the same however they lie over devices, and different if one bit is."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


def digests(tree: Any) -> dict[str, str]:
  """A digest of every array of a tree, by its path in it.

  Each is the array's type, its shape, and two sums modulo 2^32 over its bits, in words of 32: of
  every word times an odd number that depends on its place, and of every word and its place mixed
  (murmur3's finaliser). A sum of integers does not depend on its order, and so not on the mesh. A
  change of one word changes both for certain: an odd number times what is not zero is not zero, and
  the mixing is one to one.

  Args:
    tree: JAX arrays, all on the same devices.
  """
  leaves = jax.tree.leaves_with_path(tree)
  if not leaves:
    return {}
  sharding = leaves[0][1].sharding
  on_mesh = isinstance(sharding, NamedSharding)
  whole = NamedSharding(sharding.mesh, PartitionSpec()) if on_mesh else None
  sums_N2 = np.asarray(_sums(whole)([leaf for _, leaf in leaves]))
  return {
    jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}:{one:08x}{two:08x}"
    for (path, leaf), (one, two) in zip(leaves, sums_N2, strict=True)
  }


@functools.cache
def _sums(whole: NamedSharding | None) -> Any:
  """The jitted sums of a list of arrays, (N, 2) uint32, in every process."""

  def sums(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([_sum(leaf) for leaf in leaves])

  return jax.jit(sums, out_shardings=whole)


def _sum(x: jax.Array) -> jax.Array:
  word = jnp.dtype(f"uint{8 * min(x.dtype.itemsize, 4)}")
  words = jax.lax.bitcast_convert_type(x, word).astype(jnp.uint32)  # of 64 bits: one axis more
  place, stride = jnp.zeros(words.shape, jnp.uint32), 1
  for axis in reversed(range(words.ndim)):
    step = np.uint32(stride % 2**32)
    place += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * step
    stride *= words.shape[axis]
  one = jnp.sum(words * (2 * place + 1), dtype=jnp.uint32)
  mixed = words + place * np.uint32(0x9E3779B9)
  mixed = (mixed ^ (mixed >> 16)) * np.uint32(0x85EBCA6B)
  mixed = (mixed ^ (mixed >> 13)) * np.uint32(0xC2B2AE35)
  two = jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)
  return jnp.stack([one, two])
