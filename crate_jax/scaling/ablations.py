"""What each part of CRATE does for its loss, from a sweep over variants.

Reads the table of a sweep (configs/ablations.py) and compares every variant with crate of the same
seed, at the longest length of each shape: which help and which hurt beyond the error, how much of
the gap to gpt2 each closes, and what they cost. Writes OUT/ablations.md, whose first paragraph says
so in words, ablations.json and ablations.png. A table that is not complete says what it lacks.

  python -m crate_jax.scaling.ablations --workdir=runs/ablations --out=benchmarks/ablations \\
    --long=runs/ablations_long
"""

import sys
from pathlib import Path

from absl import flags

from crate_jax import cli

WORKDIR = flags.DEFINE_string("workdir", "", "The sweep's folder.")
OUT = flags.DEFINE_string("out", "", "A folder for what is written, made if it is not there.")
LONG = flags.DEFINE_string("long", "", "The folder of a second sweep: the best, trained longer.")


def main() -> None:
  """Reads, compares, prints the words, and writes the three files."""
  from crate_jax.data import atomic  # not before: --help answers at once
  from crate_jax.scaling import ablations_report, effects, table
  from crate_jax.training import report
  from crate_jax.training import workdir as files

  out = Path(OUT.value).expanduser()
  rows = table.read(Path(WORKDIR.value).expanduser())
  longer = table.read(Path(LONG.value).expanduser()) if LONG.value else []
  sections = [(WORKDIR.value, effects.studies(rows, longer))]
  if LONG.value:
    sections.append((LONG.value, effects.studies(longer, rows)))
  facts = {
    "command": " ".join(["python -m crate_jax.scaling.ablations", *sys.argv[1:]]),
    "commit": report.environment()["commit"],
  }
  out.mkdir(parents=True, exist_ok=True)
  found = [
    {"workdir": folder, **ablations_report.as_dict(study)}
    for folder, studies in sections
    for study in studies
  ]
  files.write_json(out / "ablations.json", report.finite({"studies": found, **facts}))
  atomic.write(out / "ablations.md", ablations_report.markdown(sections, facts))
  ablations_report.draw(out / "ablations.png", sections)
  for study in found:
    print("\n\n".join(study["words"]), end="\n\n")
  print(f"written to {out}: ablations.md (every variant), ablations.json, ablations.png")


if __name__ == "__main__":
  cli.run(main, required=["workdir", "out"])
