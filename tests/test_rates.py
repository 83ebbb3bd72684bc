import math

import pytest
import sweeps

from crate_jax.errors import UserError
from crate_jax.scaling import rates as rates_lib
from crate_jax.scaling.grid import Shape

TWO = Shape(2, 128, 4)
grid = sweeps.plateau_grid


def losses_with_best(g, best):
  """Trials whose loss is a parabola in the logarithm of the rate, lowest where `best` says."""
  found = {}
  for _ in range(10):
    for cell in rates_lib.trials(g, found):
      found[cell.name] = 5 + math.log2(cell.rate / best(cell)) ** 2
  return found


def test_rates_are_added_for_all_until_every_best_is_inside():
  g = grid(rates=(1e-3, 2e-3, 4e-3), trials=("2x128x4@300",))
  found = losses_with_best(g, lambda cell: {"crate": 7e-3, "gpt2": 2e-3}[cell.variant])
  assert rates_lib.tried(g, found) == [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2]
  per_variant = [c.variant for c in rates_lib.trials(g, found)]
  assert per_variant.count("crate") == per_variant.count("gpt2") == 5
  assert rates_lib.chosen(g, found)["crate", TWO] == 8e-3
  assert rates_lib.chosen(g, found)["gpt2", TWO] == 2e-3


def test_a_rate_that_diverged_is_never_the_best():
  g = grid(rates=(1e-3, 2e-3, 4e-3), trials=("2x128x4@300",), interior=False)
  found = {c.name: math.inf if c.rate > 1e-3 else 5.0 for c in rates_lib.trials(g, {})}
  assert set(rates_lib.chosen(g, found).values()) == {1e-3}


def test_no_interior_optimum_is_refused_by_name():
  g = grid(rates=(1e-3, 2e-3, 4e-3), trials=("2x128x4@300",))
  found = losses_with_best(g, lambda cell: {"crate": 1e3, "gpt2": 2e-3}[cell.variant])
  with pytest.raises(UserError, match="best rate of crate is at the end"):
    rates_lib.chosen(g, found)


def test_lengths_tried_at_a_shape_are_weighed_by_what_a_rate_loses():
  g = grid(rates=(1e-3, 2e-3, 4e-3, 8e-3), trials=("2x128x4@300", "2x128x4@2400"), interior=False)
  found = {}
  for cell in rates_lib.trials(g, {}):
    at = {1e-3: 0, 2e-3: 1, 4e-3: 2, 8e-3: 3}[cell.rate]
    found[cell.name] = [9, 5.3, 5.1, 5.0][at] if cell.steps == 300 else [4.5, 4.0, 4.1, 4.6][at]
  # The regrets add to 4.5, 0.3, 0.2, 0.6.
  assert rates_lib.chosen(g, found)["crate", TWO] == 4e-3


def test_between_shapes_with_trials_the_rate_is_interpolated():
  g = grid(
    rates=(1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    trials=("1x128x4@300", "4x128x4@300"),
    shapes=("1x128x4", "2x128x4", "4x128x4", "6x128x4"),
    checks=(),
  )
  found = losses_with_best(g, lambda cell: 8e-3 if cell.shape.layers == 1 else 2e-3)
  rates = [rates_lib.chosen(g, found)["crate", shape] for shape in g.shapes]
  assert rates == [8e-3, 4e-3, 2e-3, 2e-3]


def test_rates_are_what_names_of_cells_say():
  g = grid(rates=(0.0012345678, 0.01, 0.1), trials=("2x128x4@600",))
  assert g.rates[0] == 0.00123457
  found = losses_with_best(g, lambda cell: 2e-4)
  tried = rates_lib.tried(g, found)
  assert len(tried) > 3 and all(rate == float(f"{rate:.6g}") for rate in tried)
