"""What the experiments of benchmarks/soak.py share: a small run, its processes, its comparison."""

import dataclasses
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
STEPS, EVERY, ROWS = 60, 5, 8  # of a run: its steps, those between saves, windows in a batch
SMALL = (
  "--config=configs/tiny.py",
  "--config.model.width=32",
  "--config.model.heads=2",
  "--config.model.context=32",
  "--config.data.tokenizer=bytes",
  "--config.optimizer.warmup_steps=5",
  f"--config.train.steps={STEPS}",
  f"--config.train.batch_size={ROWS}",
  "--config.train.log_every_steps=1",
  "--config.evaluation.every_steps=20",
  "--config.evaluation.tokens=500",
  f"--config.checkpoint.every_steps={EVERY}",
  "--config.checkpoint.keep=3",
)
TIMINGS = {"tokens_per_second", "mfu"}  # of metrics.jsonl: what differs between equal runs
COMMAND = ("-m", "crate_jax.main")


class Row(NamedTuple):
  """A line of the table: what was tried, how often, and how often it went as promised."""

  what: str
  tried: int
  kept: int
  notes: str


def row(what: str, tried: int, bad: Sequence[str], *notes: str) -> Row:
  """A line of so many tries, of which `bad` tells those that did not go as promised."""
  shown = [f"NOT AS PROMISED: {one}" for one in bad[:5]]
  if len(bad) > 5:
    shown.append(f"and {len(bad) - 5} more")
  return Row(what, tried, tried - len(bad), "; ".join([*filter(None, notes), *shown]))


@dataclasses.dataclass
class Job:
  """Processes of one run, and the files of what each says."""

  processes: list[subprocess.Popen]
  logs: list[Path]

  def said(self, i: int = 0) -> str:
    """What a process has said until now."""
    return self.logs[i].read_text(errors="replace")

  def error(self) -> str:
    """The last line that each process said, to tell by."""
    last = [(self.said(i).strip().splitlines() or [""])[-1][:300] for i in range(len(self.logs))]
    return " | ".join(dict.fromkeys(last))

  @property
  def begun(self) -> bool:
    """Whether it has reported a step."""
    return bool(re.search(r"^step \d+/", self.said(), re.MULTILINE))


def start(
  folder: Path,
  run: Path,
  *flags: str,
  count: int = 1,
  name: str = "",
  command: Sequence[str] = COMMAND,
  devices: int = 1,
) -> Job:
  """Starts the small run in the folder `run`.

  Args:
    folder: that of the experiments, which holds the text and the logs.
    run: the run's.
    flags: further flags.
    count: processes of the job, started as launch/multiprocess.sh does.
    name: of the logs, if it is not that of the run.
    command: what Python is given before the flags.
    devices: of each process.
  """
  text, logs = folder / "text.txt", folder / "logs"
  logs.mkdir(parents=True, exist_ok=True)
  if not text.exists():
    write_text(text)
  environment = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "NPROC": "16",  # jax 0.10.2 can hang with several fake devices on fewer threads
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    "JAX_COMPILATION_CACHE_DIR": os.environ.get(
      "JAX_COMPILATION_CACHE_DIR", str(folder / "compiled")
    ),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    port = probe.getsockname()[1]
  job = Job([], [])
  for i in range(count):
    job.logs.append(logs / f"{name or run.name}-{i}.log")
    of_job = [f"--coordinator=localhost:{port}", f"--num_processes={count}", f"--process_id={i}"]
    arguments = [*SMALL, f"--config.data.train={text}", f"--workdir={run}", *flags]
    with job.logs[-1].open("w") as log:
      job.processes.append(
        subprocess.Popen(
          [sys.executable, *command, *arguments, *(of_job if count > 1 else [])],
          cwd=ROOT,
          env=environment,
          stdout=log,
          stderr=subprocess.STDOUT,
        )
      )
  return job


def finish(job: Job, timeout: float = 300) -> list[int]:
  """Exit statuses; a process that does not end in time is killed, and has -9."""
  deadline = time.monotonic() + timeout
  for process in job.processes:
    try:
      process.wait(max(deadline - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()
  return [process.returncode for process in job.processes]


def wait(job: Job, until: Callable[[], bool], timeout: float = 300) -> bool:
  """Waits for something as long as the job runs; whether it came."""
  deadline = time.monotonic() + timeout
  while time.monotonic() < deadline and all(p.poll() is None for p in job.processes):
    if until():
      return True
    time.sleep(0.002)
  return False


def difference(run: Path, other: Path) -> str:
  """What two runs ended differently in: the digests of the last state, or a metric; "" for none."""
  from crate_jax.errors import UserError
  from crate_jax.training import workdir as files

  try:
    ends = [files.read_meta(one) for one in (run, other)]
  except UserError as error:
    return str(error)
  for key in ("step", "examples", "skipped", "digests"):
    if ends[0][key] != ends[1][key]:
      return f"another {key} than the uninterrupted run's"
  lines = [
    [{k: v for k, v in line.items() if k not in TIMINGS} for line in files.read_metrics(one)]
    for one in (run, other)
  ]
  if lines[0] != lines[1]:
    first = [pair for pair in zip(*lines, strict=False) if pair[0] != pair[1]]
    return f"other metrics: {first[0] if first else [len(one) for one in lines]}"
  return ""


def straight(folder: Path, *flags: str, count: int = 1, name: str = "straight") -> Path:
  """A run that nothing interrupts; made once. The file NAME.seconds says how long it took."""
  run, began = folder / name, time.monotonic()
  if not (run / "result.json").exists():
    job = start(folder, run, *flags, count=count)
    if any(finish(job)):
      raise RuntimeError(f"A run that nothing interrupts failed: {job.logs[0]} says why.")
    (folder / f"{name}.seconds").write_text(str(time.monotonic() - began))
  return run


def fresh(run: Path) -> Path:
  """The folder of a run that is not there yet."""
  shutil.rmtree(run, ignore_errors=True)
  return run


def saved(run: Path, temporary: bool = False) -> list[int]:
  """Steps of the checkpoints that are there, or of those under way."""
  names = os.listdir(run / "checkpoints") if (run / "checkpoints").exists() else []
  if temporary:
    return sorted(int(name.split(".")[0]) for name in names if ".orbax-checkpoint-tmp" in name)
  return sorted(int(name) for name in names if name.isdigit())


def write_text(path: Path) -> None:
  """Writes thirty documents, about 60 kB of words that follow one another by chance."""
  rng = random.Random(0)
  words = "the cat sat on a mat and saw that dog run to his own red hat by it".split()  # noqa: SIM905
  documents = (" ".join(rng.choices(words, k=600)) + "\n" for _ in range(30))
  path.write_text("<|endoftext|>\n".join(documents))
