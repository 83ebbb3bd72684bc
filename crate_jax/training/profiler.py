"""A profile of a few steps, for TensorBoard and for Perfetto."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax

from crate_jax.errors import UserError
from crate_jax.training.report import is_lead, say

FOLDER = "profile"


@dataclasses.dataclass
class Profiler:
  """Records the steps FIRST to FIRST + COUNT - 1 of a run into WORKDIR/profile.

  Every process records its own devices, in TensorBoard's layout; process 0 also writes
  perfetto_trace.json.gz, for ui.perfetto.dev.

  Attributes:
    workdir: the run's folder.
    first: number of the first step to record, from 1.
    count: how many; 0 for none.
  """

  workdir: Path
  first: int
  count: int

  @classmethod
  def parse(cls, workdir: Path, steps: str) -> "Profiler":
    """From "FIRST:COUNT", or "" for none.

    Raises:
      UserError: it is neither.
    """
    match = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", steps)
    if steps and not match:
      raise UserError(f"--profile={steps} is not FIRST:COUNT, two positive numbers of steps.")
    return cls(workdir, int(match[1]), int(match[2])) if match else cls(workdir, 0, 0)

  def before(self, step: int) -> None:
    """To be called before step number `step` is dispatched."""
    if self.count and step == self.first:
      folder = str(self.workdir / FOLDER)
      jax.profiler.start_trace(folder, create_perfetto_trace=is_lead())

  def after(self, step: int, outputs: Any) -> None:
    """To be called with what the step returned; waits for it if it is the last one recorded."""
    if self.count and step == self.first + self.count - 1:
      jax.block_until_ready(outputs)
      jax.profiler.stop_trace()
      say(f"profile of steps {self.first:,} to {step:,} written to {self.workdir / FOLDER}")
