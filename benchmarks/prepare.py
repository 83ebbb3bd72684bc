"""How fast and in how much memory a text is prepared, beside Hugging Face's own `encode_batch`.

Both tokenise the same documents on the same cores, in turns; the first reads them from a packed
file, tokenises, checks, writes and syncs, the second has them in memory and does nothing else.
Prints a table; with --out writes OUT/prepare.md and .json.

  python benchmarks/prepare.py --text=train.txt.xz --tokenizer=gpt2/ --out=benchmarks/data
"""

import json
import shutil
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
ROUNDS = flags.DEFINE_integer("rounds", 3, "Times that each is done.", lower_bound=1)
OUT = flags.DEFINE_string("out", "", "Folder of the table; made if it is not there.")


def main() -> None:
  """Times both in turns."""
  rounds = []
  for number in range(ROUNDS.value):
    rounds.append({"encode_batch": _encode_batch(), **_prepare()})
    print(f"round {number + 1}: {rounds[-1]}", flush=True)
  _report(rounds)


def _encode_batch() -> float:
  """Seconds that the library takes for all documents, in a process of its own."""
  program = """
import sys, time, itertools
from pathlib import Path
from crate_jax.data import sources, tokenizer
documents = sources.read_documents(sys.argv[1])
encoder = tokenizer.make_tokenizer(sys.argv[2], [], [], 0, Path())._tokenizer
start = time.perf_counter()
for batch in itertools.batched(documents, 256) if hasattr(itertools, "batched") else (
    documents[i : i + 256] for i in range(0, len(documents), 256)):
  encoder.encode_batch(list(batch), add_special_tokens=False)
print(time.perf_counter() - start)
"""
  arguments = [sys.executable, "-c", program, TEXT.value, TOKENIZER.value]
  return float(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)


def _prepare() -> dict[str, Any]:
  """Seconds from the start of the command to its end, and the most memory of its processes."""
  folder = Path(tempfile.mkdtemp())
  try:
    arguments = [
      *(sys.executable, "-m", "crate_jax.prepare", "--config=configs/base.py"),
      *(f"--out={folder / 'out'}", f"--config.data.train={TEXT.value}"),
      f"--config.data.tokenizer={TOKENIZER.value}",
      f"--config.data.validation={_validation(folder)}",
    ]
    start, most = time.perf_counter(), [0]
    process = subprocess.Popen(
      arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[1]
    )
    watch = threading.Thread(target=_watch, args=(process.pid, most))
    watch.start()
    if process.wait():
      raise RuntimeError("python -m crate_jax.prepare failed.")
    seconds = time.perf_counter() - start
    watch.join()
    train = json.loads((folder / "out" / "manifest.json").read_text())["splits"]["train"]
    return {
      "prepare": seconds,
      "memory": most[0],
      "text_bytes": train["text_bytes"],
      "tokens": train["tokens"],
    }
  finally:
    shutil.rmtree(folder)


def _validation(folder: Path) -> Path:
  """A text of a few words, since only the training text is timed."""
  file = folder / "validation.txt"
  file.write_text("Nothing of the training text stands here.\n")
  return file


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


def _report(rounds: list[dict[str, Any]]) -> None:
  from crate_jax.training import report
  from crate_jax.training import workdir as files

  text, tokens = rounds[0]["text_bytes"], rounds[0]["tokens"]
  ratios = [one["encode_batch"] / one["prepare"] for one in rounds]
  lines = [
    f"{text / 1e6:.1f} MB of text, {tokens:,} tokens; {len(rounds)} rounds in turns, medians "
    "(lowest to highest).",
    "",
    "| | MB/s | seconds |",
    "|---|---|---|",
    *(
      f"| {name} | {text / 1e6 / statistics.median(seconds):.2f} "
      f"| {statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f}) |"
      for name, seconds in (
        ("tokenizers' `encode_batch`, text in memory", [one["encode_batch"] for one in rounds]),
        ("`python -m crate_jax.prepare`, file to shards", [one["prepare"] for one in rounds]),
      )
    ),
    "",
    f"Speed of the second, of the first's: {statistics.median(ratios):.0%} "
    f"({min(ratios):.0%} to {max(ratios):.0%}). Most memory of all its processes together: "
    f"{max(one['memory'] for one in rounds) / 1e6:.0f} MB.",
  ]
  facts = {"command": " ".join(["python", *sys.argv]), **report.environment()}
  lines += ["", *(f"{key}: {value}  " for key, value in facts.items())]
  print("\n".join(lines))
  if OUT.value:
    out = Path(OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    (out / "prepare.md").write_text("# Preparing data\n\n" + "\n".join(lines) + "\n")
    files.write_json(out / "prepare.json", {"rounds": rounds, **facts})


if __name__ == "__main__":
  cli.run(main, required=["text", "tokenizer"])
