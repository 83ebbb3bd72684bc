import dataclasses
import gc

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
  digests = meta.pop("digests")
  assert meta == {"step": 7, "config": {"a": 1}, "seconds": 2.5}
  assert len(digests["params"]) == len(jax.tree.leaves(state.params))
  assert len(digests["optimizer"]) == len(jax.tree.leaves(state.opt_state))


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
      policy.saved()
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


@pytest.fixture
def saved(tmp_path):
  """Two checkpoints, and the state of each."""
  states = {step: _state(step, seed=step) for step in (5, 10)}
  with checkpoint.Checkpoints(tmp_path, CONFIG) as store:
    for state in states.values():
      store.save(state, {"config": {}})
  return states


# Where Orbax cannot read one array, it leaves the reads of the others behind, and Python says so.
orbax_leaves_reads = pytest.mark.filterwarnings(
  "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine:RuntimeWarning"
)


def _read(workdir, states, step=None):
  found, state = checkpoint.read_newest(workdir, lambda s, n: s.restore(n, states[5]), step)
  jax.tree.map(np.testing.assert_array_equal, state, states[found])
  gc.collect()  # what is left behind is found here, and not in another test
  return found


def _largest(folder):
  return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def _flip(file, bit):
  raw = bytearray(file.read_bytes())
  raw[bit // 8 % len(raw)] ^= 1 << bit % 8
  file.write_bytes(raw)


@orbax_leaves_reads
@pytest.mark.parametrize("item", ["params", "optimizer", "meta"])
@pytest.mark.parametrize("harm", ["flip", "truncate", "delete"])
def test_a_damaged_checkpoint_is_said_and_the_one_before_is_read(
  item, harm, saved, tmp_path, capfd
):
  file = _largest(tmp_path / "checkpoints" / "10" / item)
  if harm == "flip":
    _flip(file, 8 * (file.stat().st_size // 2) + 3)
  elif harm == "truncate":
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
  else:
    file.unlink()
  assert _read(tmp_path, saved) == 5
  said = capfd.readouterr().err
  assert "The checkpoint of step 10 is damaged: " in said and f"checkpoints/10/{item}" in said
  with pytest.raises(UserError, match="the checkpoint of step 10 is damaged"):
    _read(tmp_path, saved, step=10)
  checkpoint.set_aside(tmp_path, after=5)
  assert checkpoint.steps(tmp_path) == [5] and (tmp_path / "damaged" / "10").exists()


@orbax_leaves_reads
@pytest.mark.slow
def test_no_flipped_bit_is_ever_read(saved, tmp_path):
  whole = tmp_path / "checkpoints" / "10"
  files = sorted(path for path in whole.rglob("*") if path.is_file())
  fell_back = 0
  for i, file in enumerate(files):
    before = file.read_bytes()
    for k in range(3):
      _flip(file, (i * 7919 + k * 104729) % (8 * len(before)))
      fell_back += _read(tmp_path, saved) == 5  # it compares with what was saved
      file.write_bytes(before)
  assert fell_back > len(files) // 2  # of some files, such as _sharding, nothing is read
  assert _read(tmp_path, saved) == 10


def test_no_whole_checkpoint_is_an_error(saved, tmp_path):
  for step in (5, 10):
    _largest(tmp_path / "checkpoints" / str(step) / "meta").unlink()
  with pytest.raises(UserError, match=r"no checkpoint is whole \(.*meta"):
    _read(tmp_path, saved)


@orbax_leaves_reads
def test_links_and_strange_shapes_are_refused(saved, tmp_path, capfd):
  step = tmp_path / "checkpoints" / "10"
  file = _largest(step / "params")
  file.rename(tmp_path / "elsewhere")
  file.symlink_to(tmp_path / "elsewhere")
  assert _read(tmp_path, saved) == 5
  assert "is a link" in capfd.readouterr().err
  file.unlink()
  (tmp_path / "elsewhere").rename(file)
  assert _read(tmp_path, saved) == 10
  wide = jax.eval_shape(lambda p: jax.tree.map(lambda x: jnp.zeros((*x.shape, 10**6)), p), saved[5])
  with (
    checkpoint.Checkpoints(tmp_path) as store,
    pytest.raises(checkpoint.Damaged, match="arrays of other shapes than its config says"),
  ):
    store.restore_params(10, wide.params)


def test_leftovers_of_a_killed_save_are_removed(saved, tmp_path):
  half = tmp_path / "checkpoints" / "15.orbax-checkpoint-tmp" / "params"
  half.mkdir(parents=True)
  checkpoint.set_aside(tmp_path, after=10)
  assert not half.parent.exists() and checkpoint.steps(tmp_path) == [5, 10]


def test_a_full_disk_is_said(tmp_path, monkeypatch):
  with checkpoint.Checkpoints(tmp_path, CONFIG) as store:
    store.save(_state(5), {})
    store._manager.wait_until_finished()

    def full(*args, **options):
      raise ValueError("RESOURCE_EXHAUSTED: ... No space left on device [OS error 28]")

    monkeypatch.setattr(store._manager, "save", full)
    with pytest.raises(UserError, match=r"the disk that holds .* is full; whole ones .* \[5\]"):
      store.save(_state(10), {})


def test_a_state_that_is_saved_is_left_alone(tmp_path):
  with checkpoint.Checkpoints(tmp_path, CONFIG) as store:
    store.save(_state(5, seed=1), {})
    store.save(_state(5, seed=2), {})
  with checkpoint.Checkpoints(tmp_path) as store:
    state = store.restore(5, _state(5))
  jax.tree.map(np.testing.assert_array_equal, state, _state(5, seed=1))
