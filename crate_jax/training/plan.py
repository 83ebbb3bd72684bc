"""What a training step takes, known before the first one: memory, exchange, time.

`measure` compiles the step for the devices at hand and tries it. `compile_only` stops short of
that, and so can also do it for TPUs that are not here: their compiler runs on any machine.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import math
import os
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.config import Config
from crate_jax.errors import UserError
from crate_jax.model import flops
from crate_jax.training import hardware, hlo, processes, sharding
from crate_jax.training import program as program_lib
from crate_jax.training.hardware import Peaks
from crate_jax.training.program import Program


@dataclasses.dataclass(frozen=True)
class Plan:
  """The compiled step, and what it takes.

  Attributes:
    update: the step's executable: (state, tokens_BT1) -> (state, metrics).
    mesh: size of every mesh axis.
    slices: TPU slices that it runs on.
    state_bytes: parameters and optimizer state on one device.
    step_bytes: what a step needs beside them on one device, by XLA's own account.
    device_bytes: memory of one device.
    compile_seconds: time it took to compile.
    seconds_per_step: mean of `TRIALS` trial steps; NaN if there were none.
    compiler_counts: whether the compiler has refused what does not fit, as that for TPUs does.
  """

  TRIALS: ClassVar[int] = 2

  update: jax.stages.Compiled
  mesh: dict[str, int]
  slices: int
  state_bytes: int
  step_bytes: int
  device_bytes: float
  compile_seconds: float
  seconds_per_step: float
  compiler_counts: bool

  @property
  def fits(self) -> bool:
    """Whether a step's memory, by XLA's account, is there at all."""
    return self.compiler_counts or self.state_bytes + self.step_bytes <= self.device_bytes

  @functools.cached_property
  def program(self) -> hlo.Program:
    """What XLA has made of the step."""
    devices = math.prod(self.mesh.values())
    slice_devices = devices // self.slices if self.slices > 1 else None
    return hlo.Program(self.update.as_text() or "", slice_devices=slice_devices)


@dataclasses.dataclass(frozen=True)
class Roofline:
  """The least time that a step takes, if everything that it does ran at its peak and at once.

  All numbers are of one device and one step.

  Attributes:
    model_flops: operations of the forward and the backward pass, exact (`model.flops`).
    executed_flops: those and what rematerialisation computes again.
    memory_bytes: read from and written to its memory (`hlo.Program.memory_bytes`).
    link_bytes: sent to other devices (`hlo.Collective.sent_bytes`) within a slice.
    slice_bytes: sent to other slices.
    peaks: what the device can do.
  """

  model_flops: float
  executed_flops: float
  memory_bytes: float
  link_bytes: float
  slice_bytes: float
  peaks: Peaks

  @property
  def parts(self) -> dict[str, float]:
    """Seconds of each thing alone."""
    return {
      "computing": self.executed_flops / self.peaks.flops,
      "memory": self.memory_bytes / self.peaks.memory_bandwidth,
      "links": self.link_bytes / self.peaks.link_bandwidth,
      "slices": self.slice_bytes / hardware.SLICE_BANDWIDTH,
    }

  @property
  def seconds(self) -> float:
    """The longest of them."""
    return max(self.parts.values())

  @property
  def mfu(self) -> float:
    """Model FLOPs utilisation in that time (Chowdhery et al. 2022, appendix B).

    Scores of attention are counted whole, masked or not, as in `model.flops`.
    """
    return self.model_flops / self.peaks.flops / self.seconds


def tpu_devices(topology: str, slices: int = 1) -> Sequence[jax.Device]:
  """The devices of a TPU slice that is not here, to compile for.

  Args:
    topology: as "v5p:4x4x8": the kind of chip, and how many in each direction.
    slices: how many of these slices.

  Raises:
    UserError: there is no such slice, or libtpu is not installed.
  """
  if slices < 1:
    raise UserError(f"--num_slices={slices} must be at least 1.")
  if not importlib.util.find_spec("libtpu"):
    raise UserError(
      '--topology needs the TPU compiler: run "EXTRAS=tpu_compile launch/local.sh --help" once.'
    )
  # It would ask the cloud what it runs on, complain that nobody answers, and lock others out.
  os.environ |= {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
  }
  from jax.experimental import topologies

  several = {"num_slices": slices} if slices > 1 else {}
  try:
    return topologies.get_topology_desc(topology, "tpu", **several).devices
  except jax.errors.JaxRuntimeError as error:
    reason = str(error).strip().splitlines()[0].rstrip(".")
    raise UserError(
      f"--topology={topology} is not a TPU slice, as v5e:8x16 or v5p:4x4x8 is: {reason}."
    ) from error


def compile_only(
  config: Config, devices: Sequence[jax.Device] | None = None
) -> tuple[Plan, Roofline | None]:
  """Compiles the step for the devices at hand, or for others, and says what it takes.

  Returns:
    The plan, and the roofline if the peaks of the devices are known.

  Raises:
    UserError: the mesh does not fit the devices, or the compiler found that the step does not fit
      their memory.
  """
  program = program_lib.build(config, devices)
  with _memory_is_counted(config, program):
    plan = _compile(program, config)
  return plan, _roofline(plan, config, program.batch_sharding.mesh.devices.flat[0])


def measure(program: Program, config: Config) -> Plan:
  """Compiles the step and, if it fits, tries it on a throw-away state before the run's own.

  Raises:
    UserError: the compiler or the trial found that the step does not fit the devices' memory.
  """
  with _memory_is_counted(config, program):
    plan = _compile(program, config)
    if not processes.first_says(plan.fits):  # a trial needs all processes
      return plan
    return dataclasses.replace(plan, seconds_per_step=_try(plan, program, config))


def advice(config: Config, program: Program) -> str:
  """What to change in a config whose step does not fit, the cheapest first."""
  train, mesh = config.train, program.batch_sharding.mesh.shape
  rows = train.batch_size // train.accumulation // (mesh["data"] * mesh["fsdp"])
  ways = []
  if mesh["data"] > 1:
    ways.append("split the state too (mesh.fsdp in place of mesh.data)")
  if config.model.remat != "full":
    ways.append('recompute activations (model.remat="full")')
  if rows > 1:
    parts = train.accumulation * 2
    ways.append(f"compute a batch in more parts (train.accumulation={parts} or more)")
  ways.append("take more devices, or a smaller model.context or model.width")
  return "; or ".join(ways)


@contextlib.contextmanager
def _memory_is_counted(config: Config, program: Program) -> Iterator[None]:
  """Turns what XLA says of memory that is not there into a sentence."""
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    used = re.search(r"Used (\S+) of (\S+) hbm", str(error))
    how_much = f" ({used[1]}B of {used[2]}B on each)" if used else ""
    raise UserError(
      f"The step does not fit the devices' memory{how_much}: {advice(config, program)}."
    ) from error


def _compile(program: Program, config: Config) -> Plan:
  state = jax.eval_shape(program.init, jax.random.key(0))
  tokens_BT1 = (config.train.batch_size, config.model.context + 1)
  started = time.monotonic()
  update = program.update.lower(state, jax.ShapeDtypeStruct(tokens_BT1, jnp.int32)).compile()
  memory = update.memory_analysis()
  mesh = program.batch_sharding.mesh
  return Plan(
    update=update,
    mesh=dict(mesh.shape),
    slices=sharding.slices(mesh.devices.flat),
    state_bytes=_bytes_on_one_device(state, program.state_sharding),
    step_bytes=memory.temp_size_in_bytes if memory else 0,
    device_bytes=_device_bytes((mesh.local_devices or list(mesh.devices.flat))[0]),
    compile_seconds=time.monotonic() - started,
    seconds_per_step=math.nan,
    compiler_counts=mesh.devices.flat[0].platform == "tpu",
  )


def _roofline(plan: Plan, config: Config, device: jax.Device) -> Roofline | None:
  peaks = hardware.peaks(device)
  if peaks is None:
    return None
  tokens = config.train.batch_size * config.model.context / math.prod(plan.mesh.values())
  forward_backward = flops.training_flops_per_token(config.model)
  exchanges = plan.program.collectives()
  sent = {
    crosses: sum(c.times * c.sent_bytes for c in exchanges if c.crosses_slices == crosses)
    for crosses in (False, True)
  }
  return Roofline(
    model_flops=tokens * forward_backward,
    executed_flops=tokens * (forward_backward + flops.recomputed_flops_per_token(config.model)),
    memory_bytes=plan.program.memory_bytes(),
    link_bytes=sent[False],
    slice_bytes=sent[True],
    peaks=peaks,
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


def _device_bytes(device: jax.Device) -> float:
  """Memory that a device may use: as it says, or its maker; of a CPU its part of the machine's.

  Infinity if nobody says.
  """
  if device.platform == "cpu":
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return whole // jax.local_device_count()
  peaks = hardware.peaks(device)
  here = device in jax.local_devices()  # one that is only compiled for says nothing
  stats = (device.memory_stats() or {}) if here else {}
  return stats.get("bytes_limit", peaks.memory if peaks else math.inf)
