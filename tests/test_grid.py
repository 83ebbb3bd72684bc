import math

import pytest
from ml_collections import ConfigDict

from configs import plateau
from crate_jax.errors import UserError
from crate_jax.scaling import grid as grid_lib
from crate_jax.scaling.grid import Cell, Shape

TWO = Shape(2, 128, 4)


def config():
  c = plateau.get_config()
  c.optimizer.warmup_steps = 15
  return c


def grid(**sweep):
  c = config()
  for key, value in sweep.items():
    c.sweep[key] = value
  return grid_lib.read(c)


def losses_with_best(g, best):
  """Trials whose loss is a parabola in the logarithm of the rate, lowest where `best` says."""
  found = {}
  for _ in range(10):
    for cell in grid_lib.trials(g, found):
      found[cell.name] = 5 + math.log2(cell.rate / best(cell)) ** 2
  return found


def test_the_grid_holds_every_cell_from_the_inside_out():
  g = grid(shapes=("2x128x4", "1x128x4"), steps=(600, 300, 1200), seeds=(0, 1))
  rates = {(v, s): 0.001 for v in g.variants for s in g.shapes}
  cells = grid_lib.cells(g, rates)
  assert len(cells) == len(set(cells)) == 2 * 2 * 3 * 2
  assert cells[0] == Cell("crate", TWO, 300, 0, 0.001)
  assert [c.shape for c in cells] == [TWO] * 12 + [Shape(1, 128, 4)] * 12
  assert cells[0].name == "crate-2x128x4-300-seed0-0.001"


def test_updates_are_those_of_trunks_and_decays():
  g = grid(steps=(300, 600, 1200))
  cells = [Cell("crate", TWO, steps, 0, 0.1) for steps in (1200, 300, 600)]
  # A trunk of 0.8 of the longest, and a fifth of each.
  assert grid_lib.updates(g, cells) == (960 + 60 + 120 + 240, 2100)
  cosine = Cell("crate", TWO, 300, 0, 0.1, "cosine")
  assert grid_lib.updates(g, [*cells, cosine]) == (1380 + 300, 2400)
  assert [[c.steps for c in chain] for chain in grid_lib.chains([*cells, cosine])] == [
    [300, 600, 1200],
    [300],
  ]


def test_rates_are_added_for_all_until_every_best_is_inside():
  g = grid(rates=(1e-3, 2e-3, 4e-3), trials=("2x128x4@300",))
  found = losses_with_best(g, lambda cell: {"crate": 7e-3, "gpt2": 2e-3}[cell.variant])
  assert grid_lib.rates(g, found) == [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2]
  per_variant = [c.variant for c in grid_lib.trials(g, found)]
  assert per_variant.count("crate") == per_variant.count("gpt2") == 5
  assert grid_lib.chosen(g, found)["crate", TWO] == 8e-3
  assert grid_lib.chosen(g, found)["gpt2", TWO] == 2e-3


def test_a_rate_that_diverged_is_never_the_best():
  g = grid(rates=(1e-3, 2e-3, 4e-3), trials=("2x128x4@300",), interior=False)
  found = {c.name: math.inf if c.rate > 1e-3 else 5.0 for c in grid_lib.trials(g, {})}
  assert set(grid_lib.chosen(g, found).values()) == {1e-3}


def test_no_interior_optimum_is_refused_by_name():
  g = grid(rates=(1e-3, 2e-3, 4e-3), trials=("2x128x4@300",))
  found = losses_with_best(g, lambda cell: {"crate": 1e3, "gpt2": 2e-3}[cell.variant])
  with pytest.raises(UserError, match="best rate of crate is at the end"):
    grid_lib.chosen(g, found)


