"""Jobs of several real processes on this machine, which exchange over gloo."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import conftest
import jax
import pytest
from test_main import HEARS_INTERRUPTS, SMALL, command

from crate_jax.errors import UserError
from crate_jax.training import checkpoint, processes

WITHIN = 60  # seconds in which a broken job ends


class Job:
  """`count` processes of crate_jax.main; ended with the test, whatever happens in it."""

  def __init__(self, folder, count, *flags, start=None, each=lambda i: ()):
    self.folder = folder
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
      probe.bind(("localhost", 0))
      port = probe.getsockname()[1]
    self.logs = [folder / f"process-{i}.log" for i in range(count)]
    self.processes = []
    for i in range(count if start is None else start):
      with self.logs[i].open("w") as log:
        self.processes.append(
          subprocess.Popen(
            [sys.executable, "-m", "crate_jax.main", *SMALL, *flags, *each(i),
             f"--coordinator=localhost:{port}", f"--num_processes={count}", f"--process_id={i}"],
            cwd=conftest.ROOT, stdout=log, stderr=subprocess.STDOUT,
          )
        )  # fmt: skip

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    for process in self.processes:
      process.kill()
      process.wait()

  def log(self, i=0):
    return self.logs[i].read_text()

  def until(self, said, timeout=400):
    deadline = time.monotonic() + timeout
    while said not in self.log():
      assert time.monotonic() < deadline, self.log()
      assert all(process.poll() is None for process in self.processes), self.log()
      time.sleep(0.05)

  def codes(self, timeout=400):
    deadline = time.monotonic() + timeout
    return [process.wait(max(deadline - time.monotonic(), 0.1)) for process in self.processes]


def losses(workdir):
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  return {line["step"]: (line["batch_hash"], line["loss"]) for line in lines if "loss" in line}


def flags_of(text, workdir, *more):
  steps = [
    "--config.train.steps=120",
    "--config.train.batch_size=8",
    "--config.evaluation.every_steps=1000",
  ]
  return [f"--config.data.train={text}", f"--workdir={workdir}", *steps, *more]


@pytest.mark.timeout(1800)  # three starts of four processes
@pytest.mark.parametrize(
  ("count", "mesh"),
  [
    (2, ["--config.mesh.data=1", "--config.mesh.fsdp=2"]),
    pytest.param(4, ["--config.mesh.data=2", "--config.mesh.fsdp=2"], marks=pytest.mark.slow),
    pytest.param(
      2, ["--config.mesh.data=1", "--config.mesh.tensor=2"], marks=pytest.mark.slow
    ),
  ],
)  # fmt: skip
def test_processes_stop_together_resume_and_agree_with_one(count, mesh, text, tmp_path):
  vocabulary = "--config.model.vocab_size=258"
  alone = command("main", *SMALL, *flags_of(text, tmp_path / "alone", vocabulary))
  assert alone.returncode == 0, alone.stderr
  flags = flags_of(text, tmp_path / "run", vocabulary, *mesh)
  with Job(tmp_path / "first", count, *flags) as job:
    job.until("step 20/120")
    job.processes[-1].send_signal(signal.SIGTERM)
    assert job.codes() == [143] * count, job.log()
    lines = [line for i in range(count) for line in job.log(i).splitlines()]
    said = {line for line in lines if line.startswith("Stopped by SIGTERM")}
  (step,) = checkpoint.steps(tmp_path / "run")
  assert said == {
    f"Stopped by SIGTERM after step {step}, which is saved; the same command goes on from it."
  }
  by_time = "--config.checkpoint.every_minutes=0.05"  # all must save after the same steps
  with Job(tmp_path / "second", count, *flags, by_time) as job:
    assert job.codes() == [0] * count, job.log()
    assert f"resumed at step {step}\n" in job.log()
    assert "step" not in job.log(1)  # only process 0 speaks
  one, many = losses(tmp_path / "alone"), losses(tmp_path / "run")
  assert list(many) == list(one) == list(range(1, 121))
  for step in one:
    assert many[step][0] == one[step][0], step
    # Rounding grows with the steps, and differs with the order of sums.
    assert many[step][1] == pytest.approx(one[step][1], rel=2e-5 if step <= 20 else 1e-2), step
  results = [json.loads((tmp_path / x / "result.json").read_text()) for x in ("alone", "run")]
  assert results[0]["val_tokens"] == results[1]["val_tokens"]
  assert results[1]["val_loss"] == pytest.approx(results[0]["val_loss"], rel=1e-2)


@pytest.mark.slow
def test_what_one_process_cannot_read_all_go_back_from(text, tmp_path):
  mesh = ["--config.mesh.data=1", "--config.mesh.fsdp=2", "--config.model.vocab_size=258"]
  flags = flags_of(text, tmp_path / "run", *mesh, "--config.checkpoint.every_steps=10")
  with Job(tmp_path / "first", 2, *flags) as job:
    job.until("step 20/120")
    job.processes[0].send_signal(signal.SIGTERM)
    assert job.codes() == [143] * 2, job.log()
  *_, before, newest = checkpoint.steps(tmp_path / "run")
  for file in (tmp_path / f"run/checkpoints/{newest}/params/ocdbt.process_1/d").iterdir():
    file.write_bytes(bytes(file.stat().st_size))
  with Job(tmp_path / "second", 2, *flags) as job:
    assert job.codes() == [0, 0], job.log() + job.log(1)
    assert f"The checkpoint of step {newest} is damaged: " in job.log()
    assert f"resumed at step {before}\n" in job.log()
  assert (tmp_path / "run" / "damaged" / str(newest)).exists()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others(victim, text, tmp_path):
  flags = flags_of(text, tmp_path / "run", "--config.train.steps=100000")
  with Job(tmp_path / "logs", 2, *flags) as job:
    job.until("step 20/")
    job.processes[victim].kill()
    survivor = job.processes[1 - victim]
    code = survivor.wait(WITHIN)
    assert code in (134, -signal.SIGABRT), job.log(1 - victim)  # ours, or JAX's own abort
    log = job.log(1 - victim)
    assert "lost the others" in log or "another task died" in log


def test_a_process_that_never_arrives_is_not_waited_for(text, tmp_path):
  flags = flags_of(text, tmp_path / "run", "--wait_seconds=5")
  with Job(tmp_path / "logs", 2, *flags, start=1) as job:
    (code,) = job.codes(WITHIN)
    assert code in (134, -signal.SIGABRT), job.log()  # JAX's own abort
    assert "DEADLINE_EXCEEDED" in job.log()
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
  ("flag", "what"),
  [("--workdir={}/other", "run folder (--workdir must lie"), ("--config.seed=1", "config than")],
)
def test_processes_that_are_not_one_job_are_refused(flag, what, text, tmp_path):
  flags = flags_of(text, tmp_path / "run")
  with Job(
    tmp_path / "logs", 2, *flags, each=lambda i: [flag.format(tmp_path)] if i else []
  ) as job:
    assert all(code not in (0, 2) for code in job.codes()), job.log()
    assert f"error: Process 1 has another {what}" in job.log() + job.log(1)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_one_process_saves_when_it_is_asked_to_stop(number, status, text, tmp_path):
  flags = flags_of(text, tmp_path / "run", "--config.train.steps=100000")
  process = subprocess.Popen(
    [sys.executable, "-c", HEARS_INTERRUPTS, *SMALL, *flags],
    cwd=conftest.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
  )  # fmt: skip
  try:
    while "step 20/" not in process.stdout.readline():
      assert process.poll() is None, process.stderr.read()
    process.send_signal(number)
    _, stderr = process.communicate(timeout=WITHIN)
  finally:
    process.kill()
  assert process.returncode == status
  (step,) = checkpoint.steps(tmp_path / "run")
  assert f"Stopped by {number.name} after step {step}, which is saved" in stderr


TWICE = """
import os, signal
from crate_jax.training.processes import Stopping
signal.signal(signal.SIGINT, signal.default_int_handler)
with Stopping() as stopping:
  assert not stopping.now()
  os.kill(os.getpid(), signal.SIGINT)
  assert stopping.now() and stopping.asked_by == signal.SIGINT
  os.kill(os.getpid(), signal.SIGTERM)
  print("still here")
