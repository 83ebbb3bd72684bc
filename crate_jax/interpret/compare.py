"""Compares the neurons of networks: two checkpoints, or two kinds of network with several seeds.

Reads the runs' work directories and a text, by default the validation text that they share. Runs
whose models, rates and lengths are equal are seeds of one kind; a kind with a single run is that
checkpoint, and nothing is said of other seeds. Every run is measured as
`crate_jax.interpret.neurons` does, into a folder of its own in OUT, where one that was measured
before is read.

Writes OUT/index.html (a page that needs nothing else, with two models' neurons side by side),
OUT/neurons.md (its tables) and OUT/sheet.html (both models' neurons, blinded:
`interpret.agreement`). The tables are the scores of each kind, their differences by layer with
Holm's correction, and the same with the neurons matched by how often they fire.

  python -m crate_jax.interpret.compare --workdir=runs/crate,runs/gpt2 --out=runs/neurons
  python -m crate_jax.interpret.compare --out=runs/neurons --data=books.txt.xz \\
    --workdir=runs/crate-0,runs/crate-1,runs/crate-2,runs/gpt2-0,runs/gpt2-1,runs/gpt2-2
"""

import sys
from pathlib import Path

from absl import flags

from crate_jax import cli

WORKDIR = flags.DEFINE_list("workdir", [], "The runs' folders, with commas between them.")
OUT = flags.DEFINE_string("out", "", "A folder for what is written, made if it is not there.")
DATA = flags.DEFINE_string("data", "", "A text file or folder; the runs' validation text if not.")
NEURONS = flags.DEFINE_integer("neurons", 0, "Neurons drawn of each layer; 0 for all.", 0)
SHOWN = flags.DEFINE_integer("shown", 32, "Neurons of each layer that have a page, drawn.", 1)
TOKENS = flags.DEFINE_integer("tokens", 1 << 20, "Tokens of text to look at, at most.", 1)
SEED = flags.DEFINE_integer("seed", 0, "Of every draw.")


def main() -> None:
  """Measures what is not measured yet, and writes the report."""
  from crate_jax.interpret import compare_report, neurons_report, states

  out = Path(OUT.value).expanduser()
  asked = states.Asked(DATA.value, NEURONS.value, SHOWN.value, TOKENS.value, SEED.value)
  folders = states.folders(WORKDIR.value, out)
  records = {}
  for workdir, folder in folders.items():
    print(f"{workdir}: ", end="", flush=True)
    records[workdir] = states.kept(workdir, None, folder, asked)
    print(f"measured, in {folder}", flush=True)
  kinds = compare_report.kinds(records)
  comparison = compare_report.compare(kinds, SEED.value)
  command = " ".join(["python -m crate_jax.interpret.compare", *sys.argv[1:]])
  # Side by side stands one run of each of the first two kinds.
  first = {name: next(iter(runs)) for name, runs in list(kinds.items())[:2]}
  models = [(name, folders[workdir]) for name, workdir in first.items()]
  blocks = compare_report.blocks(kinds, comparison, command)
  neurons_report.write(out, "Neurons compared", blocks, models, SEED.value)
  print(comparison.lead.replace("**", ""))
  print(f"written to {out}: index.html, neurons.md, and a folder for each run")


if __name__ == "__main__":
  cli.run(main, required=["workdir", "out"])
