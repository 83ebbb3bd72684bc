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

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from crate_jax import cli
from crate_jax.errors import UserError

if TYPE_CHECKING:
  import numpy as np

  from crate_jax.interpret.gauges import Layer
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
  from crate_jax.interpret import (
    whitebox_report,
  )  # not before: --help and wrong flags answer at once
  from crate_jax.training import report
  from crate_jax.training import workdir as files

  start, out = time.monotonic(), Path(OUT.value).expanduser()
  workdirs = [Path(name).expanduser() for name in WORKDIR.value.split(",") if name]
  chosen = [_choose(workdir) for workdir in workdirs]  # what is wrong with one is said at once
  out.mkdir(parents=True, exist_ok=True)
  print(whitebox_report.aligned(whitebox_report.COLUMNS))
  runs = []
  for workdir, (run, windows_NT, text) in zip(workdirs, chosen, strict=True):
    print(f"{workdir}: {whitebox_report.caption(run.config.model, len(windows_NT))}", flush=True)
    states = []
    for step, layers in _states(workdir, run, windows_NT):
      states.append((step, layers))
      print(whitebox_report.aligned(whitebox_report.summary_cells(step, layers)), flush=True)
    runs.append(whitebox_report.Measured(str(workdir), run.config, len(windows_NT), text, states))
  facts: dict[str, Any] = {
    "seconds": time.monotonic() - start,
    "tokens_asked": TOKENS.value,
    **report.environment(),
  }
  written = {"runs": [whitebox_report.as_dict(run) for run in runs], **facts}
  files.write_json(out / "whitebox.json", report.finite(written))
  (out / "whitebox.md").write_text(whitebox_report.markdown(runs, facts))
  whitebox_report.draw(out / "whitebox.png", runs)
  print(f"written to {out}: whitebox.json, whitebox.md (every layer), whitebox.png")


def _choose(workdir: Path) -> "tuple[Run, np.ndarray, dict[str, str]]":
  """A run at its newest checkpoint, the windows to measure it on, and whose text they are."""
  from crate_jax.run import load

  run = load(workdir)
  context = run.config.model.context
  if TOKENS.value and TOKENS.value < context:
    raise UserError(
      f"--tokens={TOKENS.value} is less than one window of the context of {workdir}, {context} "
      "tokens."
    )
  tokens, text = _text(run, workdir)
  count = min((TOKENS.value or WINDOWS * context) // context, len(tokens) // context)
  if not count:
    raise UserError(
      f"{text['text']} holds {len(tokens)} tokens, less than one window of the context of "
      f"{workdir}, {context} tokens: name a longer text with --data."
    )
  return run, tokens[: count * context].reshape(count, context), text


def _text(run: "Run", workdir: Path) -> "tuple[np.ndarray, dict[str, str]]":
  """The text's tokens, and what text it is."""
  from crate_jax.data import sources

  data, name = run.config.data, f"The validation text of {workdir}"
  if DATA.value:
    documents, whole = sources.read_documents(DATA.value, "--data"), True
    name = f"--data={DATA.value}"
  else:
    split = sources.read_split(data.train, data.validation, data.validation_fraction)
    documents, whole = split.validation, split.whole
    if sources.digest(documents) != run.data["validation_sha256"]:
      raise UserError(
        f"data.train={data.train!r} no longer holds the validation text of the run in {workdir} "
        f"({run.data['text']}): name a text with --data."
      )
  tokens = run.tokenizer.encode_documents(documents, end=whole)
  return tokens, {"text": name, "text_sha256": sources.digest(documents)}


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
