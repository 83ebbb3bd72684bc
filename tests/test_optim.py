import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from crate_jax.config import OptimizerConfig
from crate_jax.errors import UserError
from crate_jax.training import optim

RECIPE = OptimizerConfig(
  learning_rate=6e-4,
  final_learning_rate=6e-5,
  schedule="cosine",
  warmup_steps=20,
  decay_fraction=0.2,
  beta1=0.9,
  beta2=0.95,
  weight_decay=0.1,
  clip_norm=1.0,
)


def test_cosine_is_warm_up_then_half_a_cosine():
  rate = optim.make_schedule(RECIPE, 100)
  for s in range(100):
    if s < 20:
      want = 6e-4 * (s + 1) / 20
    else:
      want = 6e-5 + (6e-4 - 6e-5) * (1 + math.cos(math.pi * (s - 20) / 80)) / 2
    assert float(rate(s)) == pytest.approx(want, rel=1e-5), s


def test_wsd_is_warm_up_then_constant_then_one_minus_sqrt():
  rate = optim.make_schedule(dataclasses.replace(RECIPE, schedule="wsd"), 100)
  for s in range(100):
    if s < 20:
      want = 6e-4 * (s + 1) / 20
    else:
      want = 6e-5 + (6e-4 - 6e-5) * (1 - math.sqrt(max(s - 80, 0) / 20))
    assert float(rate(s)) == pytest.approx(want, rel=1e-5), s


def test_wsd_without_a_decay_stays_constant():
  constant = dataclasses.replace(RECIPE, schedule="wsd", decay_fraction=0.0, warmup_steps=0)
  rate = optim.make_schedule(constant, 10)
  assert [float(rate(s)) for s in range(10)] == pytest.approx([6e-4] * 10, rel=1e-6)


@pytest.mark.parametrize(("schedule", "warmup"), [("cosine", 100), ("wsd", 81)])
def test_a_warm_up_that_does_not_fit_is_refused(schedule, warmup):
  recipe = dataclasses.replace(RECIPE, schedule=schedule, warmup_steps=warmup)
  with pytest.raises(
    UserError, match=f"optimizer.warmup_steps={warmup} can be at most {warmup - 1} "
  ):
    optim.make_schedule(recipe, 100)


def test_an_update_is_adamw_with_decay_on_matrices_alone():
  axes = {"blocks": {"bias": ("layers", "embed"), "kernel": ("layers", "embed", "codes")}}
  recipe = dataclasses.replace(RECIPE, warmup_steps=0, clip_norm=1.0)
  optimizer = optim.make_optimizer(recipe, 10, axes)
  rng = np.random.default_rng(0)
  shapes = {"bias": (2, 3), "kernel": (2, 3, 4)}
  p = {"blocks": {k: jnp.asarray(rng.standard_normal(s), jnp.float32) for k, s in shapes.items()}}
  g = {"blocks": {k: jnp.asarray(rng.standard_normal(s), jnp.float32) for k, s in shapes.items()}}
  updates, _ = optimizer.update(g, optimizer.init(p), p)
  got = optax.apply_updates(p, updates)

  flat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(g)]).astype(np.float64)
  norm = np.sqrt(np.sum(flat**2))
  assert norm > 1
  for name, decay in (("bias", 0.0), ("kernel", 0.1)):
    clipped = np.asarray(g["blocks"][name], np.float64) / norm
    step = clipped / (np.abs(clipped) + 1e-8)  # AdamW's first step, both moments bias-corrected
    before = np.asarray(p["blocks"][name], np.float64)
    np.testing.assert_allclose(got["blocks"][name], before - 6e-4 * (step + decay * before), 1e-5)


def test_decay_starts_where_the_rate_leaves_the_peak():
  assert optim.decay_start(RECIPE, 100) == 20
  assert optim.decay_start(dataclasses.replace(RECIPE, schedule="wsd"), 100) == 80
