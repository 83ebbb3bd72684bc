"""What a kill leaves beside a file that is written at once or not at all."""

import subprocess
import sys

import pytest

from crate_jax.data import atomic

pytestmark = pytest.mark.timeout(120)

WRITE = """
import os, signal, sys
from pathlib import Path
from crate_jax.data import atomic

atomic.write(Path(sys.argv[1]), sys.argv[2])
"""
# Is killed, by a signal that nothing can catch, when half of the bytes are in the file.
KILLED = WRITE.replace(
  "\natomic", "\nos.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\natomic"
)


def another(code, path, text):
  """Another process's exit status."""
  return subprocess.run([sys.executable, "-c", code, str(path), text], timeout=60).returncode


def test_a_kill_leaves_the_old_file_and_its_half_goes_with_the_next_process(tmp_path):
  path = tmp_path / "table[1].csv"
  assert another(WRITE, path, "old") == 0
  assert another(KILLED, path, "half") == -9
  (half,) = set(tmp_path.iterdir()) - {path}
  assert path.read_text() == "old" and half.name.endswith(".tmp")
  elsewhere = half.with_name(half.name.replace(atomic._mark(), "@another-machine-1@"))
  elsewhere.write_text("of a process that cannot be asked after here")
  assert another(WRITE, path, "new") == 0
  assert path.read_text() == "new" and set(tmp_path.iterdir()) == {path, elsewhere}


def test_the_half_file_of_a_process_that_runs_stays(tmp_path, monkeypatch):
  path, replace = tmp_path / "table.csv", atomic.os.replace

  def beside(temporary, name):  # another process writes the same file before this one is done
    monkeypatch.setattr(atomic.os, "replace", replace)
    assert another(WRITE, path, "other") == 0
    assert path.read_text() == "other" and temporary.exists()
    replace(temporary, name)

  monkeypatch.setattr(atomic.os, "replace", beside)
  atomic.write(path, "this")
  assert path.read_text() == "this" and list(tmp_path.iterdir()) == [path]
