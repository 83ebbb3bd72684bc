"""Score against loss: over the checkpoints of runs, and over the runs of a sweep.

Reads the work directories of runs, or of sweeps (`scaling.sweep`), whose finished runs are all
taken. Every checkpoint that is kept is measured as `crate_jax.interpret.neurons` does it (trained,
and with each neuron's own top 1 % alone), into a folder of its own in OUT, where one that was
measured before is read. Networks of one kind differ in seed, length and checkpoint only; where a
sweep tried rates, each rate is a kind.

Writes OUT/tradeoff.md (tables), OUT/tradeoff.png and OUT/tradeoff.json: each point's loss, score
and share of active neurons; kinds compared where their losses are equal, read off between two
points, and there with neurons matched by how often they fire. Ends of runs are compared with ends,
and checkpoints on the way with such.

  python -m crate_jax.interpret.tradeoff --workdir=runs/crate,runs/gpt2 --out=runs/tradeoff
  python -m crate_jax.interpret.tradeoff --workdir=runs/ablations --out=runs/tradeoff --neurons=128
"""

import sys
from pathlib import Path

from absl import flags

from crate_jax import cli

WORKDIR = flags.DEFINE_list("workdir", [], "Folders of runs or sweeps, with commas between them.")
OUT = flags.DEFINE_string("out", "", "A folder for what is written, made if it is not there.")
DATA = flags.DEFINE_string("data", "", "A text file or folder; the runs' validation text if not.")
NEURONS = flags.DEFINE_integer("neurons", 0, "Neurons drawn of each layer; 0 for all.", 0)
TOKENS = flags.DEFINE_integer("tokens", 1 << 19, "Tokens of text to look at, at most.", 1)
SEED = flags.DEFINE_integer("seed", 0, "Of every draw.")


def main() -> None:
  """Measures what is not measured yet, and writes the report."""
  from crate_jax.interpret import record, states, tradeoff_report

  out = Path(OUT.value).expanduser()
  asked = states.Asked(
    DATA.value, NEURONS.value, 0, TOKENS.value, SEED.value, (record.TRAINED, record.OWN_TOP)
  )
  records = []
  for workdir in tradeoff_report.runs(WORKDIR.value):
    for step in tradeoff_report.steps(workdir):
      folder = out / "points" / f"{workdir.name}-{step}"
      records.append(states.kept(str(workdir), step, folder, asked))
      print(tradeoff_report.line(records[-1]), flush=True)
  command = " ".join(["python -m crate_jax.interpret.tradeoff", *sys.argv[1:]])
  tradeoff_report.write(out, records, SEED.value, command)
  print(f"written to {out}: tradeoff.md, tradeoff.png, tradeoff.json")


if __name__ == "__main__":
  cli.run(main, required=["workdir", "out"])