def test_lengths_tried_at_a_shape_are_weighed_by_what_a_rate_loses():
  g = grid(rates=(1e-3, 2e-3, 4e-3, 8e-3), trials=("2x128x4@300", "2x128x4@2400"), interior=False)
  found = {}
  for cell in grid_lib.trials(g, {}):
    at = {1e-3: 0, 2e-3: 1, 4e-3: 2, 8e-3: 3}[cell.rate]
    found[cell.name] = [9, 5.3, 5.1, 5.0][at] if cell.steps == 300 else [4.5, 4.0, 4.1, 4.6][at]
  # The regrets add to 4.5, 0.3, 0.2, 0.6.
  assert grid_lib.chosen(g, found)["crate", TWO] == 4e-3


def test_between_shapes_with_trials_the_rate_is_interpolated():
  g = grid(
    rates=(1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    trials=("1x128x4@300", "4x128x4@300"),
    shapes=("1x128x4", "2x128x4", "4x128x4", "6x128x4"),
    checks=(),
  )
  found = losses_with_best(g, lambda cell: 8e-3 if cell.shape.layers == 1 else 2e-3)
  rates = [grid_lib.chosen(g, found)["crate", shape] for shape in g.shapes]
  assert rates == [8e-3, 4e-3, 2e-3, 2e-3]


def test_a_cells_config_is_what_it_says():
  c = config()
  c.sweep.variants.other = "architecture=crate,ista_steps=1,mixing=mha,nonnegative=false,lam=0.05"
  c.sweep.checks = ()
  g = grid_lib.read(c)
  made = grid_lib.cell_config(c, g, Cell("other", Shape(3, 64, 2), 600, 7, 0.004))
  assert (made.model.layers, made.model.width, made.model.heads) == (3, 64, 2)
  assert (made.model.ista_steps, made.model.mixing, made.model.lam) == (1, "mha", 0.05)
  assert made.model.nonnegative is False
  assert (made.seed, made.train.steps, made.optimizer.learning_rate) == (7, 600, 0.004)
  assert made.checkpoint.every_steps == 480
  assert c.model.layers == 2  # not changed


def test_the_digest_is_of_what_decides_the_result():
  c = config()
  g = grid_lib.read(c)
  cell = Cell("crate", TWO, 300, 0, 0.001)
  made = grid_lib.cell_config(c, g, cell)
  before = grid_lib.digest(made, g)
  made.data.train, made.train.log_every_steps, made.sweep.seeds = "elsewhere", 7, (5,)
  assert grid_lib.digest(made, g) == before
  for part, key, value in (
    ("train", "steps", 301),
    ("optimizer", "warmup_steps", 3),
    ("data", "bpe_vocab_size", 9),
    ("sweep", "tokens_per_work", 5),
    ("sweep", "works", 9),
  ):
    changed = config()
    changed[part][key] = value
    of_it = grid_lib.read(changed)
    made = grid_lib.cell_config(changed, of_it, cell)
    if key == "steps":
      made.train.steps = value
    assert grid_lib.digest(made, of_it) != before, key


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"seeds": ()}, r"sweep.seeds is empty"),
    ({"shapes": ("2x128",)}, "'2x128' is not LAYERSxWIDTHxHEADS"),
    ({"trials": ("2x128x4",)}, "'2x128x4' is not SHAPE@STEPS"),
    ({"trials": ()}, "sweep.rates and sweep.trials go together"),
    ({"checks": ("other@2x128x4@1200",)}, "other@2x128x4@1200 is not a cell of the grid"),
    ({"steps": (100, 1200)}, "more than 5 % of the shortest length of the sweep, 100 steps"),
    ({"variants": ConfigDict({"crate": "mixing"})}, "'mixing' is not KEY=VALUE"),
  ],
)
def test_what_does_not_fit_is_refused(change, said):
  with pytest.raises(UserError, match=said):
    grid(**change)


def test_an_unknown_key_of_a_variant_is_named():
  c = config()
  c.sweep.variants.other = "ista_step=1"
  g = grid_lib.read(c)
  with pytest.raises(UserError, match=r"model.ista_step. Did you mean model.ista_steps"):
    grid_lib.cell_config(c, g, Cell("other", TWO, 300, 0, 0.1))
