"""Checks on eight fake devices, each run as `python eight_devices.py NAME ARGUMENTS`.

JAX takes the number of its devices when it starts, so they cannot run inside pytest.
"""

import dataclasses
import sys
from pathlib import Path

import jax

jax.config.update("jax_num_cpu_devices", 8)  # before anything asks for devices

# ruff: noqa: E402
import conftest
import jax.numpy as jnp
import numpy as np
import optax

from crate_jax import config as config_lib
from crate_jax.config import Config, MeshConfig
from crate_jax.errors import UserError
from crate_jax.evaluation import loss
from crate_jax.interpret import collect, excerpts, network
from crate_jax.model import lm, sampling
from crate_jax.training import checkpoint, hlo, optim, sharding
from crate_jax.training import program as program_lib

STEPS = 20
MESHES = {
  "1": (1, 1, 1),
  "8x1": (8, 1, 1),
  "1x8": (1, 8, 1),
  "2x4": (2, 4, 1),
  "2x2x2": (2, 2, 2),
  "1x1x2": (1, 1, 2),
}


def config(mesh: str, architecture: str = "crate", **model) -> Config:
  small = conftest.small_config(Path("unread"), architecture)
  small.model.update(model)
  c = config_lib.resolve(small, 256)
  return dataclasses.replace(c, mesh=MeshConfig(*MESHES[mesh], ""))


def build(c: Config) -> program_lib.Program:
  sizes = c.mesh.data * c.mesh.fsdp * c.mesh.tensor
  return program_lib.build(c, jax.devices()[:sizes])


def batches(count: int = STEPS) -> np.ndarray:
  few = 16  # of 256 tokens, so that there is something to learn
  return np.random.default_rng(0).integers(0, few, (count, 8, 17), dtype=np.int32)


def train(program, state, tokens) -> tuple:
  losses = []
  for batch in tokens:
    placed = sharding.assemble(batch, program.batch_sharding, len(batch))
    state, metrics = program.update(state, placed)
    losses.append(float(metrics["loss"]))
  return state, np.array(losses)


def same(one, other) -> bool:
  return jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), one, other))


def losses_agree(architecture: str, *meshes: str) -> None:
  """AdamW's losses, against those of one device."""
  want = None
  for mesh in meshes:
    program = build(config(mesh, architecture))
    _, losses = train(program, program.init(jax.random.key(0)), batches())
    assert losses[-1] < losses[0]
    want = losses if want is None else want
    np.testing.assert_allclose(losses[0], want[0], rtol=1e-6)
    np.testing.assert_allclose(losses, want, rtol=2e-5)


def gradients_agree(*meshes: str) -> None:
  """Parameters after plain gradient descent, which hides no scale of a gradient as AdamW does."""
  optim.make_optimizer = lambda *_: optax.sgd(0.1)
  want = None
  for mesh in meshes:
    program = build(config(mesh))
    start = program.init(jax.random.key(0))
    before = jax.device_get(start.params)
    params = jax.device_get(train(program, start, batches())[0].params)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, params)
    assert min(jax.tree.leaves(moved)) > 1e-5, moved
    want = params if want is None else want
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), params, want)


def resume(folder: str, *meshes: str) -> None:
  """Resumed equals straight, bit for bit; every mesh reads what every other has written."""
  tokens, half = batches(), STEPS // 2
  saved = {}
  for mesh in meshes:
    c = config(mesh)
    program = build(c)
    state, _ = train(program, program.init(jax.random.key(0)), tokens[:half])
    with checkpoint.Checkpoints(Path(folder) / mesh, c.checkpoint) as store:
      store.save(state, {})
    saved[mesh] = jax.device_get(state)
    straight = jax.device_get(train(program, state, tokens[half:])[0])
    for other in meshes:
      there = build(config(other))
      with checkpoint.Checkpoints(Path(folder) / mesh) as store:
        read = store.restore(half, there.init(jax.random.key(1)))
      assert same(jax.device_get(read), saved[mesh]), (mesh, other)
      places = jax.tree.map(lambda x: x.sharding, read)
      assert places == there.state_sharding, (mesh, other)
      if other == mesh:
        resumed = jax.device_get(train(there, read, tokens[half:])[0])
        assert same(resumed, straight), mesh


