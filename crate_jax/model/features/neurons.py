"""What is measured of a layer's neurons, the same for every feature step."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from crate_jax.model.activations import tap


def neurons(module: nn.Module, name: str, a_BTC: jax.Array) -> jax.Array:
  """The neurons on their way to the decoder; an activation like others (`activations.tap`).

  With "gauges" among the mutable collections each token's share of non-zero neurons is returned
  there, with "losses" the mean over tokens of the sum of their sizes; without nothing is computed.

  Args:
    module: the feature step; its variables are "gauges"/nonzero and "losses"/l1.
    name: of the activation.
    a_BTC: codes (ISTA) or hidden units (MLP).
  """
  a_BTC = tap(module, name, a_BTC)
  if module.is_mutable_collection("gauges"):
    module.sow("gauges", "nonzero", jnp.mean(a_BTC != 0, axis=-1, dtype=jnp.float32))
  if module.is_mutable_collection("losses"):
    wide = jnp.promote_types(a_BTC.dtype, jnp.float32)
    module.sow("losses", "l1", jnp.mean(jnp.sum(jnp.abs(a_BTC), axis=-1, dtype=wide)))
  return a_BTC
