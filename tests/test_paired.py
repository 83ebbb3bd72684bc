"""Paired differences, against scipy's own tests and by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from crate_jax.scaling import paired


def draws(n, seed=0):
  rng = np.random.default_rng(seed)
  base = 5 + rng.normal(0, 0.1, n)
  return base, base - 0.05 + rng.normal(0, 0.02, n)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_a_difference_is_that_of_the_paired_t_test(n):
  base, own = draws(n)
  found, want = paired.over_seeds(own - base), stats.ttest_rel(own, base)
  interval = want.confidence_interval(0.95)
  np.testing.assert_allclose(
    [found.value, found.low, found.high, found.p],
    [np.mean(own - base), interval.low, interval.high, want.pvalue],
    rtol=1e-9,
  )


def test_a_single_seed_has_no_interval_and_equal_ones_one_without_width():
  assert paired.over_seeds([0.25]) == paired.Estimate(0.25)
  assert paired.over_seeds([0.25, 0.25]) == paired.Estimate(0.25, 0.25, 0.25, 0.0)
  assert paired.over_seeds([0.0, 0.0]).p == 1.0


def test_the_spread_of_several_groups_is_that_of_an_analysis_of_variance():
  groups = [[1.0, 2.0, 3.0], [10.0, 14.0], [7.0], []]
  spread, degrees = paired.pool(groups)
  assert degrees == 3 and spread == pytest.approx(math.sqrt((1 + 0 + 1 + 4 + 4) / 3))
  assert paired.pool([[1.0], []]) is None
  own = paired.over_seeds(groups[0])
  assert paired.over_seeds(groups[0], paired.pool(groups[:1])) == own
  shared = paired.over_seeds([7.0], (spread, degrees))  # one seed, spread known from the others
  half = stats.t.ppf(0.975, 3) * spread
  np.testing.assert_allclose([shared.low, shared.high], [7 - half, 7 + half])
  assert shared.p == pytest.approx(2 * stats.t.sf(7 / spread, 3))


def test_holm_by_hand():
  # sorted .005 .01 .03 .04, times 4 3 2 1: .02 .03 .06 .04, and never less than before
  assert paired.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
  assert paired.holm([0.6, 0.7]) == [1.0, 1.0]
  assert paired.holm([]) == []


def test_holm_rejects_what_stepping_down_rejects():
  rng = np.random.default_rng(1)
  for _ in range(50):
    p = rng.uniform(0, 0.1, 8) ** rng.uniform(0.5, 3)
    rejected = np.zeros(8, bool)
    for rank, i in enumerate(np.argsort(p)):
      if p[i] > 0.05 / (8 - rank):
        break
      rejected[i] = True
    np.testing.assert_array_equal(np.array(paired.holm(p)) <= 0.05, rejected)


@pytest.mark.parametrize("n", [3, 6])
def test_the_bounds_of_a_ratio_are_where_the_t_test_turns(n):
  rng = np.random.default_rng(2)
  below = 0.2 + rng.normal(0, 0.02, n)
  above = 0.5 * below + rng.normal(0, 0.01, n)
  found = paired.ratio(above, below)
  assert found.value == pytest.approx(above.mean() / below.mean())
  assert found.low < found.value < found.high
  for bound in (found.low, found.high):
    assert stats.ttest_rel(above, bound * below).pvalue == pytest.approx(0.05, abs=1e-6)
  assert stats.ttest_rel(above, found.value * below).pvalue > 0.99


def test_a_ratio_to_nothing_has_no_bounds():
  found = paired.ratio([0.1, 0.2, 0.1], [0.1, -0.1, 0.05])
  assert found.low is found.high is None
  assert paired.ratio([0.1], [0.2]) == paired.Estimate(0.5)
  assert math.isnan(paired.ratio([], []).value)
