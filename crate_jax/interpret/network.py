"""A network to look at: which of its neurons, in which state, on windows of text."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.sharding import Mesh

from crate_jax.interpret.excerpts import Excerpts
from crate_jax.model import activations, lm
from crate_jax.model.activations import Edit
from crate_jax.training import sharding as sharding_lib

Array = Any  # JAX's on a device, NumPy's once it is collected
See = Callable[[np.ndarray], Array]  # tokens_BT to activations_LBTn


class Network(NamedTuple):
  """A model to look at, in one of its states.

  Attributes:
    model: the Linen module.
    params: its parameters, or a fresh init's.
    units_Ln: which neurons of each layer.
    edits: what is changed inside.
  """

  model: lm.LM
  params: lm.Params
  units_Ln: np.ndarray
  edits: tuple[Edit, ...] = ()

  def see(self, mesh: Mesh | None = None) -> See:
    """A function of tokens_BT; over a mesh, if there is one, as in training.

    The rows must then be a multiple of the mesh's data x fsdp.
    """
    params = self.params
    if mesh:
      axes = lm.logical_axes(self.model)
      params = jax.device_put(params, sharding_lib.param_shardings(axes, mesh))
    edited = activations.collection(self.model.config, self.edits)
    variables, units_Ln = {"params": params, **edited}, jnp.asarray(self.units_Ln)

    def see(tokens_BT: np.ndarray) -> jax.Array:
      placed: np.ndarray | jax.Array = tokens_BT
      if mesh:
        rows = sharding_lib.batch_sharding(mesh, len(tokens_BT))
        placed = jax.make_array_from_callback(tokens_BT.shape, rows, lambda part: tokens_BT[part])
      return _see(self.model, mesh, variables, placed, units_Ln)

    return see


@functools.partial(jax.jit, static_argnums=(0, 1))
def _see(
  model: lm.LM,
  mesh: Mesh | None,
  variables: lm.Params,
  tokens_BT: jax.Array,
  units_Ln: jax.Array,
) -> jax.Array:
  name = activations.neurons(model.config)

  def apply() -> jax.Array:
    return activations.apply(model, variables, tokens_BT, [name])[1][name]

  if mesh is None:
    codes_LBTC = apply()
  else:
    with sharding_lib.over(mesh):
      codes_LBTC = apply()
  a_LBTn = codes_LBTC
  if units_Ln.shape[1] < codes_LBTC.shape[-1]:
    a_LBTn = jnp.take_along_axis(codes_LBTC, units_Ln[:, None, None], axis=-1)
  a_LBTn = a_LBTn.astype(jnp.float32)
  # Rules are made on the host: every process has all rows.
  whole = sharding_lib.replicated(mesh) if mesh else None
  return jax.lax.with_sharding_constraint(a_LBTn, whole) if whole else a_LBTn


class Batch(NamedTuple):
  """Windows and the neurons' activations on them.

  Attributes:
    tokens_BT: token ids.
    work_B: which work each window is of.
    a_LBTn: activations, float32.
  """

  tokens_BT: np.ndarray
  work_B: np.ndarray
  a_LBTn: Array


def batches(see: See, excerpts: Excerpts, rows: int, words: str = "") -> Iterator[Batch]:
  """Windows in their order, `rows` at a time (the last may be fewer), with a bar on a terminal."""
  count = len(excerpts.tokens_NT)
  bar = tqdm.tqdm(total=count, desc=words, disable=None, delay=2, leave=False)
  for first in range(0, count, rows):
    tokens_BT = excerpts.tokens_NT[first : first + rows]
    full_BT = np.zeros((rows, tokens_BT.shape[1]), np.int32)  # one shape, compiled once
    full_BT[: len(tokens_BT)] = tokens_BT
    a_LBTn = see(full_BT)[:, : len(tokens_BT)]
    yield Batch(tokens_BT, excerpts.work_N[first : first + rows], a_LBTn)
    bar.update(len(tokens_BT))
  bar.close()


def choose(codes: int, layers: int, most: int, seed: int) -> np.ndarray:
  """Neurons of each layer, units_Ln in ascending order: all of them, or `most` drawn by the seed.

  Args:
    codes: neurons of a layer.
    layers: of the network.
    most: 0 for all.
    seed: of the draw.
  """
  if not most or most >= codes:
    return np.tile(np.arange(codes), (layers, 1))
  return np.stack(
    [
      np.sort(np.random.default_rng([seed, layer]).choice(codes, most, replace=False))
      for layer in range(layers)
    ]
  )
