import pytest
import sweeps
from ml_collections import ConfigDict

from configs import plateau
from crate_jax.errors import UserError
from crate_jax.scaling import grid as grid_lib
from crate_jax.scaling.grid import Cell, Shape

TWO = Shape(2, 128, 4)
config, grid = sweeps.plateau_config, sweeps.plateau_grid


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


@pytest.mark.parametrize("keys", ["lam=yes", "nonnegative=2"])
def test_a_variants_value_of_another_type_is_named(keys):
  c = config()
  c.sweep.variants.other = keys
  g = grid_lib.read(c)
  with pytest.raises(UserError, match=rf"sweep.variants.other: model.{keys.split('=')[0]}="):
    grid_lib.cell_config(c, g, Cell("other", TWO, 300, 0, 0.1))


def test_truth_values_are_read_as_json_and_as_python_writes_them():
  assert grid_lib._model_keys("x", "a=true,b=False,c=1e-5,d=mha") == {
    "a": True,
    "b": False,
    "c": 1e-5,
    "d": "mha",
  }


def test_other_presets_are_trained_by_the_recipe_of_the_plateau():
  found = grid_lib.read(plateau.get_config("crate_alpha+tost"))
  assert dict(found.variants) == {n: {"architecture": n} for n in ("crate_alpha", "tost")}
  assert [check[0] for check in found.checks] == ["crate_alpha", "tost"]
  with pytest.raises(UserError, match="argument names 'cart', which is none of crate, "):
    plateau.get_config("cart")
