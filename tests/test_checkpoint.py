import dataclasses

import jax
import jax.numpy as jnp
import models
import numpy as np
import optax
import pytest

from crate_jax.config import CheckpointConfig
from crate_jax.errors import UserError
from crate_jax.training import checkpoint, processes
from crate_jax.training.step import TrainState

CONFIG = CheckpointConfig(every_steps=5, every_minutes=2.0, keep=2)


def _state(step, seed=0):
  params = models.random_params(models.small(), seed)
  state = optax.adamw(1e-3).init(params)
  return TrainState(jnp.asarray(step, jnp.int32), params, state)


def test_what_is_saved_comes_back_bit_for_bit(tmp_path):
  state = _state(7)
  with checkpoint.Checkpoints(tmp_path, CONFIG) as store:
    store.save(state, {"config": {"a": 1}, "seconds": 2.5})
  with checkpoint.Checkpoints(tmp_path) as store:
    restored = store.restore(7, jax.tree.map(jnp.zeros_like, state))
    meta = store.meta(7)
    params = store.restore_params(7, state.params)
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  jax.tree.map(np.testing.assert_array_equal, restored, state)
  jax.tree.map(np.testing.assert_array_equal, params, state.params)
  assert meta == {"step": 7, "config": {"a": 1}, "seconds": 2.5}


def test_the_newest_are_kept(tmp_path):
  with checkpoint.Checkpoints(tmp_path, CONFIG) as store:
    for step in (1, 2, 3, 10):
      store.save(_state(step), {})
  assert checkpoint.steps(tmp_path) == [3, 10]
  assert checkpoint.choose_step(tmp_path, None) == 10
  assert checkpoint.choose_step(tmp_path, 3) == 3


def test_half_a_checkpoint_is_none(tmp_path):
  with checkpoint.Checkpoints(tmp_path, CONFIG) as store:
    store.save(_state(3), {})
  half = tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp"  # what a kill in a save leaves
  (half / "params").mkdir(parents=True)
  assert checkpoint.steps(tmp_path) == [3]
  with checkpoint.Checkpoints(tmp_path, CONFIG) as store:
    store.save(_state(4), {})
  assert checkpoint.steps(tmp_path) == [3, 4]


def test_a_missing_step_or_run_is_named(tmp_path):
  with pytest.raises(UserError, match="holds no checkpoint"):
    checkpoint.choose_step(tmp_path, None)
  assert not (tmp_path / "checkpoints").exists()  # looking makes nothing
  with checkpoint.Checkpoints(tmp_path, CONFIG) as store:
    store.save(_state(4), {})
  with pytest.raises(UserError, match=r"no checkpoint of step 5; it has \[4\]"):
    checkpoint.choose_step(tmp_path, 5)


def test_saves_are_due_by_step_and_by_minutes():
  now = 0.0
  policy = checkpoint.SavePolicy(CONFIG, agree_every=7, clock=lambda: now)
  due = []
  for step in range(1, 13):
    now += 50
    if policy.due(step):
      due.append(step)
  # 120 s have passed at step 3; step 5 restarts the clock; then at step 8; and so on
  assert due == [3, 5, 8, 10]


def test_intervals_of_zero_never_save():
  policy = checkpoint.SavePolicy(
    dataclasses.replace(CONFIG, every_steps=0, every_minutes=0.0), 1, clock=lambda: 1e9
  )
  assert not any(policy.due(step) for step in range(1, 100))


def test_the_clock_of_process_0_decides_for_all(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  asked = []

  def first_says(yes):
    asked.append(yes)
    return len(asked) == 2  # its clock is ahead of ours

  monkeypatch.setattr(processes, "first_says", first_says)
  by_time = dataclasses.replace(CONFIG, every_steps=0)
  policy = checkpoint.SavePolicy(by_time, agree_every=4, clock=lambda: 0.0)
  assert [step for step in range(1, 13) if policy.due(step)] == [8]
  assert asked == [False] * 3  # at steps 4, 8 and 12
