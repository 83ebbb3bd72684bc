import jax
import jax.numpy as jnp
import models
import numpy as np
import pytest
import reference

from crate_jax.model.block import Block


# The mean up to 30 deviations from zero: beyond that float32 itself cannot hold 1e-5, since the sum
# x + mixing(x) that is normalised next is rounded relative to the mean.
@models.family
@pytest.mark.parametrize(("mean", "scale"), [(300.0, 10.0), (-0.3, 0.01), (0.0, 1e4)])
def test_is_accurate_in_float32_at_any_mean_and_scale(name, mean, scale):
  model = models.member(name)
  params = jax.tree.map(lambda x: x[0], models.random_params(model)["blocks"])
  x = np.random.default_rng(0).normal(mean, scale, (1, 12, 16)).astype(np.float32)
  got, _ = jax.jit(Block(model.config).apply)({"params": params}, jnp.asarray(x))
  want = reference.block(x[0].astype(np.float64), reference.wide(params), model.config)
  np.testing.assert_allclose(got[0], want, atol=1e-5 * np.abs(want).max(), rtol=0)
