"""What a sweep takes, before it is begun: operations, hours of a chip, bytes of checkpoints.

  python -m crate_jax.scaling.cost --config=configs/plateau_pile.py --mfu=128:0.1,768:0.4

Prints a table of shapes and variants. Operations are exact (crate_jax/model/flops.py), with trunks
that lengths share and with the trials of the rates that the config names; rates that a sweep adds,
because the best was the outermost, come on top. Hours are operations over the chip's peak times
--mfu, which is assumed and not measured. Evaluations are not counted.
"""

import dataclasses
from collections.abc import Mapping

from absl import flags
from ml_collections import ConfigDict, config_flags

from crate_jax import cli
from crate_jax import config as config_lib
from crate_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file("config", None, "The sweep's config, FILE.py[:ARGUMENT].")
CHIP = flags.DEFINE_string("chip", "TPU v5 lite", "As crate_jax/training/hardware.py names it.")
MFU = flags.DEFINE_string("mfu", "0.4", "Share of the peak; or one a width, WIDTH:SHARE,...")

COLUMNS = (
  "shape",
  "variant",
  "parameters",
  "updates",
  "alone",
  "FLOPs",
  "chip-hours",
  "saved",
  "GB",
)
_STATE = 12  # bytes of a parameter and its two moments, float32


@dataclasses.dataclass(frozen=True)
class Cost:
  """All runs of one variant at one shape.

  Attributes:
    shape: layers x width x heads.
    width: d.
    variant: its name.
    parameters: positions not among them.
    flops_per_token: of training.
    updates: of all runs, a trunk that several share counted once.
    alone: of all runs, had each been trained from the start.
    tokens: that `updates` are trained on.
    checkpoints: of all runs, if none is deleted: where a run leaves its trunk, where the next one
      does, and its end. Those that are saved by time are not counted.
    checkpoint_bytes: of all of these.
  """

  shape: str
  width: int
  variant: str
  parameters: int
  flops_per_token: int
  updates: int
  alone: int
  tokens: int
  checkpoints: int
  checkpoint_bytes: int

  @property
  def flops(self) -> float:
    """Of training, exact."""
    return float(self.flops_per_token) * self.tokens


def costs(config: ConfigDict) -> list[Cost]:
  """Every shape and variant of a sweep's config, in its order.

  Raises:
    UserError: the config is no sweep's, or a variant's keys contradict each other.
  """
  from crate_jax.scaling import grid as grid_lib
  from crate_jax.scaling import rates
  from crate_jax.training import report

  grid = grid_lib.read(config)
  # The rate that will be chosen: any of those tried, whose trial then shares its trunk.
  middle = grid.rates[len(grid.rates) // 2] if grid.rates else grid.rate
  chosen = {(variant, shape): middle for variant in grid.variants for shape in grid.shapes}
  cells = [
    *grid_lib.cells(grid, chosen),
    *grid_lib.checks(grid, chosen),
    *rates.trials(grid, {}),
  ]
  found = []
  for shape in dict.fromkeys(cell.shape for cell in cells):
    for variant in grid.variants:
      own = list(dict.fromkeys(c for c in cells if (c.variant, c.shape) == (variant, shape)))
      resolved = config_lib.resolve_without_text(grid_lib.cell_config(config, grid, own[0]))
      facts = report.model_facts(resolved)
      updates, alone = grid_lib.updates(grid, own)
      saved = 3 * len(own) - len(grid_lib.chains(own))
      state = _STATE * (facts["parameters"] + facts["position_parameters"])
      batch = resolved.train.batch_size * resolved.model.context
      found.append(
        Cost(str(shape), shape.width, variant, facts["parameters"], facts["flops_per_token"],
             updates, alone, updates * batch, saved, saved * state)
      )  # fmt: skip
  return found


def chip_hours(cost: Cost, peak: float, mfu: Mapping[int, float]) -> float:
  """Hours of one chip.

  Args:
    cost: of some runs.
    peak: operations per second that the chip can do.
    mfu: share of them that training does, by the models' width; 0 stands for all others.
  """
  share = mfu.get(cost.width, mfu.get(0))
  if share is None:
    raise UserError(f"--mfu names no share for the width {cost.width}.")
  return cost.flops / (peak * share) / 3600


def table(config: ConfigDict, chip: str, mfu: Mapping[int, float]) -> list[str]:
  """Lines for people: `COLUMNS`, a row a shape and variant, and the sum of all."""
  from crate_jax.training import hardware

  peak = dict(hardware.PEAKS).get(chip)
  if peak is None:
    known = ", ".join(name for name, _ in hardware.PEAKS)
    raise UserError(f"--chip={chip} is not one of: {known}.")
  found = costs(config)
  hours = [chip_hours(cost, peak.flops, mfu) for cost in found]
  rows = [
    (cost.shape, cost.variant, f"{cost.parameters:,}", *_cells([cost], spent))
    for cost, spent in zip(found, hours, strict=True)
  ]
  rows = [COLUMNS, *rows, ("all", "", "", *_cells(found, sum(hours)))]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return ["  ".join(f"{c:>{w}}" for c, w in zip(row, widths, strict=True)) for row in rows]


def _cells(part: list[Cost], hours: float) -> tuple[str, ...]:
  return (
    f"{sum(cost.updates for cost in part):,}",
    f"{sum(cost.alone for cost in part):,}",
    f"{sum(cost.flops for cost in part):.2e}",
    f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}",
    f"{sum(cost.checkpoints for cost in part):,}",
    f"{sum(cost.checkpoint_bytes for cost in part) / 1e9:,.1f}",
  )


def shares(text: str) -> dict[int, float]:
  """{128: 0.1, 768: 0.4} of "128:0.1,768:0.4", {0: 0.4} of "0.4".

  Raises:
    UserError: it is neither, or a share is not above 0 and at most 1.
  """
  found = {}
  for part in text.split(","):
    width, colon, share = part.rpartition(":")
    try:
      found[int(width) if colon else 0] = float(share)
    except ValueError:
      raise UserError(f"--mfu={text}: {part!r} is not SHARE or WIDTH:SHARE.") from None
  if not all(0 < share <= 1 for share in found.values()):
    raise UserError(f"--mfu={text}: a share is above 0 and at most 1.")
  return found


def main() -> None:
  """Prints the table."""
  print("\n".join(table(CONFIG.value, CHIP.value, shares(MFU.value))))


if __name__ == "__main__":
  cli.run(main, required=["config"])
