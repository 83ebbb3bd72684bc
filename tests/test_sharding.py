import os
import subprocess
import sys

import conftest
import jax
import models
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from crate_jax import config as config_lib
from crate_jax.config import MeshConfig
from crate_jax.errors import UserError
from crate_jax.model import lm
from crate_jax.training import checkpoint, sharding

EVERY = ("1", "8x1", "1x8", "2x4", "2x2x2")
FEW = ("1", "2x2x2")


def eight_devices(check, *arguments):
  """Runs a check of tests/eight_devices.py in a process of its own."""
  done = subprocess.run(
    [sys.executable, os.path.join(os.path.dirname(__file__), "eight_devices.py"), check,
     *map(str, arguments)],
    capture_output=True, text=True, timeout=550,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr


def test_every_logical_axis_is_in_the_table():
  known = {axis for axis, _, _ in sharding.TABLE}
  for name in models.FAMILY:
    assert set(jax.tree.leaves(lm.logical_axes(models.member(name)))) <= known


def test_parameters_lie_as_the_table_says():
  mesh = sharding.make_mesh(MeshConfig(data=-1, fsdp=1, tensor=1, topology=""))
  laid = sharding.param_shardings(lm.logical_axes(models.small()), mesh)
  assert laid["tokens"].spec == PartitionSpec("tensor", "fsdp")
  assert laid["blocks"]["features"]["dictionary"].spec == PartitionSpec(None, "tensor", "fsdp")


@pytest.mark.parametrize("sizes", [(2, 1, 1), (-1, -1, 1), (0, 1, 1), (-1, 3, 1)])
def test_a_mesh_that_does_not_fit_the_devices_is_refused(sizes):
  with pytest.raises(UserError, match="mesh"):
    sharding.make_mesh(MeshConfig(*sizes, topology=""))


def test_a_process_has_the_rows_of_its_devices():
  mesh = sharding.make_mesh(MeshConfig(1, 1, 1, ""))
  layout = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
  np.testing.assert_array_equal(sharding.own_rows(layout, 6), range(6))
  batch = np.arange(12).reshape(6, 2)
  np.testing.assert_array_equal(sharding.assemble(batch, layout, 6), batch)


def test_neurons_are_seen_the_same_over_eight_devices():
  eight_devices("neurons_agree")


def test_eight_devices_learn_as_one_does():
  eight_devices("losses_agree", "crate", *FEW)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["crate", "gpt2", "tost"])
def test_all_meshes_learn_as_one_device_does(architecture):
  eight_devices("losses_agree", architecture, *EVERY)


@pytest.mark.slow
def test_gradient_descent_ends_at_the_same_parameters_on_all_meshes():
  eight_devices("gradients_agree", *EVERY)


@pytest.mark.slow
def test_resumed_equals_straight_and_any_mesh_reads_any_other(tmp_path):
  eight_devices("resume", tmp_path, *EVERY)


@pytest.mark.slow
def test_one_device_reads_what_eight_have_written(text, tmp_path):
  eight_devices("save", tmp_path)
  model = lm.LM(config_lib.resolve(conftest.small_config(text), 256).model)
  with checkpoint.Checkpoints(tmp_path) as store:
    params = store.restore_params(0, lm.abstract_params(model))
  want = jax.jit(lambda key: lm.init_params(model, key))(jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, params, want)


@pytest.mark.slow
@pytest.mark.parametrize("check", ["work_is_shared", "uneven_meshes_are_refused", "scores_agree"])
def test_on_eight_devices(check):
  eight_devices(check)


@pytest.mark.parametrize(
  ("architecture", "dtype", "remat"),
  [
    ("crate", "float32", "none"),
    *(
      pytest.param(*case, marks=pytest.mark.slow)
      for case in [
        ("crate", "bfloat16", "none"),
        ("crate", "float32", "dots"),
        ("crate", "bfloat16", "full"),
        ("gpt2", "bfloat16", "none"),
      ]
    ),
  ],
)
def test_weights_are_gathered_in_the_loop(architecture, dtype, remat):
  eight_devices("weights_are_gathered_in_the_loop", architecture, dtype, remat)


@pytest.mark.parametrize(
  ("architecture", "steps"),
  [("crate", 2), *(pytest.param(*x, marks=pytest.mark.slow) for x in [("crate", 3), ("gpt2", 1)])],
)
def test_tensor_parallel_layers_sum_no_more_than_they_must(architecture, steps):
  eight_devices("exchanges_of_tensor_parallelism", architecture, steps)
