"""How fast and in how much memory a text is prepared, beside Hugging Face's own `encode_batch`.

They tokenise the same documents on the same cores, in turns: the library from memory, and doing
nothing else; `crate_jax.prepare` from a packed file to synced shards. With --kills the preparation
is also killed that often at random moments, and its bytes compared. Prints a table; with --out
writes OUT/prepare.md and .json. Needs the extra `test`.

  python benchmarks/prepare.py --text=train.txt.xz --tokenizer=gpt2/ --kills=10 \\
    --out=benchmarks/data
"""

import hashlib
import json
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from absl import flags

from crate_jax import cli

TEXT = flags.DEFINE_string("text", "", "The training text.")
TOKENIZER = flags.DEFINE_string("tokenizer", "", "As data.tokenizer.")
ROUNDS = flags.DEFINE_integer("rounds", 2, "Times that each is done.", lower_bound=1)
KILLS = flags.DEFINE_integer("kills", 0, "Times that a preparation is killed.", lower_bound=0)
OUT = flags.DEFINE_string("out", "", "Folder of the table; made if it is not there.")

ROOT = Path(__file__).parents[1]
LIBRARY = """
import sys, time
from pathlib import Path
from crate_jax.data import sources, tokenizer
method, text, kind = sys.argv[1:]
documents = sources.read_documents(text)
encoder = tokenizer.make_tokenizer(kind, [], [], 0, Path())._tokenizer
start = time.perf_counter()
for batch in tokenizer._in_batches(documents):
  getattr(encoder, method)(batch, add_special_tokens=False)
print(time.perf_counter() - start)
"""


def main() -> None:
  """Times them in turns, then kills."""
  folder = Path(tempfile.mkdtemp())
  (folder / "validation.txt").write_text("Nothing of the training text stands here.\n")
  try:
    rounds = []
    for number in range(ROUNDS.value):
      rounds.append(
        {name: _library(name) for name in ("encode_batch", "encode_batch_fast")} | _prepare(folder)
      )
      print(f"round {number + 1}: {rounds[-1]}", flush=True)
    _report(rounds, _kill(folder, rounds[0]["prepare"]) if KILLS.value else "")
  finally:
    shutil.rmtree(folder)


def _library(method: str) -> float:
  """Seconds that the library takes for all documents, in a process of its own."""
  arguments = [sys.executable, "-c", LIBRARY, method, TEXT.value, TOKENIZER.value]
  done = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
  return float(done.stdout)


def _start(folder: Path, out: str) -> subprocess.Popen:
  arguments = [
    *(sys.executable, "-m", "crate_jax.prepare", "--config=configs/base.py"),
    *(f"--out={folder / out}", f"--config.data.train={TEXT.value}"),
    f"--config.data.tokenizer={TOKENIZER.value}",
    f"--config.data.validation={folder / 'validation.txt'}",
  ]
  quiet = subprocess.DEVNULL
  return subprocess.Popen(arguments, stdout=quiet, stderr=quiet, cwd=ROOT)


def _prepare(folder: Path) -> dict[str, Any]:
  """Seconds from the start of the command to its end, and the most memory of its processes."""
  shutil.rmtree(folder / "straight", ignore_errors=True)
  start, most = time.perf_counter(), [0]
  process = _start(folder, "straight")
  watch = threading.Thread(target=_watch, args=(process.pid, most))
  watch.start()
  if process.wait():
    raise RuntimeError("python -m crate_jax.prepare failed.")
  seconds = time.perf_counter() - start
  watch.join()
  train = json.loads((folder / "straight" / "manifest.json").read_text())["splits"]["train"]
  counts = {key: train[key] for key in ("text_bytes", "tokens", "documents")}
  return {"prepare": seconds, "memory": most[0], **counts}


def _watch(pid: int, most: list[int]) -> None:
  """Notes the most memory that a process and its children have at once; shared pages count once."""
  try:
    root = psutil.Process(pid)
    while root.is_running() and root.status() != psutil.STATUS_ZOMBIE:
      total = 0
      for process in [root, *root.children(recursive=True)]:
        try:
          total += process.memory_full_info().pss
        except psutil.Error:  # it has just ended
          continue
      most[0] = max(most[0], total)
      time.sleep(0.2)
  except psutil.Error:
    return


def _kill(folder: Path, seconds: float) -> str:
  """Kills a preparation at random moments of what is left of it; says how it ended."""
  rng, killed, moments = random.Random(0), 0, []
  for _ in range(KILLS.value):
    process = _start(folder, "killed")
    moments.append(rng.uniform(0, seconds / 2))
    try:
      process.wait(moments[-1])
    except subprocess.TimeoutExpired:
      process.send_signal(signal.SIGKILL)
      process.wait()
      killed += 1
  if _start(folder, "killed").wait():
    raise RuntimeError("python -m crate_jax.prepare failed after it was killed.")
  same = _digests(folder / "killed") == _digests(folder / "straight")
  times = ", ".join(f"{moment:.1f}" for moment in moments)
  return (
    f"Started {KILLS.value} times and killed after {times} s ({killed} of them before its end), "
    f"then left alone: it ended in {'the same' if same else 'OTHER'} bytes."
  )


def _digests(folder: Path) -> dict[str, str]:
  return {
    file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
    for file in folder.rglob("*")
    if file.is_file()
  }


def _report(rounds: list[dict[str, Any]], killed: str) -> None:
  from crate_jax.training import report
  from crate_jax.training import workdir as files

  text, tokens, documents = (rounds[0][key] for key in ("text_bytes", "tokens", "documents"))
  rows = {
    "encode_batch": "tokenizers' `encode_batch`, text in memory",
    "encode_batch_fast": "its `encode_batch_fast` (no offsets), likewise",
    "prepare": "`python -m crate_jax.prepare`, file to shards",
  }
  lines = [
    f"{text / 1e6:.1f} MB of text in {documents:,} documents, {tokens:,} tokens; {len(rounds)} "
    "rounds in turns, medians (lowest to highest).",
    "",
    "| | MB/s | seconds | speed of `prepare`, of it |",
    "|---|---|---|---|",
  ]
  for name, label in rows.items():
    seconds = [one[name] for one in rounds]
    ratio = statistics.median(one[name] / one["prepare"] for one in rounds)
    spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
    lines.append(
      f"| {label} | {text / 1e6 / statistics.median(seconds):.2f} "
      f"| {statistics.median(seconds):.1f} ({spread}) | {ratio:.0%} |"
    )
  most = max(one["memory"] for one in rounds)
  lines += ["", f"Most memory of all processes of `prepare` together: {most / 1e6:.0f} MB."]
  lines += ["", killed] if killed else []
  facts = {"command": " ".join(["python", *sys.argv]), **report.environment()}
  lines += ["", *(f"{key}: {value}  " for key, value in facts.items())]
  print("\n".join(lines))
  if OUT.value:
    out = Path(OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    (out / "prepare.md").write_text("# Preparing data\n\n" + "\n".join(lines) + "\n")
    files.write_json(out / "prepare.json", {"rounds": rounds, "killed": killed, **facts})


if __name__ == "__main__":
  cli.run(main, required=["text", "tokenizer"])
