"""What training survives: the real command, killed, stopped, raced, starved, and its files damaged.

  kills    SIGKILL at random moments, a third of them inside a save, then the same command again
  damage   every file of the newest checkpoint: a bit flipped, cut, deleted
  stops    SIGTERM at random moments, on one process and on four
  races    two runs started at once on one folder
  disk     a disk that fills, and has room again (a tmpfs: needs root)
  numbers  a loss that is NaN at one batch, at several in a row, for ever
  sweeps   a sweep of several models, killed at random moments, a quarter of them inside a decay
  counts   fewer devices, and fewer processes, at each start
  fuzz     mutated runs and prepared data, loaded
  cost     seconds that digests take

Each compares with a run of the same small model that nothing interrupts: digests of the last
state, and all metrics but timings. What is finished stands in WORKDIR/RESULT.json and is not run
again; the folders of what did not go as promised stay in WORKDIR. Prints a table; with --out writes
OUT/soak.md and .json. The exit status is 1 if something did not go as promised. An hour or two on
two cores.

  python benchmarks/soak.py --workdir=runs/soak --out=benchmarks/soak
  python benchmarks/soak.py --workdir=runs/quick --only=kills,races --share=0.1
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks import soak_files, soak_runs, soak_sweep
from benchmarks.soak_jobs import Row
from crate_jax import cli
from crate_jax.errors import UserError

# Each with how often it tries; None where there is nothing to choose.
EXPERIMENTS: dict[str, tuple[Callable[..., list[Row]], int | None]] = {
  "kills": (soak_runs.kills, 60),
  "damage": (soak_files.damage, 20),
  "stops": (soak_runs.stops, 20),
  "races": (soak_runs.races, 20),
  "disk": (soak_runs.disk, None),
  "numbers": (soak_runs.numbers, None),
  "sweeps": (soak_sweep.sweeps, 20),
  "counts": (soak_runs.counts, None),
  "fuzz": (soak_files.fuzz, 400),
  "cost": (soak_files.cost, None),
}

WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the runs; made if it is not there.")
ONLY = flags.DEFINE_list("only", list(EXPERIMENTS), "Experiments.")
SHARE = flags.DEFINE_float("share", 1.0, "Part of the tries that are made.", lower_bound=0.01)
OUT = flags.DEFINE_string("out", "", "Folder of the table; made if it is not there.")


def main() -> None:
  """Runs what is not finished, and reports all."""
  from crate_jax.training import report

  for name in ONLY.value:
    if name not in EXPERIMENTS:
      raise flags.Error(f"--only={name} is not one of: {', '.join(EXPERIMENTS)}.")
  folder = Path(WORKDIR.value).expanduser().absolute()
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / "RESULT.json"
  results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
  for name in ONLY.value:
    if name in results:
      continue
    experiment, tries = EXPERIMENTS[name]
    began = time.monotonic()
    rows = experiment(folder, *([] if tries is None else [max(1, round(tries * SHARE.value))]))
    rows = [row._replace(notes=row.notes.replace(str(folder), "WORKDIR")) for row in rows]
    seconds = time.monotonic() - began
    facts = {"seconds": seconds, "commit": report.environment()["commit"]}
    results[name] = {**facts, "rows": [row._asdict() for row in rows]}
    path.write_text(json.dumps(results, indent=2) + "\n")
    for row in rows:
      print(f"{name}: {row.kept} of {row.tried}: {row.what}; {row.notes}", flush=True)
  _report({name: results[name] for name in EXPERIMENTS if name in results})


def _report(results: dict[str, Any]) -> None:
  from crate_jax.training import report
  from crate_jax.training import workdir as files

  lines = ["| | what was tried | as promised | notes |", "|---|---|---|---|"]
  bad = []
  for name, result in results.items():
    for row in result["rows"]:
      cells = [name, row["what"], f"{row['kept']} of {row['tried']}", row["notes"]]
      lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
      bad += [name] * (row["kept"] < row["tried"])
  facts = {"command": " ".join(["python", *sys.argv]), **report.environment()}
  spent = [
    f"{name} {report.duration(r['seconds'])} at {r['commit'][:7]}" for name, r in results.items()
  ]
  lines += [
    "",
    f"Time, and commit: {', '.join(spent)}.",
    "",
    *(f"{key}: {value}  " for key, value in facts.items()),
  ]
  print("\n".join(lines))
  if OUT.value:
    out = Path(OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    (out / "soak.md").write_text("# What training survives\n\n" + "\n".join(lines) + "\n")
    files.write_json(out / "soak.json", {"experiments": results, **facts})
  if bad:
    raise UserError(f"Not everything went as promised: {', '.join(dict.fromkeys(bad))}.")


if __name__ == "__main__":
  cli.run(main, required=["workdir"])
