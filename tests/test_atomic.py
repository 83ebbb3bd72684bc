"""What a kill leaves beside a file that is written at once or not at all."""

import subprocess
import sys

import pytest

from crate_jax.data import atomic

pytestmark = pytest.mark.timeout(120)

# Is killed, by a signal that nothing can catch, when half of the bytes are in the file.
KILLED = """
import os, signal, sys
from pathlib import Path
from crate_jax.data import atomic

os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
atomic.write(Path(sys.argv[1]), b"half")
"""


def test_a_kill_leaves_the_old_file_and_its_half_goes_with_the_next_write(tmp_path):
  path = tmp_path / "table[1].csv"
  atomic.write(path, "old")
  assert subprocess.run([sys.executable, "-c", KILLED, str(path)], timeout=60).returncode == -9
  (half,) = set(tmp_path.iterdir()) - {path}
  assert path.read_text() == "old" and half.name.endswith(".tmp")
  atomic.write(tmp_path / "another.csv", "its neighbour's half is not its own")
  assert half.exists()
  atomic.write(path, "new")
  assert path.read_text() == "new" and not half.exists()


def test_the_half_file_of_a_process_that_runs_stays(tmp_path, monkeypatch):
  path, replace = tmp_path / "table.csv", atomic.os.replace

  def beside(temporary, name):  # another process writes the same file before this one is done
    monkeypatch.setattr(atomic.os, "replace", replace)
    code = "import sys, pathlib\nfrom crate_jax.data import atomic\n"
    code += "atomic.write(pathlib.Path(sys.argv[1]), 'other')"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=60)
    assert path.read_text() == "other" and temporary.exists()
    replace(temporary, name)

  monkeypatch.setattr(atomic.os, "replace", beside)
  atomic.write(path, "this")
  assert path.read_text() == "this" and list(tmp_path.iterdir()) == [path]
