import subprocess
import sys

import conftest
import pytest

STALL = """
import sys, time
from crate_jax.training.watchdog import Watchdog
def a_batch_that_never_comes():
  time.sleep(60)
with Watchdog(float(sys.argv[1])) as watchdog:
  time.sleep(2)  # as reading a text may take: nothing is watched before the first `alive`
  for _ in range(4):
    time.sleep(0.5)
    watchdog.alive()
  print("alive", flush=True)
  if sys.argv[2] == "stall":
    a_batch_that_never_comes()
"""


def run(minutes, what):
  return subprocess.run(
    [sys.executable, "-c", STALL, str(minutes), what],
    cwd=conftest.ROOT, capture_output=True, text=True, timeout=150,
  )  # fmt: skip


def test_a_stall_ends_the_run_and_shows_where_it_stands():
  done = run(0.02, "stall")  # 1.2 s: longer than each of the four, shorter than all
  assert done.returncode == 134
  assert done.stdout == "alive\n"
  assert done.stderr.startswith("error: No step, save or batch of an evaluation has ended for 1s")
  assert "in a_batch_that_never_comes" in done.stderr


@pytest.mark.parametrize("minutes", [0, 0.02])
def test_a_run_that_moves_or_a_watchdog_of_zero_ends_nothing(minutes):
  done = run(minutes, "move")
  assert (done.returncode, done.stderr) == (0, "")
