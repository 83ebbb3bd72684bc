"""The launch scripts; what installs packages runs in launch/test.sh itself and in .ci/run."""

import os
import shutil
import subprocess

import conftest
import pytest


def _script(name, folder, **environment):
  return subprocess.run(
    ["bash", str(folder / "launch" / name)],
    capture_output=True, text=True, timeout=60, cwd="/", env=os.environ | environment,
  )  # fmt: skip


@pytest.fixture
def checkout(tmp_path):
  """A copy of what the scripts read, in a folder whose name has a space."""
  folder = tmp_path / "a checkout"
  shutil.copytree(conftest.ROOT / "launch", folder / "launch")
  for name in ("setup.cfg", "pyproject.toml"):
    shutil.copy(conftest.ROOT / name, folder)
  return folder


@pytest.mark.parametrize("name", ["local.sh", "test.sh"])
def test_a_python_that_is_missing_is_named(name, checkout):
  done = _script(name, checkout, PYTHON="/nonexistent/python3")
  assert done.returncode == 1
  assert done.stderr.startswith("PYTHON=/nonexistent/python3 is not a Python 3.11 or newer")
  assert done.stderr.count("\n") == 1
  assert not (checkout / ".venv").exists()


def test_an_old_python_is_refused(checkout, tmp_path):
  old = tmp_path / "python3"
  old.write_text("#!/bin/sh\nexit 1\n")  # says no to the question whether it is new enough
  old.chmod(0o755)
  done = _script("test.sh", checkout, PYTHON=str(old))
  assert done.returncode == 1 and done.stderr.count("\n") == 1
  assert "3.11 or newer" in done.stderr


def test_an_unknown_extra_is_named(checkout):
  done = _script("local.sh", checkout, EXTRAS="gpu", PYTHON="")
  assert done.returncode == 1 and done.stderr.count("\n") == 1
  assert 'EXTRAS names "gpu"' in done.stderr and "tpu tfds beam torch wandb test" in done.stderr


@pytest.mark.parametrize("name", ["local.sh", "test.sh", "setup.sh"])
def test_scripts_parse(name):
  subprocess.run(["bash", "-n", str(conftest.ROOT / "launch" / name)], check=True, timeout=20)
