"""Explains a run's neurons by rules, and scores the explanations on other works.

Reads a run's work directory and a text, by default the run's validation text. Works of the text are
divided: rules are made from one half, chosen between on a tenth, and scored on the rest. Measures
the trained network, the same before training, with attention zeroed, and with only each neuron's
own top 1 % of activations. No language model is asked and nothing is downloaded.

Writes OUT/index.html (a page that needs nothing else), OUT/neurons.md (its tables), OUT/sheet.html
(on which people say which excerpt belongs to a neuron: `interpret.agreement`), and the files
that `crate_jax.interpret.record` lists: every neuron's numbers and rule as parquet, and the shown
neurons' activations as delphi reads them. What was killed starts anew, what had ended is read.

  python -m crate_jax.interpret.neurons --workdir=runs/tiny --out=runs/tiny/neurons
  python -m crate_jax.interpret.neurons --workdir=runs/base --out=runs/base/neurons \\
    --neurons=256 --data=books.txt.xz
"""

import sys
from pathlib import Path

from absl import flags

from crate_jax import cli

WORKDIR = flags.DEFINE_string("workdir", "", "The run's folder.")
STEP = flags.DEFINE_integer("step", None, "One of its checkpoints; the newest if not given.", 0)
OUT = flags.DEFINE_string("out", "", "A folder for what is written, made if it is not there.")
DATA = flags.DEFINE_string("data", "", "A text file or folder; the run's validation text if not.")
NEURONS = flags.DEFINE_integer("neurons", 0, "Neurons drawn of each layer; 0 for all.", 0)
SHOWN = flags.DEFINE_integer("shown", 32, "Neurons of each layer that have a page, drawn.", 1)
TOKENS = flags.DEFINE_integer("tokens", 1 << 20, "Tokens of text to look at, at most.", 1)
SEED = flags.DEFINE_integer("seed", 0, "Of every draw.")


def main() -> None:
  """Measures, and writes the report."""
  from crate_jax.interpret import neurons_report, states  # not before: --help answers at once

  asked = states.Asked(DATA.value, NEURONS.value, SHOWN.value, TOKENS.value, SEED.value)
  out = Path(OUT.value).expanduser()
  kept = states.kept(WORKDIR.value, STEP.value, out, asked)
  analysis = neurons_report.analyse([kept], SEED.value)
  command = " ".join(["python -m crate_jax.interpret.neurons", *sys.argv[1:]])
  title = f"Neurons of {kept.facts['run']}"
  blocks = neurons_report.blocks(kept, analysis, command)
  neurons_report.write(out, title, blocks, [(kept.facts["run"], out)], SEED.value)
  print(neurons_report.lead(analysis, WORKDIR.value).replace("**", ""))
  print(f"written to {out}: index.html, neurons.md, neurons.parquet and more")


if __name__ == "__main__":
  cli.run(main, required=["workdir", "out"])
