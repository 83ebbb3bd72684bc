"""What bfloat16 and the device's attention kernel change: beside float32 on the same device.

Attention alone: output and gradient of the plain kernel in bfloat16 and of the one that the device
takes, relative to the plain one in float32 with exact products. Training: loss and gradient of a
model of --shape, at its start and after some updates, likewise. The exit status is 1 if one is
further off than it may be. With --out writes OUT/precision-SHAPE.md and .json.

  python benchmarks/precision.py --shape=base --out=benchmarks/speed
"""

import dataclasses
from typing import Any

from absl import flags

from benchmarks import turns
from crate_jax import cli
from crate_jax.errors import UserError

UPDATES = flags.DEFINE_integer("updates", 60, "Of each training.", lower_bound=10)
BATCH = flags.DEFINE_integer("batch", 8, "Windows in a batch of these.", lower_bound=1)
ATTENTION_BOUND = 1e-2  # bfloat16 keeps 8 bits of a number: 4e-3
LOSS_BOUND = 1e-3  # a mean over thousands of tokens
GRADIENT_BOUND = 0.1  # of its norm, through all layers; tiny on a CPU: 3.6e-2


def main() -> None:
  """Measures both."""
  attention, trained = _attention(), _training()
  lines = [
    "| attention | output off by | gradient off by |",
    "|---|---|---|",
    *(f"| {name} | {a:.1e} | {b:.1e} |" for name, (a, b) in attention.items()),
    "",
    "| a model | loss, float32 | loss, bfloat16 | off by | gradient off by |",
    "|---|---|---|---|---|",
  ]
  for name, rows in trained.items():
    for when, row in zip(("at its start", f"after {UPDATES.value} updates"), rows, strict=True):
      lines.append("| {}, {} | {:.4f} | {:.4f} | {:.1e} | {:.1e} |".format(name, when, *row))
  measured = {"attention": attention, "training": trained}
  turns.write(f"precision-{turns.SHAPE.value}", "What bfloat16 changes", lines, measured)
  if max(max(pair) for pair in attention.values()) > ATTENTION_BOUND:
    raise UserError(f"Attention is off by more than {ATTENTION_BOUND}.")
  rows = [row for two in trained.values() for row in two]
  if max(row[2] for row in rows) > LOSS_BOUND or max(row[3] for row in rows) > GRADIENT_BOUND:
    raise UserError(f"A loss is off by more than {LOSS_BOUND}, a gradient by {GRADIENT_BOUND}.")


def _attention() -> dict[str, tuple[float, float]]:
  """Relative error of output and gradient, by kernel."""
  import jax
  import jax.numpy as jnp

  from crate_jax.model.attention import causal_attention, choose_kernel

  one = turns.shape()
  half = turns.config("crate", one._replace(dtype="bfloat16"))
  kernel = choose_kernel(jax.devices()[0], half.model)
  keys = jax.random.split(jax.random.key(0), 4)
  size = 4, one.context, one.heads, one.width // one.heads
  q, k, v, g = (jax.random.normal(key, size).astype(jnp.bfloat16) for key in keys)

  def both(dtype: Any, kernel: str) -> tuple[jax.Array, list[jax.Array]]:
    @jax.jit
    def run(q: jax.Array, k: jax.Array, v: jax.Array, g: jax.Array) -> tuple:
      y, back = jax.vjp(lambda *x: causal_attention(*x, kernel=kernel), q, k, v)
      return y, back(g)

    return run(*(x.astype(dtype) for x in (q, k, v, g)))

  def error(found: Any, wanted: Any) -> float:
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True))
    off = sum(jnp.sum((a.astype(jnp.float32) - b) ** 2) for a, b in pairs)
    return float(jnp.sqrt(off / sum(jnp.sum(b**2) for _, b in pairs)))

  with jax.default_matmul_precision("highest"):
    want = both(jnp.float32, "plain")
  found = {}
  for name in dict.fromkeys(["plain", kernel]):
    got = both(jnp.bfloat16, name)
    found[f"{name}, bfloat16"] = error(got[0], want[0]), error(got[1], want[1])
  return found


def _training() -> dict[str, list[tuple[float, float, float, float]]]:
  """Losses in float32 and in bfloat16, and how far off loss and gradient are, by architecture.

  At the start and after updates in bfloat16, always of the same parameters on the same batch: two
  trainings that start to learn an update apart would differ by more than their arithmetic.
  """
  import jax
  import jax.numpy as jnp
  import numpy as np

  from crate_jax.training import program

  one = turns.shape()._replace(batch=BATCH.value)
  rng = np.random.default_rng(0)
  follows = rng.integers(0, one.vocabulary, (one.vocabulary, 2))  # a text of so many bigrams
  batches = np.zeros((UPDATES.value + 1, one.batch, one.context + 1), np.int32)
  for place in range(1, one.context + 1):
    chosen = rng.integers(0, 2, batches.shape[:2])
    batches[:, :, place] = follows[batches[:, :, place - 1], chosen]
  found = {}
  for architecture in ("crate", "gpt2"):
    built = {}
    for dtype in ("float32", "bfloat16"):
      c = turns.config(architecture, one._replace(dtype=dtype))
      fast = dataclasses.replace(c.optimizer, warmup_steps=5)
      built[dtype] = program.build(dataclasses.replace(c, optimizer=fast))
    wide, half = built["float32"], built["bfloat16"]
    gradient, half_gradient = _gradient(wide.model), _gradient(half.model)
    state, rows = half.init(jax.random.key(0)), []
    for number, batch in enumerate(batches):  # the last is the one compared on, not trained on
      if number in (0, UPDATES.value):
        with jax.default_matmul_precision("highest"):
          loss, wanted = gradient(state.params, batches[-1])
        half_loss, got = half_gradient(state.params, batches[-1])
        off = _squares(jax.tree.map(jnp.subtract, got, wanted)) / _squares(wanted)
        losses = float(loss), float(half_loss)
        rows.append((*losses, abs(losses[1] / losses[0] - 1), off**0.5))
      if number < UPDATES.value:
        state, _ = half.update(state, jax.device_put(batch, half.batch_sharding))
    found[architecture] = rows
  return found


def _gradient(model: Any) -> Any:
  """The function that gives a batch's loss, and its gradient by the parameters."""
  import jax

  def loss(params: Any, tokens: jax.Array) -> Any:
    return model.apply({"params": params}, tokens, method="mean_nll")

  return jax.jit(jax.value_and_grad(loss))


def _squares(tree: Any) -> float:
  import jax
  import jax.numpy as jnp

  return float(sum(jnp.sum(x.astype(jnp.float32) ** 2) for x in jax.tree.leaves(tree)))


if __name__ == "__main__":
  cli.run(main, required=[])
