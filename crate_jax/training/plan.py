"""What a training step takes, measured before the first one: memory, compilation, time."""

import dataclasses
import math
import os
import statistics
import time
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.config import Config
from crate_jax.training import sharding
from crate_jax.training.program import Program
from crate_jax.training.step import UpdateFn


@dataclasses.dataclass(frozen=True)
class Plan:
  """The compiled step, and what it takes.

  Attributes:
    update: the step's executable: (state, tokens_BT1) -> (state, metrics).
    mesh: size of every mesh axis.
    state_bytes: parameters and optimizer state on one device.
    step_bytes: what a step needs beside them on one device, by XLA's own account.
    device_bytes: memory of one device.
    compile_seconds: time it took to compile.
    seconds_per_step: mean of `TRIALS` trial steps; NaN if the step does not fit.
  """

  TRIALS: ClassVar[int] = 2

  update: UpdateFn
  mesh: dict[str, int]
  state_bytes: int
  step_bytes: int
  device_bytes: int
  compile_seconds: float
  seconds_per_step: float

  @property
  def fits(self) -> bool:
    """Whether a step's memory, by XLA's account, is there at all."""
    return self.state_bytes + self.step_bytes <= self.device_bytes


def measure(program: Program, config: Config) -> Plan:
  """Compiles the step and, if it fits, tries it on a throw-away state before the run's own."""
  state = jax.eval_shape(program.init, jax.random.key(0))
  tokens_BT1 = (config.train.batch_size, config.model.context + 1)
  started = time.monotonic()
  update = program.update.lower(state, jax.ShapeDtypeStruct(tokens_BT1, jnp.int32)).compile()
  memory = update.memory_analysis()
  plan = Plan(
    update=update,
    mesh=dict(program.batch_sharding.mesh.shape),
    state_bytes=_bytes_on_one_device(state, program.state_sharding),
    step_bytes=memory.temp_size_in_bytes if memory else 0,
    device_bytes=_device_bytes(),
    compile_seconds=time.monotonic() - started,
    seconds_per_step=math.nan,
  )
  return (
    dataclasses.replace(plan, seconds_per_step=_try(plan, program, config)) if plan.fits else plan
  )


def _try(plan: Plan, program: Program, config: Config) -> float:
  """Seconds of a step, on tokens that are all zero."""
  state = program.init(jax.random.key(0))
  rows, layout = config.train.batch_size, program.batch_sharding
  local = np.zeros((len(sharding.own_rows(layout, rows)), config.model.context + 1), np.int32)
  batch = sharding.assemble(local, layout, rows)
  seconds = []
  for _ in range(1 + Plan.TRIALS):  # the first warms up
    started = time.monotonic()
    state, metrics = plan.update(state, batch)
    jax.block_until_ready(metrics)
    seconds.append(time.monotonic() - started)
  return statistics.mean(seconds[1:])


def _bytes_on_one_device(tree: Any, shardings: Any) -> int:
  sizes = jax.tree.map(
    lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, tree, shardings
  )
  return sum(jax.tree.leaves(sizes))


def _device_bytes() -> int:
  """Memory that one device may use: what it says, or for a CPU its share of the machine's."""
  devices = jax.local_devices()
  stats = devices[0].memory_stats() or {}
  whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(devices)
  return stats.get("bytes_limit", whole)