"""


def test_a_second_signal_ends_at_once():
  done = subprocess.run(
    [sys.executable, "-c", TWICE], cwd=conftest.ROOT, capture_output=True, text=True, timeout=150
  )
  assert (done.returncode, done.stdout) == (143, "")
  assert "stopping after this step" in done.stderr


@pytest.mark.parametrize(
  ("arguments", "sentence"),
  [
    (("", 2, 0), "go together"),
    (("localhost:1", None, 0), "go together"),
    (("localhost:1", 2, 2), "--process_id=2 is not one of 0 to 1"),
    (("localhost", 2, 1), "--coordinator=localhost is not HOST:PORT"),
    ((":8000", 2, 1), "--coordinator=:8000 is not HOST:PORT"),
    (("localhost:99999", 2, 1), "--coordinator=localhost:99999 is not HOST:PORT"),
  ],
)
def test_a_start_by_hand_is_checked(arguments, sentence):
  with pytest.raises(UserError, match=sentence):
    processes.start(*arguments, wait_seconds=1)


@pytest.mark.parametrize(
  ("environment", "several"),
  [
    ({}, False),
    ({"SLURM_STEP_NUM_TASKS": "1"}, False),
    ({"SLURM_NTASKS": "4"}, False),  # in sbatch's own shell, not under srun
    ({"SLURM_STEP_NUM_TASKS": "4"}, True),
    ({"TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": "tpu"}, True),
    ({"MEGASCALE_COORDINATOR_ADDRESS": "a", "JAX_PLATFORMS": ""}, True),
    ({"TPU_WORKER_HOSTNAMES": "a,b"}, False),  # JAX_PLATFORMS=cpu, as all tests have it
  ],
)
def test_a_job_is_found_by_its_environment(environment, several, monkeypatch):
  for name in [name for name in os.environ if name.startswith(("SLURM_", "TPU_", "MEGASCALE_"))]:
    monkeypatch.delenv(name)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  started = []
  monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: started.append(k))
  processes.start("", None, None, wait_seconds=7)
  assert [k["initialization_timeout"] for k in started] == [7] * several


def test_a_tpu_without_others_is_one_process(monkeypatch):
  def initialize(*args, **options):
    raise ValueError("coordinator_address should be defined.")

  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  monkeypatch.setattr(processes, "_in_a_job", lambda: True)
  processes.start("", None, None, wait_seconds=1)


def test_one_process_agrees_with_itself(tmp_path):
  processes.agree("anything", "at all")
  assert processes.first_says(True) and not processes.first_says(False)
  (tmp_path / "file").write_text("said")
  assert processes.written_by_first(tmp_path / "file") == "said"
  processes.finish()
