import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import models
import numpy as np
import pytest

from configs import base, shakespeare_char, tiny
from crate_jax import config as config_lib
from crate_jax.errors import UserError
from crate_jax.model import lm
from crate_jax.training import hardware, hlo, loop, plan, program


@pytest.mark.parametrize("architecture", ["crate", "gpt2"])
def test_the_plan_is_that_of_the_step(architecture, small):
  small.model.architecture = architecture
  c = config_lib.resolve(small, 257)
  pieces = program.build(c)
  measured = plan.measure(pieces, c)
  parameters = sum(x.size for x in jax.tree.leaves(lm.abstract_params(lm.LM(c.model))))
  # Parameters, AdamW's two moments; the step and the optimizer's two counters.
  assert measured.state_bytes == 3 * 4 * parameters + 3 * 4
  # The logits of the batch at least (it is one chunk), and not absurdly much.
  logits = 8 * 16 * 257 * 4
  assert logits < measured.step_bytes < 100 * logits
  assert measured.mesh == {"data": 1, "fsdp": 1, "tensor": 1}
  assert 1e8 < measured.device_bytes < 1e14 and measured.fits  # a CPU has the machine's
  assert measured.compile_seconds > 0 and measured.seconds_per_step > 0

  batch = jnp.asarray(models.tokens(pieces.model, rows=8, length=17))
  one, other = (
    update(pieces.init(jax.random.key(0)), batch) for update in (measured.update, pieces.update)
  )
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_step_that_does_not_fit_is_not_tried(small, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(plan, "_device_bytes", lambda device: 100_000)
  assert loop.train(small, tmp_path / "run", dry_run=True) == {}
  assert "not tried: the step does not fit the memory" in capsys.readouterr().out
  with pytest.raises(UserError, match=r"does not fit the device's memory: raise train\.accum"):
    loop.train(small, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_for_devices_whose_peak_nobody_knows_there_is_no_roofline(small):
  c = config_lib.resolve(small, 257)
  planned, roofline = plan.compile_only(c)
  assert roofline is None and planned.fits and math.isnan(planned.seconds_per_step)


def test_the_roofline_is_its_longest_part():
  peaks = hardware.Peaks(1e12, 1e9, 1e11, 1e10, "a page")
  roofline = plan.Roofline(2e12, 3e12, 2e11, 6e10, 0, peaks)
  assert roofline.parts == {"computing": 3.0, "memory": 2.0, "links": 6.0, "slices": 0.0}
  assert roofline.seconds == 6.0 and roofline.mfu == pytest.approx(1 / 3)


def test_advice_begins_with_what_costs_least(small):
  c = config_lib.resolve(small, 257)
  advice = plan.advice(c, program.build(c)).split("; or ")
  assert advice[0] == 'recompute activations (model.remat="full")'
  assert advice[1] == "compute a batch in more parts (train.accumulation=2 or more)"
  full = dataclasses.replace(c, model=dataclasses.replace(c.model, remat="full"))
  full = dataclasses.replace(full, train=dataclasses.replace(full.train, accumulation=8))
  assert plan.advice(full, program.build(full)) == (
    "take more devices, or a smaller model.context or model.width"
  )


def test_a_vocabulary_that_only_the_text_knows_is_asked_for():
  c = config_lib.resolve_without_text(tiny.get_config())
  assert c.model.vocab_size == 2048  # at most
  with pytest.raises(UserError, match=r"no text is read here: set --config.model.vocab_size"):
    config_lib.resolve_without_text(shakespeare_char.get_config())


def test_without_the_compiler_the_extra_is_named(monkeypatch):
  monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match="EXTRAS=tpu_compile"):
    plan.tpu_devices("v5e:2x2")


@pytest.fixture
def tpu():
  """The devices of a slice that is not here, by its name."""
  pytest.importorskip("libtpu", reason="the TPU compiler is the extra tpu_compile")
  return plan.tpu_devices


def test_a_slice_that_does_not_exist_is_named(tpu):
  for topology in ("v5e:3x3", "v99:2x2", "nonsense"):
    with pytest.raises(UserError, match=f"--topology={topology} is not a TPU slice"):
      tpu(topology)


def of_base(size, **changes):
  config = base.get_config(size)
  config.model.update(changes)
  return config


@pytest.mark.slow
@pytest.mark.parametrize(
  ("size", "topology"), [("12L", "v5e:8x8"), ("7B", "v5p:4x8x8"), ("1B", "v6e:16x16")]
)
def test_a_config_compiles_for_the_slice_that_it_states(size, topology, tpu):
  config = base.get_config(size)
  assert config.mesh.topology == topology
  c = config_lib.resolve_without_text(config)
  planned, roofline = plan.compile_only(c, tpu(topology))
  parameters = sum(x.size for x in jax.tree.leaves(lm.abstract_params(lm.LM(c.model))))
  by_hand = 3 * 4 * parameters / (planned.mesh["fsdp"] * planned.mesh["tensor"])
  assert planned.state_bytes == pytest.approx(by_hand, rel=1e-6)
  # 1: nothing but the operations limits it, and none is done twice.
  assert planned.fits and 0.05 < roofline.mfu <= 1
  text = planned.update.as_text()
  assert "splash" in text  # the kernel, and so no scores or masks of all pairs of tokens
  assert f"{c.model.context},{c.model.context}]" not in text
  assert not re.search(rf"\[\d+,\d+,{c.model.vocab_size}\]", text)  # the logits of a batch
  assert f"[1024,{c.model.vocab_size}]" in text  # of a chunk, which is there
  exchanges = planned.program.collectives()
  stacked = (c.model.layers, c.model.codes, c.model.width)
  assert not any(stacked in found.dimensions for found in exchanges)
  # By hand: gradients go round once to be summed, twice where all devices want the sum; parameters
  # that are split are gathered for either pass. Layers in bfloat16, the embedding in float32 but
  # for its gradient as the head, which is bfloat16 where it is not split.
  embedding = c.model.vocab_size * c.model.width
  blocks = parameters - embedding
  by_hand = 2 * 3 * blocks + 4 * 3 * embedding
  if planned.mesh["fsdp"] == 1:
    by_hand = 2 * (2 * blocks + (4 + 2) * embedding)
  assert 0.8 * by_hand < roofline.link_bytes < 2.2 * by_hand
  print(f"{size}: {roofline.link_bytes / by_hand:.2f} of the bytes by hand")


@pytest.mark.slow
def test_over_two_slices_gradients_are_what_is_exchanged(tpu):
  # So wide that an eighth fills the 128 lanes of a tile: less is sent with what pads it.
  config = of_base("1B", layers=3, width=1024, heads=16)
  config.mesh.data, config.train.batch_size = 2, 32
  c = config_lib.resolve_without_text(config)
  planned, roofline = plan.compile_only(c, tpu("v5e:2x4", 2))
  assert planned.slices == 2 and planned.mesh == {"data": 2, "fsdp": 8, "tensor": 1}
  blocks = c.model.layers * 6 * c.model.width**2
  embedding = c.model.vocab_size * c.model.width
  # Every device sends its eighth: of the blocks in bfloat16, of the embedding twice in float32.
  want = (2 * blocks + 2 * 4 * embedding) / 8
  assert want < roofline.slice_bytes < 1.1 * want
  config.mesh.data, config.mesh.fsdp = 1, 16
  with pytest.raises(UserError, match=r"mesh\.data=1 is not a multiple of the 2 slices"):
    plan.compile_only(config_lib.resolve_without_text(config), tpu("v5e:2x4", 2))


@pytest.mark.slow
def test_bytes_of_memory_are_near_what_xla_counts_without_loops(tpu):
  counted = {}
  for unroll in (True, False):
    config = of_base("12L", layers=6, unroll=unroll)
    config.train.batch_size = 4  # one window on a device: the head's loop has one turn
    c = config_lib.resolve_without_text(config)
    planned, roofline = plan.compile_only(c, tpu("v5e:2x2"))
    counted[unroll] = roofline.memory_bytes
    if unroll:
      want = planned.update.cost_analysis()["bytes accessed"]
      # XLA's own count takes what is on the chip for memory too.
      everywhere = re.sub(r"S\(\d\)", "", planned.update.as_text())
      assert hlo.Program(everywhere).memory_bytes() == pytest.approx(want, rel=0.15)
      assert roofline.memory_bytes < want
  # A loop also writes down, and cuts out, what an unrolled program hands on.
  assert 0.8 * counted[True] < counted[False] < 1.4 * counted[True]
  print(f"XLA {want:.3e}, unrolled {counted[True]:.3e}, with its loop {counted[False]:.3e}")


@pytest.mark.slow
def test_a_config_that_does_not_fit_says_what_to_change(tpu):
  config = base.get_config("7B")
  config.mesh.data, config.mesh.fsdp = -1, 1
  with pytest.raises(UserError, match=r"does not fit the devices' memory.*: split the state too"):
    plan.compile_only(config_lib.resolve_without_text(config), tpu("v5e:16x16"))