def save(folder: str) -> None:
  """A checkpoint of eight devices, for one to read."""
  c = config("2x2x2")
  with checkpoint.Checkpoints(Path(folder), c.checkpoint) as store:
    store.save(build(c).init(jax.random.key(0)), {})


def work_is_shared() -> None:
  """Every device computes its own rows alone, in an update's parts and in evaluation."""
  c = config("8x1", context=16)
  c = dataclasses.replace(c, train=dataclasses.replace(c.train, batch_size=64, accumulation=4))
  unrolled = build(c)
  # In a loop over layers: without one XLA makes rows and tokens one dimension, which names neither.
  c = dataclasses.replace(c, model=dataclasses.replace(c.model, unroll=False))
  program = build(c)
  state = program.init(jax.random.key(0))
  update = program.update.lower(state, jax.ShapeDtypeStruct((64, 17), "int32")).compile()
  # 16 rows in a part, two on each of 8 devices: their neurons, and nobody's of four rows or more.
  text = update.as_text()
  assert "[2,16,64]" in text
  assert not any(f"[{rows},16,64]" in text for rows in (4, 8, 16, 64))
  tokens = jax.ShapeDtypeStruct((64, 17), "int32")
  text = unrolled.update.lower(state, tokens).compile().as_text()
  assert f"[{2 * 16},64]" in text
  assert not any(f"[{rows * 16},64]" in text for rows in (8, 16, 64))

  rows, targets = np.zeros((8, 17), np.int32), np.full(8, 16, np.int32)
  placed = jax.device_put((rows, targets), program.batch_sharding)
  mesh = program.batch_sharding.mesh
  text = loss._row_sums.lower(program.model, mesh, state.params, *placed).compile().as_text()
  assert "[1,16,64]" in text and "[8,16,64]" not in text


def scores_agree() -> None:
  """Evaluation, the gauges in it, and samples do not depend on the mesh."""
  tokens = np.random.default_rng(1).integers(0, 256, 300)
  ways, said = [], set()
  for mesh in ("1", "2x2x2"):
    program = build(config(mesh))
    params = program.init(jax.random.key(0)).params
    ways.append(
      loss.text_loss(
        program.model, params, tokens, np.ones(256, int),
        context=16, batch_size=4, sharding=program.batch_sharding,
      )
    )  # fmt: skip
    options = {"temperature": 0.0, "top_k": 0, "vocab_size": 256}
    key = jax.random.key(0)
    prompts = [tokens[:3], tokens[:5]]
    samples = sampling.sample(program.model, {"params": params}, prompts, 20, key, **options)
    said.add(tuple(np.concatenate(samples).tolist()))
  one, other = ways
  assert one.tokens == other.tokens == 299 and len(said) == 1
  np.testing.assert_allclose(one.nats, other.nats, rtol=1e-6)
  np.testing.assert_allclose(one.nonzero, other.nonzero, rtol=1e-6)


def neurons_agree() -> None:
  """What is collected of neurons does not depend on the mesh."""
  tokens_NT = np.random.default_rng(1).integers(0, 256, (80, 16)).astype(np.int32)
  text = excerpts.Excerpts(tokens_NT, np.zeros(80, int), np.zeros(80, int), ("a",), 0)
  found = []
  for mesh in ("1", "2x2x2"):
    program = build(config(mesh))
    params = jax.device_get(program.init(jax.random.key(0)).params)
    units_Ln = network.choose(program.model.config.codes, 2, 10, 0)
    see = network.Network(program.model, params, units_Ln).see(program.batch_sharding.mesh)
    collector = collect.Collector(80)
    for _ in collector.through(network.batches(see, text, 16)):
      pass
    found.append(collector.result())
  one, other = (c.state for c in found)
  for name in ("fired_Ln", "in_interval_LnI"):
    a, b = getattr(one, name), getattr(other, name)
    assert np.mean(a != b) < 0.02, name  # an activation that is almost zero, or almost an edge
  np.testing.assert_allclose(one.means_PLn[:2], other.means_PLn[:2], rtol=1e-4, atol=1e-7)
  np.testing.assert_allclose(one.top_LnK, other.top_LnK, rtol=1e-4, atol=1e-6)


