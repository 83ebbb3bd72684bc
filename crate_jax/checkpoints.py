"""Lists the checkpoints of a run, and with --verify reads each and compares it with its digests.

  python -m crate_jax.checkpoints --workdir=runs/base
  python -m crate_jax.checkpoints --workdir=runs/base --verify

Writes nothing. With --verify each is held in memory as a whole, one at a time; the exit status is 1
if one is damaged.
"""

from pathlib import Path
from typing import Any

from absl import flags

from crate_jax import cli
from crate_jax.errors import UserError

WORKDIR = flags.DEFINE_string("workdir", "", "The run's folder.")
VERIFY = flags.DEFINE_bool("verify", False, "Read all arrays, and compare them with their digests.")


def main() -> None:
  """Lists, and verifies."""
  from crate_jax.training import checkpoint, report

  workdir = Path(WORKDIR.value).expanduser()
  checkpoint.choose_step(workdir, None)  # there is one
  damaged = []
  with checkpoint.Checkpoints(workdir) as store:
    for step in checkpoint.steps(workdir):
      files, size = (checkpoint.directory(workdir) / str(step)).rglob("*"), "?"
      try:
        size = report.size(sum(path.stat().st_size for path in files if path.is_file()))
        meta = _read(store, step)
        what = meta["config"]["model"]["architecture"]
        if "examples" in meta:
          what += f", {meta['examples'] * meta['config']['model']['context']:,} tokens drawn"
        if meta.get("skipped"):
          what += f", {meta['skipped']:,} batches passed over"
        if VERIFY.value:
          what += "; whole" if "digests" in meta else "; has no digests to compare with"
      except (checkpoint.Damaged, FileNotFoundError) as error:
        if step not in checkpoint.steps(workdir):  # a run that goes on keeps the newest only
          print(f"step {step:>9,}  removed by its run meanwhile", flush=True)
          continue
        damaged.append(step)
        what = f"DAMAGED: {error}"
      print(f"step {step:>9,}  {size:>9}  {what}", flush=True)
  if damaged:
    raise UserError(f"Damaged checkpoints in {workdir}: {', '.join(map(str, damaged))}.")


def _read(store: Any, step: int) -> dict[str, Any]:
  """What was saved beside the arrays; reads these too if they are to be verified."""
  import jax

  from crate_jax import config as config_lib
  from crate_jax.model import lm
  from crate_jax.training import optim
  from crate_jax.training.step import TrainState

  meta: dict[str, Any] = store.meta(step)
  if not VERIFY.value:
    return meta
  c = config_lib.from_dict(meta["config"])
  model = lm.LM(c.model)
  params = lm.abstract_params(model)
  if "optimizer" not in meta.get("digests", {"optimizer": None}):  # a model trained elsewhere
    store.restore_params(step, params)
    return meta
  optimizer = optim.make_optimizer(c.optimizer, c.train.steps, lm.logical_axes(model))
  moments = jax.eval_shape(optimizer.init, params)
  store.restore(step, TrainState(jax.numpy.zeros((), int), params, moments))
  return meta


if __name__ == "__main__":
  cli.run(main, required=["workdir"])
