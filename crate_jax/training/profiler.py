"""A profile of a few steps, for TensorBoard and for Perfetto."""

import dataclasses
import re
from pathlib import Path
from typing import Any, Self

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
  _on: bool = False

  @classmethod
  def parse(cls, workdir: Path, steps: str) -> Self:
    """From "FIRST:COUNT", or "" for none.

    Raises:
      UserError: it is neither.
    """
    match = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", steps)
    if steps and not match:
      raise UserError(f"--profile={steps} is not FIRST:COUNT, two positive numbers of steps.")
    return cls(workdir, int(match[1]), int(match[2])) if match else cls(workdir, 0, 0)

  def before(self, step: int) -> None:
    """To be called before step number `step` is dispatched; a resumed run may start in between."""
    if not self._on and self.first <= step < self.first + self.count:
      jax.profiler.start_trace(str(self.workdir / FOLDER), create_perfetto_trace=is_lead())
      self._on = True

  def ends_with(self, step: int) -> bool:
    """Whether `step` is the last one recorded: then `stop` is to be called."""
    return self._on and step >= self.first + self.count - 1

  def stop(self, outputs: Any = None) -> None:
    """Waits for what the last step returned, and writes the profile."""
    jax.block_until_ready(outputs)
    jax.profiler.stop_trace()
    self._on = False
    say(f"profile written to {self.workdir / FOLDER}")

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception: object) -> None:
    """Writes what there is of a profile that the run's end, or a SIGTERM, cuts short."""
    if self._on:
      self.stop()
