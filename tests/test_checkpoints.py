import shutil
import subprocess
import sys

import conftest
from test_loop import damage

REMOVED = """
import shutil, sys
from crate_jax import checkpoints, cli
from crate_jax.training import checkpoint

read = checkpoint.Checkpoints.restore

def restore(self, step, like):
  if step == 5:  # as the run does that is trained meanwhile
    shutil.rmtree(self._folder(step))
  return read(self, step, like)

checkpoint.Checkpoints.restore = restore
cli.run(checkpoints.main, required=["workdir"])
"""


def run(workdir, *flags, program=("-m", "crate_jax.checkpoints")):
  return subprocess.run(
    [sys.executable, *program, f"--workdir={workdir}", *flags],
    cwd=conftest.ROOT, capture_output=True, text=True, timeout=120,
  )  # fmt: skip


def test_whole_ones_are_listed_and_a_damaged_one_is_an_error(done):
  _, workdir = done
  listed = run(workdir)
  assert listed.returncode == 0, listed.stderr
  five = listed.stdout.splitlines()[0]
  assert len(listed.stdout.splitlines()) == 2
  assert five.split()[:2] == ["step", "5"] and five.endswith("crate, 640 tokens drawn")
  verified = run(workdir, "--verify")
  assert verified.returncode == 0 and verified.stdout.count("; whole\n") == 2, verified.stderr
  damage(workdir, 5)
  verified = run(workdir, "--verify")
  assert verified.returncode == 1 and "DAMAGED: " in verified.stdout.splitlines()[0]
  assert verified.stdout.splitlines()[1].endswith("; whole")
  assert verified.stderr == f"error: Damaged checkpoints in {workdir}: 5.\n"
  shutil.rmtree(workdir / "checkpoints")
  assert "holds no checkpoint" in run(workdir).stderr


def test_one_that_its_run_removes_meanwhile_is_not_damaged(done):
  _, workdir = done
  verified = run(workdir, "--verify", program=("-c", REMOVED))
  assert verified.returncode == 0, verified.stderr
  five, ten = verified.stdout.splitlines()
  assert five.endswith("removed by its run meanwhile") and ten.endswith("; whole")
