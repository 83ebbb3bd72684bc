"""Scaling laws of any study: a CSV of (N, D, loss) in, its fit with intervals out.

Reads a CSV whose first line names the columns, in any order and case, others among them:

  tokens    or D, training_tokens: what the run was trained on
  loss      or val_loss, validation_loss, eval_loss: nats, at the end of the run
  params    or N, parameters, model_size: optional
  cluster   optional: runs of one name are drawn together
  seed      optional: without `cluster`, runs of one N and seed are drawn together
  variant   optional, and `kind`: of several the file is refused, for they follow no common law

Three distinct N or more: L(N, D) = E + A N^-alpha + B D^-beta and the exponent of the
compute-optimal N. Fewer, or none: L(D) = E + B D^-beta for each N. Intervals are of a bootstrap
over runs (docs/fits.md). Prints the fit; writes OUT/fit.md and OUT/fit.json.

  python -m crate_jax.scaling.curves --data=runs.csv --out=fits
"""

import sys
import time
from pathlib import Path

from absl import flags

from crate_jax import cli

DATA = flags.DEFINE_string("data", "", "The CSV.")
OUT = flags.DEFINE_string("out", "", "A folder for what is written, made if it is not there.")
DRAWS = flags.DEFINE_integer("draws", 1000, "Of the bootstrap.", lower_bound=20)
SEED = flags.DEFINE_integer("seed", 0, "Of its random numbers.")


def main() -> None:
  """Reads, fits, prints, and writes both files."""
  import numpy as np  # not before: --help answers at once

  from crate_jax.scaling import curves_fit, curves_read
  from crate_jax.training import report
  from crate_jax.training import workdir as files

  start, out = time.monotonic(), Path(OUT.value).expanduser()
  runs = curves_read.read(Path(DATA.value).expanduser())
  fits = curves_fit.fits(runs, DRAWS.value, np.random.default_rng(SEED.value))
  out.mkdir(parents=True, exist_ok=True)
  lines = curves_fit.lines(DATA.value, runs, fits)
  print("\n".join(lines))
  facts = {
    "command": " ".join(["python -m crate_jax.scaling.curves", *sys.argv[1:]]),
    "seconds": round(time.monotonic() - start, 1),
    **report.environment(),
  }
  made = [f"{key}: {value}  " for key, value in facts.items()]
  (out / "fit.md").write_text("\n".join(["# Fitted laws", "", *lines, "", *made, ""]))
  written = {"data": DATA.value, "draws": DRAWS.value, "seed": SEED.value}
  files.write_json(
    out / "fit.json", report.finite({**written, **curves_fit.as_dict(runs, fits), **facts})
  )
  print(f"\nwritten to {out}: fit.md, fit.json ({facts['seconds']} s)")


if __name__ == "__main__":
  cli.run(main, required=["data", "out"])
