"""AdamW with the paper's recipe, and its learning-rate schedules."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from crate_jax.config import OptimizerConfig
from crate_jax.errors import UserError


def decay_mask(axes: Any) -> Any:
  """True for every parameter that weight decay applies to: two or more dimensions *per layer*.

  Args:
    axes: the tree of logical axis names (`lm.logical_axes`). The axis "layers", which the scan
      adds, does not count, so biases and norms of the blocks are not decayed.
  """
  return jax.tree.map(
    lambda names: sum(name != "layers" for name in names) >= 2,
    axes,
    is_leaf=lambda x: isinstance(x, tuple),
  )


def make_optimizer(config: OptimizerConfig, steps: int, axes: Any) -> optax.GradientTransformation:
  """Clipping by global norm, then AdamW (Loshchilov and Hutter 2019) on the schedule.

  Args:
    config: the recipe.
    steps: updates of the whole run, which the schedule spans.
    axes: see `decay_mask`.
  """
  clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
  adamw = optax.adamw(
    make_schedule(config, steps),
    b1=config.beta1,
    b2=config.beta2,
    weight_decay=config.weight_decay,
    mask=decay_mask(axes),
  )
  return optax.chain(clip, adamw)


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
  """The learning rate of update number s = 0, 1, ..., steps - 1.

  Linear warm-up, so that update `warmup_steps` is the first at the peak; then cosine decay to
  the final rate, or ("wsd") a constant rate and in the last `decay_fraction` of the steps a
  decay of shape 1 - sqrt (Hägele et al. 2024, arXiv 2405.18392).

  Raises:
    UserError: the warm-up leaves no step, or reaches into the decay.
  """
  peak, final = config.learning_rate, config.final_learning_rate
  start = decay_start(config, steps)
  if config.warmup_steps >= steps or config.warmup_steps > start:
    end = min(start, steps - 1) if config.schedule == "wsd" else steps - 1
    raise UserError(
      f"optimizer.warmup_steps={config.warmup_steps} can be at most {end} in a run of "
      f"train.steps={steps} with optimizer.schedule={config.schedule!r}: lower it or train longer."
    )
  warmup = config.warmup_steps
  rise = optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1))
  length = max(steps - start, 1)
  if config.schedule == "cosine":
    fall = optax.cosine_decay_schedule(peak, length, alpha=final / peak)
  else:

    def fall(count: jax.Array) -> jax.Array:
      return final + (peak - final) * (1 - jnp.sqrt(jnp.clip(count / length, 0, 1)))

  return optax.join_schedules([rise, optax.constant_schedule(peak), fall], [warmup, start])


def decay_start(config: OptimizerConfig, steps: int) -> int:
  """Number of the first update whose rate the decay, and so the run's length, decides."""
  if config.schedule == "cosine":
    return config.warmup_steps
  return steps - round(config.decay_fraction * steps)
