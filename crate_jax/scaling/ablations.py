"""What each part of CRATE does for its loss, from a sweep over variants.

Reads the table of a sweep (configs/ablations.py) and compares every variant with crate of the same
seed, at its longest length, and those that were trained for longer there again: which help and
which hurt beyond the error, how much of the gap to gpt2 each closes, and what they cost. Writes
OUT/ablations.md, whose first paragraph says so in words, ablations.json and ablations.png. A table
that is not complete says what it lacks.

  python -m crate_jax.scaling.ablations --workdir=runs/ablations --out=runs/ablations/report
"""

import sys
from pathlib import Path

from absl import flags

from crate_jax import cli

WORKDIR = flags.DEFINE_string("workdir", "", "The sweep's folder.")
OUT = flags.DEFINE_string("out", "", "A folder for what is written, made if it is not there.")


def main() -> None:
  """Reads, compares, prints the words, and writes the three files."""
  from crate_jax.data import atomic  # not before: --help answers at once
  from crate_jax.scaling import ablations_report, effects, table
  from crate_jax.training import report
  from crate_jax.training import workdir as files

  out = Path(OUT.value).expanduser()
  studies = effects.studies(table.read(Path(WORKDIR.value).expanduser()))
  facts = {
    "command": " ".join(["python -m crate_jax.scaling.ablations", *sys.argv[1:]]),
    "commit": report.environment()["commit"],
  }
  out.mkdir(parents=True, exist_ok=True)
  found = [ablations_report.as_dict(study) for study in studies]
  files.write_json(out / "ablations.json", report.finite({"studies": found, **facts}))
  atomic.write(out / "ablations.md", ablations_report.markdown(studies, facts))
  ablations_report.draw(out / "ablations.png", studies)
  for study in found:
    print("\n\n".join(study["words"]), end="\n\n")
  print(f"written to {out}: ablations.md (every variant), ablations.json, ablations.png")


if __name__ == "__main__":
  cli.run(main, required=["workdir", "out"])
