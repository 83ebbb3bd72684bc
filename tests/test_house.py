"""The house itself: what linters, types and strangers would trip over."""

import re
import subprocess
import sys

import conftest
import pytest


def _files(*patterns):
  done = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
    cwd=conftest.ROOT, capture_output=True, text=True, timeout=120,
  )  # fmt: skip
  if done.returncode:
    pytest.skip("not a git checkout")
  return [conftest.ROOT / name for name in done.stdout.split("\n") if name]


def _run(*command, timeout):
  done = subprocess.run(
    [sys.executable, "-m", *command],
    cwd=conftest.ROOT, capture_output=True, text=True, timeout=timeout,
  )  # fmt: skip
  assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_is_clean():
  _run("ruff", "check", ".", timeout=180)
  _run("ruff", "format", "--check", ".", timeout=180)


@pytest.mark.slow
def test_mypy_is_clean():
  _run("mypy", timeout=580)


def test_no_file_names_a_path_of_one_machine():
  path = re.compile(r"(?<![\w.~/-])/(?:home|root|work|Users|tmp)/\w")
  for file in _files():
    if file.suffix not in {".png", ".ipynb", ".parquet", ".safetensors"} and file.is_file():
      found = path.findall(file.read_text("utf-8").replace("mktemp", ""))
      assert not found, file


def test_every_test_module_is_named_after_what_it_tests():
  folders = ("crate_jax", "benchmarks")
  modules = {p.stem for folder in folders for p in (conftest.ROOT / folder).rglob("*.py")}
  modules |= {"house", "launch", "multiprocess", "benchmarks", "notebook", "readme"}
  tests = {p.stem.removeprefix("test_") for p in (conftest.ROOT / "tests").glob("test_*.py")}
  assert tests <= modules


def test_the_floors_import_downwards_only():
  allowed = {
    "model": {"errors", "model"},
    "data": {"errors", "data"},
    "config.py": {"errors", "model"},
    "evaluation": {"errors", "model", "data", "training", "evaluation"},
    "training": {"errors", "config", "lock", "model", "data", "evaluation", "training"},
  }
  package = conftest.ROOT / "crate_jax"
  pattern = re.compile(r"^\s*(?:from|import) crate_jax(?: import |\.)(\w+)", re.MULTILINE)
  for floor, below in allowed.items():
    files = [package / floor] if floor.endswith(".py") else (package / floor).rglob("*.py")
    for file in files:
      assert set(pattern.findall(file.read_text())) <= below, file
