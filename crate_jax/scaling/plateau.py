"""Has CRATE plateaued, or would more training let it catch up with GPT-2? What a sweep's runs say.

Reads FOLDER/table.parquet (`scaling.sweep` writes it; a part of the grid will do) and, if they are
there, the sweep's FOLDER/config.json and a FOLDER/forecast.json. Writes OUT/plateau.md,
OUT/plateau.html (one page, pictures and all), OUT/*.png and OUT/plateau.json (all numbers).

  python -m crate_jax.scaling.plateau --workdir=runs/plateau --out=runs/plateau/report
  python -m crate_jax.scaling.plateau --workdir=runs/plateau --out=runs/plateau --forecast=9600

The second writes OUT/forecast.json alone: what the shorter lengths say of a run of 9,600 steps (or
of tokens: --forecast=9.8e6tokens), before there is one: of a length that is trained already, or
over another forecast, it writes nothing. When it lies beside the table, later reports hold it
against what came.
"""

import sys
from pathlib import Path

from absl import flags

from crate_jax import cli

WORKDIR = flags.DEFINE_string("workdir", "", "The folder of a sweep.")
OUT = flags.DEFINE_string("out", "", "A folder for what is written, made if it is not there.")
CRATE = flags.DEFINE_string("crate", "crate", "The variant whose gap is asked for.")
GPT2 = flags.DEFINE_string("gpt2", "gpt2", "The variant that it is compared with.")
SEED = flags.DEFINE_integer("seed", 0, "Of the random numbers of the intervals.", 0)
DRAWS = flags.DEFINE_integer("draws", 2000, "Of every bootstrap.", 20)
FORECAST = flags.DEFINE_string("forecast", "", "Steps, or tokens as 9.8e6tokens, to forecast.")


def main() -> None:
  """Reads the table and writes the report, or a forecast."""
  from crate_jax.scaling import table  # not before: --help answers at once

  workdir, out = Path(WORKDIR.value).expanduser(), Path(OUT.value).expanduser()
  rows = table.read(workdir)
  from crate_jax.scaling.report import output as output_lib  # not before: it takes seconds
  from crate_jax.scaling.report.analysis import Choice

  choice = Choice(CRATE.value, GPT2.value, SEED.value, DRAWS.value)
  command = " ".join(["python -m crate_jax.scaling.plateau", *sys.argv[1:]])
  if FORECAST.value:
    said = output_lib.write_forecast(rows, FORECAST.value, choice, out, command)
  else:
    said = output_lib.write_report(rows, choice, workdir, out, command)
  print(said)


if __name__ == "__main__":
  cli.run(main, required=["workdir", "out"])
