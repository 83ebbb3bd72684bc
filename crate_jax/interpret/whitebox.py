"""Whether each layer of a network follows the principle: compress, then sparsify.

Reads the work directories of runs and a text, by default each run's validation text. Measures
every layer of every run before training (a fresh init from the run's seed) and at every checkpoint
that is kept: the coding rate before and after the mixing step, ISTA's objective after each of its
steps, the neurons that are not zero, and what of the block's output leaves the stream. What each
number is stands in `interpret.gauges.Layer` and below the tables.

Writes OUT/whitebox.json (all numbers), OUT/whitebox.md (tables) and OUT/whitebox.png; prints a line
for each checkpoint.

  python -m crate_jax.interpret.whitebox --workdir=runs/tiny --out=runs/tiny/whitebox
  python -m crate_jax.interpret.whitebox --workdir=runs/tiny,runs/tiny-gpt2 --out=runs/whitebox \\
    --data=book.txt --tokens=65536
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from crate_jax import cli

if TYPE_CHECKING:
  import numpy as np

  from crate_jax.interpret.gauges import Layer
  from crate_jax.interpret.whitebox_report import Measured
  from crate_jax.run import Run

WINDOWS = 32  # of text, unless --tokens says otherwise

WORKDIR = flags.DEFINE_string("workdir", "", "The runs' folders, with commas between them.")
OUT = flags.DEFINE_string("out", "", "A folder for what is written, made if it is not there.")
DATA = flags.DEFINE_string("data", "", "A text file or folder; each run's validation text if not.")
TOKENS = flags.DEFINE_integer(
  "tokens", None, f"To measure on, in whole windows of the context; {WINDOWS} of these if not.", 1
)


def main() -> None:
  """Measures, prints, and writes the three files."""
  from crate_jax.interpret import whitebox_report  # not before: --help answers at once
  from crate_jax.interpret.gauges import windows
  from crate_jax.run import load
  from crate_jax.training import report
  from crate_jax.training import workdir as files

  start, out, chosen = time.monotonic(), Path(OUT.value).expanduser(), []
  for name in WORKDIR.value.split(","):  # what is wrong with any of them is said at once
    run = load(name)
    most = TOKENS.value or WINDOWS * run.config.model.context
    chosen.append((name, run, *windows(run, name, DATA.value, most)))
  out.mkdir(parents=True, exist_ok=True)
  print(whitebox_report.aligned(whitebox_report.COLUMNS))
  measured = [_measured(*choice) for choice in chosen]
  facts = {
    "command": " ".join(["python -m crate_jax.interpret.whitebox", *sys.argv[1:]]),
    "seconds": time.monotonic() - start,
    **report.environment(),
  }
  written = {"runs": [whitebox_report.as_dict(run) for run in measured], **facts}
  files.write_json(out / "whitebox.json", report.finite(written))
  (out / "whitebox.md").write_text(whitebox_report.markdown(measured, facts))
  whitebox_report.draw(out / "whitebox.png", measured)
  print(f"written to {out}: whitebox.json, whitebox.md (every layer), whitebox.png")


def _measured(
  name: str, run: "Run", windows_NT: "np.ndarray", source: str, sha256: str
) -> "Measured":
  """Measures a run in every state, and prints a line for each."""
  from crate_jax.interpret import whitebox_report

  print(f"{name}: {whitebox_report.caption(run.config.model, len(windows_NT))}", flush=True)
  states = []
  for step, layers in _states(Path(name).expanduser(), run, windows_NT):
    states.append((step, layers))
    print(whitebox_report.aligned(whitebox_report.summary_cells(step, layers)), flush=True)
  return whitebox_report.Measured(name, run.config, len(windows_NT), source, sha256, states)


def _states(
  workdir: Path, run: "Run", windows_NT: "np.ndarray"
) -> "Iterator[tuple[int, list[Layer]]]":
  """Yields a step and what was measured of every layer: 0, the fresh init, then each checkpoint."""
  import jax

  from crate_jax.interpret.gauges import measure
  from crate_jax.model import lm
  from crate_jax.run import load
  from crate_jax.training import checkpoint

  init = jax.jit(lm.init_params, static_argnums=0)
  yield 0, measure(run.model, init(run.model, jax.random.key(run.config.seed)), windows_NT)
  for step in checkpoint.steps(workdir):
    params = run.params if step == run.step else load(workdir, step).params
    yield step, measure(run.model, params, windows_NT)


if __name__ == "__main__":
  cli.run(main, required=["workdir", "out"])