def compiled(mesh: str, architecture: str, **model) -> tuple[Config, hlo.Program]:
  c = config(mesh, architecture, layers=5, context=32, width=32, heads=4, **model)
  program = build(c)
  state = jax.eval_shape(program.init, jax.random.key(0))
  tokens = jax.ShapeDtypeStruct((8, 33), jnp.int32)
  return c, hlo.Program(program.update.lower(state, tokens).compile().as_text())


def weights_are_gathered_in_the_loop(architecture: str, dtype: str, remat: str) -> None:
  """Fully sharded: a layer's weights are whole on a device while it computes that layer."""
  c, step = compiled("1x8", architecture, dtype=dtype, remat=remat)
  gathers = [found for found in step.collectives() if found.kind == "all-gather"]
  shapes = [shape for found in gathers for shape in found.dimensions]
  assert not [shape for shape in shapes if shape[:1] == (c.model.layers,)], shapes
  sizes = {
    "/".join(str(key.key) for key in path): x.size // c.model.layers
    for path, x in jax.tree.leaves_with_path(lm.abstract_params(lm.LM(c.model))["blocks"])
  }
  in_loop = [np.prod(shape) for found in gathers if found.in_loop for shape in found.dimensions]
  assert {found.times for found in gathers if found.in_loop} == {c.model.layers}
  # Every weight of a layer is gathered for the forward pass, and again for the backward pass.
  for size in {size for name, size in sizes.items() if size >= 32 * 32}:
    copies = sum(other == size for other in sizes.values())
    assert in_loop.count(size) == 2 * copies, (size, sizes, in_loop)
  # The embedding is gathered once, outside: the lookup and the head use it.
  outside = [shape for found in gathers if not found.in_loop for shape in found.dimensions]
  assert outside.count((256, 32)) == 1
  # Nothing that the loops carry is a whole weight of all layers.
  carried = [i.shape for body in step.computations.values() for i in body if i.opcode == "while"]
  whole = f"[{c.model.layers},{c.model.codes},{c.model.width}]"
  assert carried and not any(whole in shape for shape in carried)


def exchanges_of_tensor_parallelism(architecture: str, ista_steps: str) -> None:
  """No more sums over devices in a layer than the mathematics needs.

  A product that contracts an axis which is split (codes, heads) leaves parts of a sum on each
  device. Forward, the t steps of ISTA decode t times: t - 1 times for a residual, and at the end.
  The attention's output projection is one more. Backward, so do the transposes of the products
  that go into a split axis: t correlations, of which the first is of the tokens themselves, and
  the projection onto the heads. An MLP has one of each.
  """
  t = int(ista_steps)
  changes = {"ista_steps": t} if architecture == "crate" else {}
  c, step = compiled("1x1x2", architecture, **changes)
  stream = (8, 32, 32)
  sums = [
    found.times
    for found in step.collectives()
    if found.kind == "all-reduce" and found.in_loop
    for shape in found.dimensions
    if shape == stream
  ]
  assert set(sums) == {c.model.layers}
  assert len(sums) == 2 * (1 + t), sums
  others = [found for found in step.collectives() if found.in_loop and found.times == 5]
  assert {found.kind for found in others} == {"all-reduce"}


def uneven_meshes_are_refused() -> None:
  for mesh, model, key in (
    ("2x2x2", {"vocab_size": 257}, "mesh.tensor=2 does not divide model.vocab_size=257"),
    ("2x2x2", {"heads": 1}, "mesh.tensor=2 does not divide model.heads=1"),
    ("1x8", {"width": 20}, "mesh.fsdp=8 does not divide model.width=20"),
  ):
    try:
      build(config(mesh, **model))
    except UserError as error:
      assert str(error).startswith(key), error
    else:
      raise AssertionError(key)


if __name__ == "__main__":
  globals()[sys.argv[1]](*sys.argv[2:])
