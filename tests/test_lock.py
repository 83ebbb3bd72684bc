import os
import signal
import subprocess
import sys
import time

import conftest
import pytest

from crate_jax import lock
from crate_jax.errors import UserError

HOLD = """
import sys, time
from pathlib import Path
from crate_jax import lock
with lock.held(Path(sys.argv[1]), "it"):
  (Path(sys.argv[1]) / "config.json").write_text("{}")
  print("held", flush=True)
  time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
  process = subprocess.Popen(
    [sys.executable, "-c", HOLD, tmp_path / "run"],
    cwd=conftest.ROOT, stdout=subprocess.PIPE, text=True,
  )  # fmt: skip
  assert process.stdout.readline() == "held\n"
  with process:
    yield process
    process.kill()


def test_a_second_writer_is_refused_at_once_and_told_by_whom(holder, tmp_path):
  start = time.monotonic()
  with (
    pytest.raises(UserError, match=f"^the run is being written to by process {holder.pid} on "),
    lock.held(tmp_path / "run", "the run"),
  ):
    pass
  assert time.monotonic() - start < 5


def test_the_death_of_its_holder_frees_it(holder, tmp_path):
  os.kill(holder.pid, signal.SIGKILL)
  holder.wait(10)
  with lock.held(tmp_path / "run", "the run"):
    assert f'"pid": {os.getpid()}' in (tmp_path / "run" / "lock").read_text()
  with lock.held(tmp_path / "run", "the run"):
    pass


def test_one_that_wrote_nothing_leaves_nothing(tmp_path):
  with lock.held(tmp_path / "run", "the run"):
    assert (tmp_path / "run" / "lock").exists()
  assert not (tmp_path / "run").exists()


def test_a_holder_that_cannot_be_read_still_holds(tmp_path):
  (tmp_path / "lock").write_text("not JSON")
  assert "being written to by another process" in lock._refusal(tmp_path, "it")
