"""What a training step takes, measured before the first one: memory, compilation, time."""

import dataclasses
import statistics
import time
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.config import Config
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
    device_bytes: memory of one device, None where it does not say.
    compile_seconds: time it took to compile.
    seconds_per_step: median of `TRIALS` trial steps.
  """

  TRIALS: ClassVar[int] = 2

  update: UpdateFn
  mesh: dict[str, int]
  state_bytes: int
  step_bytes: int
  device_bytes: int | None
  compile_seconds: float
  seconds_per_step: float


def measure(program: Program, config: Config) -> Plan:
  """Compiles the step and tries it on a throw-away state, before the run's own takes its place.

  The trial's tokens are all zero; the time of a step does not depend on them.
  """
  train = config.train
  state = program.init(jax.random.key(0))
  tokens_BT1 = jax.ShapeDtypeStruct((train.batch_size, config.model.context + 1), jnp.int32)
  started = time.monotonic()
  update = program.update.lower(state, tokens_BT1).compile()
  compile_seconds = time.monotonic() - started

  rows = train.batch_size // jax.process_count()
  local = np.zeros((rows, config.model.context + 1), np.int32)
  batch = jax.make_array_from_process_local_data(program.batch_sharding, local)
  seconds = []
  for _ in range(1 + Plan.TRIALS):  # the first warms up
    started = time.monotonic()
    state, metrics = update(state, batch)
    jax.block_until_ready(metrics)
    seconds.append(time.monotonic() - started)
  memory = update.memory_analysis()
  return Plan(
    update=update,
    mesh=dict(program.batch_sharding.mesh.shape),
    state_bytes=_bytes_on_one_device(state),
    step_bytes=memory.temp_size_in_bytes if memory else 0,
    device_bytes=(jax.local_devices()[0].memory_stats() or {}).get("bytes_limit"),
    compile_seconds=compile_seconds,
    seconds_per_step=statistics.mean(seconds[1:]),
  )


def _bytes_on_one_device(tree: Any) -> int:
  return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))
