"""launch/multiprocess.sh: how its processes end, and that they are all gone then."""

import contextlib
import signal
import subprocess
import sys

import conftest
import psutil
import pytest
import test_launch
from test_launch import ENVIRONMENT, _printed, _script, _until

checkout, ready = test_launch.checkout, test_launch.ready

PROCESSES = """
import os, signal, subprocess, sys, time
flags = dict(a.lstrip("-").split("=", 1) for a in sys.argv[2:])
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(143)))
subprocess.Popen(["sleep", "61"])  # as a data worker that is left
print("process", flags["process_id"], sys.argv[2:], os.environ["NPROC"], flush=True)
open("started." + flags["process_id"], "w").write(flags["coordinator"])
try:
  seconds, code = flags["plan"].split(",")[int(flags["process_id"])].split(":")
  time.sleep(float(seconds))
except KeyboardInterrupt:
  sys.exit(130)
sys.exit(int(code))
"""


def _left_of(folder):
  """Processes that run in `folder`."""
  left = []
  for p in psutil.process_iter():
    with contextlib.suppress(psutil.Error, OSError):
      if p.cwd() == str(folder) and p.status() != psutil.STATUS_ZOMBIE:
        left.append(p)
  return left


@pytest.mark.parametrize(
  ("plan", "code"),
  [
    ("0:0,0:0,1:0", 0),
    ("0:3", 3),
    ("4:134,0:1,4:134", 1),  # the others end because of it; its code says why
    ("0:0,0:0,1:7", 7),
  ],
)
def test_processes_end_with_the_first_failure(plan, code, ready, tmp_path):
  (ready / "stub.py").write_text(PROCESSES)
  count = plan.count(",") + 1
  flags = [f"--plan={plan}", "--x=a b"]
  done = _script("multiprocess.sh", ready, str(count), *flags, TMPDIR=str(tmp_path))
  assert done.returncode == code, done.stderr
  assert f"process 0 {str(flags)[:-1]}, " in done.stdout and "process 1 [" not in done.stdout
  logs = sorted(tmp_path.glob("crate_jax-processes.*/process-*.log"))
  assert [p.name for p in logs] == [f"process-{i}.log" for i in range(1, count)]
  assert len({p.read_text() for p in ready.glob("started.*")}) == 1  # one coordinator
  _until(lambda: not _left_of(ready))  # the system ends what is killed a little later


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_processes_get_the_signal(number, code, ready, tmp_path):
  (ready / "stub.py").write_text(PROCESSES)
  command = ["bash", str(ready / "launch" / "multiprocess.sh"), "3", "--plan=60:0,60:0,60:0"]
  # A shell's job in the background ignores Ctrl-C, and so would all that these tests start there.
  hears = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL)"
  hears += "; os.execvp(sys.argv[1], sys.argv[1:])"
  script = subprocess.Popen(
    [sys.executable, "-c", hears, *command],
    stdout=subprocess.PIPE, text=True, env=ENVIRONMENT | {"TMPDIR": str(tmp_path)},
  )  # fmt: skip
  try:
    _until(lambda: all((ready / f"started.{i}").exists() for i in range(3)))
    script.send_signal(number)
    printed, _ = script.communicate(timeout=120)
  finally:
    script.kill()
  assert script.returncode == code
  if number == signal.SIGTERM:
    others = [p.read_text() for p in tmp_path.glob("crate_jax-processes.*/process-*.log")]
    assert [text.count("saved") for text in [printed, *others]] == [1, 1, 1]
  _until(lambda: not _left_of(ready))  # the system ends what is killed a little later


def test_processes_that_hang_are_killed(ready, tmp_path):
  """After a failure, and 90 seconds, here 3."""
  script = ready / "launch" / "multiprocess.sh"
  script.write_text(script.read_text().replace("SECONDS + 90", "SECONDS + 3"))
  (ready / "stub.py").write_text(PROCESSES)
  done = _script("multiprocess.sh", ready, "2", "--plan=60:0,0:5", TMPDIR=str(tmp_path))
  assert done.returncode == 5 and "they are killed" in done.stderr
  _until(lambda: not _left_of(ready))  # the system ends what is killed a little later


@pytest.mark.slow
def test_four_processes_train_the_tiny_config(tmp_path):
  """The script itself, with the real training, in this checkout."""
  workdir = tmp_path / "run"
  flags = ["--config.train.steps=20", "--config.optimizer.warmup_steps=2", "--config.mesh.fsdp=2"]
  done = subprocess.run(
    [str(conftest.ROOT / "launch" / "multiprocess.sh"), "4", "--config=configs/tiny.py",
     f"--workdir={workdir}", *flags],
    capture_output=True, text=True, timeout=550, env=ENVIRONMENT | {"TMPDIR": str(tmp_path)},
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert "mesh: data 2, fsdp 2, tensor 1" in done.stdout and "step 20/20" in done.stdout
  assert (workdir / "result.json").exists()
  for log in tmp_path.glob("crate_jax-processes.*/process-*.log"):
    assert "step" not in log.read_text()  # only process 0 speaks


def test_processes_train_the_tiny_config_by_default(checkout):
  commands = _printed(_script("multiprocess.sh", checkout, "--dry_run", "2"))
  assert [c[-1] for c in commands] == ["--process_id=0", "--process_id=1"]
  assert commands[0][3:5] == ["--config=configs/tiny.py", "--workdir=runs/multiprocess"]
