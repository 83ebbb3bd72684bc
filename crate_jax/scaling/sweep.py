"""Trains a grid of models: architectures by shapes by lengths by seeds, at rates chosen fairly.

Reads the config's `sweep` (configs/base.py says what its keys are) and its text, which is prepared
once in WORKDIR/text unless data.prepared names a folder. First every variant is tried at every
rate, then the grid is trained at the best. Every length is a branch that leaves the trunk of its
variant, shape and seed for its last fifth, in which the rate decays: each trunk is trained once.

Writes WORKDIR/cells/CELL.json as each cell ends, WORKDIR/table.parquet and table.csv (see
`scaling.table`), WORKDIR/rates.md (all trials of the table), and the runs in WORKDIR/runs. The same
command goes on where it was stopped; cells that stand in a table already are not trained again. A
cell that breaks is tried up to three times, then named at the end, and the exit status is 1.

  python -m crate_jax.scaling.sweep --config=configs/plateau.py --workdir=runs/plateau --jobs=2 \\
    --config.data.train=books.txt.xz

and the same with --print, or with --verify=2.

--print prints a command for each cell that is not trained yet, to be run anywhere that sees WORKDIR
(the engines of launch/), and ends; they may run in any order, and in the printed one spare most.
The sweep itself, run once more, then makes the table. The last bits of a cell depend on how many
cores it had, which the table says: --verify wants the --jobs that the cells were trained with.
"""

import random
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags
from ml_collections import config_flags

from crate_jax import cli
from crate_jax.errors import UserError

if TYPE_CHECKING:
  from crate_jax.scaling.progress import Progress

CONFIG = config_flags.DEFINE_config_file(
  "config", None, "The config file, FILE.py[:ARGUMENT]; --config.KEY=VALUE changes a key."
)
WORKDIR = flags.DEFINE_string("workdir", "", "The sweep's folder, made if it is not there.")
JOBS = flags.DEFINE_integer("jobs", 1, "Cells at a time, which share this machine's cores.", 1)
PRINT = flags.DEFINE_bool("print", False, "Print a command for each cell that is left, and end.")
ONLY = flags.DEFINE_string("only", "", "Train this cell alone.")
VERIFY = flags.DEFINE_integer("verify", 0, "Train so many cells again, and compare bit for bit.", 0)


def main() -> None:
  """Trains what is left."""
  if sum([PRINT.value, bool(ONLY.value), bool(VERIFY.value)]) > 1:
    raise flags.Error("--print, --only and --verify exclude each other.")
  import jax  # not before: --help and wrong flags answer at once

  from crate_jax import lock
  from crate_jax.scaling import cell as cell_lib
  from crate_jax.scaling.progress import Progress
  from crate_jax.training import processes

  workdir = Path(WORKDIR.value).expanduser()
  if ONLY.value:
    processes.start("", None, None, wait_seconds=300)  # of a pod; here it does nothing
    progress = Progress(CONFIG.value, workdir)
    cell = progress.named(ONLY.value)
    if cell.name in progress.results:
      print(f"{cell.name} has ended already.")
    else:
      cell_lib.train(progress.config, cell, workdir)
    processes.finish()
    return
  jax.config.update("jax_platforms", "cpu")  # an accelerator is for the cells, in their processes
  with lock.held(workdir, f"--workdir={workdir}"):
    progress = Progress(CONFIG.value, workdir)
    if PRINT.value:
      _print(progress)
    elif VERIFY.value:
      _verify(progress, VERIFY.value)
    else:
      _sweep(progress)


def _sweep(progress: "Progress") -> None:
  from crate_jax.scaling import workers

  broken: list[str] = []
  while not broken and (cells := progress.left()):
    progress.say()
    broken = workers.train(progress.config, cells, progress.workdir, JOBS.value, progress.ended)
  progress.write()
  progress.say()
  if broken:
    raise UserError(
      f"{len(broken)} cells broke, and what they printed is in {progress.workdir / 'runs'}: "
      f"{', '.join(broken)}."
    )


def _print(progress: "Progress") -> None:
  """The commands, with the flags that this one was given."""
  cells = progress.left()
  given, value_follows = [], False
  for argument in sys.argv[1:]:
    name = argument.lstrip("-").partition("=")[0]
    if not value_follows and name not in ("print", "jobs"):
      given.append(argument)
    value_follows = not value_follows and argument in ("--jobs", "-jobs")
  for cell in cells:
    command = [cli.python(), "-m", "crate_jax.scaling.sweep", *given, f"--only={cell.name}"]
    print(shlex.join(command))
  if progress.trying and cells:
    print(f"# {len(cells)} trials of rates; the grid's cells are known once these are done.")


def _verify(progress: "Progress", count: int) -> None:
  """Trains cells again from the start, without a branch, and compares them with the table."""
  from crate_jax.scaling import cell as cell_lib
  from crate_jax.scaling import workers

  cores = workers.cores(JOBS.value)
  there = {cell.name: progress.results.get(cell.name, {}) for cell in progress.cells()}
  ended = [
    cell
    for cell in progress.cells()
    if there[cell.name].get("weights") and there[cell.name]["cores"] == cores
  ]
  if len(ended) < count:
    raise UserError(
      f"--verify={count}: {len(ended)} cells have ended that had {cores} cores each, as with "
      f"--jobs={JOBS.value} here; on another number the last bits differ."
    )
  again = progress.workdir / "verify"
  shutil.rmtree(again, ignore_errors=True)
  chosen = random.SystemRandom().sample(ended, count)
  broken = workers.train(
    progress.config, chosen, again, JOBS.value, lambda cell: None, straight=True
  )
  results, wrong = cell_lib.results(again), list(broken)
  for cell in chosen:
    if cell.name not in broken:
      before, now = progress.results[cell.name], results[cell.name]
      keys = ("weights", "loss", "loss_of_rates", "work_nats", "text")
      different = [key for key in keys if before[key] != now[key]]
      same = f"differs in {', '.join(different)}" if different else "the same, bit for bit"
      print(f"{cell.name}: loss {before['loss']:.6f}, again {now['loss']:.6f}: {same}", flush=True)
      wrong += [cell.name] * bool(different)
  if wrong:
    raise UserError(
      f"Trained again from the start these cells are not the same: {', '.join(wrong)}."
    )


if __name__ == "__main__":
  cli.run(main, required=["config", "workdir"])
