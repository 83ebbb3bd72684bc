import os
import subprocess
import sys

import jax
import models
import pytest
from jax.sharding import PartitionSpec

from crate_jax.config import MeshConfig
from crate_jax.errors import UserError
from crate_jax.model import lm
from crate_jax.training import sharding


def test_every_logical_axis_is_in_the_table():
  table = dict(sharding.RULES)
  for architecture in ("crate", "gpt2"):
    axes = lm.logical_axes(models.small(architecture))
    names = jax.tree.leaves(axes)
    assert set(names) <= set(table)


def test_parameters_lie_as_the_table_says():
  mesh = sharding.make_mesh(MeshConfig(data=-1, fsdp=1, tensor=1))
  laid = sharding.param_shardings(lm.logical_axes(models.small()), mesh)
  assert laid["tokens"].spec == PartitionSpec("tensor", "fsdp")
  assert laid["blocks"]["features"]["dictionary"].spec == PartitionSpec(None, "tensor", "fsdp")


@pytest.mark.parametrize("sizes", [(2, 1, 1), (-1, -1, 1), (0, 1, 1), (-1, 3, 1)])
def test_a_mesh_that_does_not_fit_the_devices_is_refused(sizes):
  with pytest.raises(UserError, match="mesh"):
    sharding.make_mesh(MeshConfig(*sizes))


MESHES = """
import sys
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 8)
import conftest, dataclasses
from pathlib import Path
from crate_jax import config as config_lib
from crate_jax.config import MeshConfig
from crate_jax.evaluation import loss
from crate_jax.training import checkpoint, program as program_lib

c = config_lib.resolve(conftest.small_config(Path("x")), 256)
batch = np.random.default_rng(0).integers(0, 256, (8, 17), dtype=np.int32)
for mesh in [(8, 1, 1), (1, 8, 1), (2, 2, 2)]:
  program = program_lib.build(dataclasses.replace(c, mesh=MeshConfig(*mesh)))
  state = program.init(jax.random.key(0))
  losses = []
  for _ in range(3):
    state, metrics = program.update(state, jax.device_put(batch, program.batch_sharding))
    losses.append(float(metrics["loss"]))
  moments = state.opt_state[1][0].mu["blocks"]["features"]["dictionary"]
  assert moments.sharding == state.params["blocks"]["features"]["dictionary"].sharding
  print(*losses)

# Every device computes its own rows alone, in an update's parts and in evaluation.
c = dataclasses.replace(c, train=dataclasses.replace(c.train, batch_size=64, accumulation=4))
program = program_lib.build(dataclasses.replace(c, mesh=MeshConfig(8, 1, 1)))
state = program.init(jax.random.key(0))
text = program.update.lower(state, jax.ShapeDtypeStruct((64, 17), "int32")).compile().as_text()
assert "f32[2,16,256]" in text, "a part's 16 rows are two on each of 8 devices"
assert "f32[4,16,256]" not in text and "f32[16,16,256]" not in text and "f32[8,16,256]" not in text

rows, targets = np.zeros((8, 17), np.int32), np.full(8, 16, np.int32)
rows, targets = jax.device_put((rows, targets), program.batch_sharding)
text = loss._row_sums.lower(program.model, state.params, rows, targets).compile().as_text()
assert "f32[1,16,256]" in text and "f32[8,16,256]" not in text

with checkpoint.Checkpoints(Path(sys.argv[1]), c.checkpoint) as store:
  store.save(state, {})
"""

LOAD = """
import sys
from pathlib import Path
import conftest, jax
from crate_jax import config as config_lib
from crate_jax.model import lm
from crate_jax.training import checkpoint

c = config_lib.resolve(conftest.small_config(Path("x")), 256)
model = lm.LM(c.model)
with checkpoint.Checkpoints(Path(sys.argv[1])) as store:
  params = store.restore_params(0, lm.abstract_params(model))
want = jax.jit(lambda key: lm.init_params(model, key))(jax.random.key(0))
assert jax.device_count() == 1
assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), params, want))
"""


def _process(program, *arguments):
  environment = os.environ | {"PYTHONPATH": os.path.dirname(__file__)}
  done = subprocess.run(
    [sys.executable, "-c", program, *map(str, arguments)],
    capture_output=True, text=True, timeout=220, env=environment,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.mark.timeout(460)
def test_eight_devices_share_the_work_and_agree(tmp_path):
  lines = _process(MESHES, tmp_path).splitlines()
  losses = [[float(x) for x in line.split()] for line in lines]
  assert len(losses) == 3 and losses[0][2] < losses[0][0]
  for other in losses[1:]:
    assert other == pytest.approx(losses[0], rel=2e-6)
  _process(LOAD, tmp_path)  # one device reads what eight have written
