"""Where a layer's neurons can be seen and set, the same for every feature step."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def neurons(module: nn.Module, a_BTC: jax.Array) -> jax.Array:
  """The neurons on their way to the decoder: as they are, or as a caller wants them.

  With "steering" among the variables given to `apply`, its value_C replaces neurons at every
  token, except where it is NaN. With "codes" or "gauges" among the mutable collections, the
  neurons, or each token's share of non-zero ones, are returned there. Without either nothing is
  computed.

  Args:
    module: the feature step; its variables are "steering"/value, "codes"/neurons and
      "gauges"/nonzero.
    a_BTC: codes (CRATE) or hidden units after the ReLU (GPT-2).
  """
  if module.has_variable("steering", "value"):
    value_C: jax.Array = module.get_variable("steering", "value")
    a_BTC = jnp.where(jnp.isnan(value_C), a_BTC, value_C.astype(a_BTC.dtype))
  module.sow("codes", "neurons", a_BTC)
  if module.is_mutable_collection("gauges"):
    module.sow("gauges", "nonzero", jnp.mean(a_BTC != 0, axis=-1, dtype=jnp.float32))
  return a_BTC
