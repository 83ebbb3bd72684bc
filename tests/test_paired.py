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


def test_the_residual_is_that_of_a_two_way_analysis_of_variance():
  # A sum of a row's and a column's number leaves nothing; one cell moved by 4 leaves 1, -1, -1, 1.
  additive = np.array([[1.0, 3.0], [3.0, 5.0]])
  assert paired.residual(additive) == (0.0, 1)
  assert paired.residual(additive + np.diag([4, 0])) == pytest.approx((2.0, 1))
  loss = np.random.default_rng(3).normal(0, 0.02, (400, 6))
  moved = loss + np.arange(6) + np.arange(400)[:, None]  # neither variants nor seeds are noise
  spread, degrees = paired.residual(moved)
  assert degrees == 399 * 5 and spread == pytest.approx(0.02, rel=0.05)
  assert paired.residual(loss[:1]) is paired.residual(loss[:, :1]) is None


def test_of_two_variants_the_residual_s_interval_is_that_of_the_paired_t_test():
  base, own = draws(4)
  spread, degrees = paired.residual(np.stack([base, own]))
  found = paired.over_seeds(own - base, (math.sqrt(2) * spread, degrees))
  want = paired.over_seeds(own - base)
  np.testing.assert_allclose(
    [found.value, found.low, found.high, found.p], [want.value, want.low, want.high, want.p]
  )


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


def test_a_variant_that_some_seeds_lose_is_not_alike():
  rng = np.random.default_rng(5)
  loss = 5 + rng.normal(0, 0.02, 3) + rng.normal(0, 0.01, (12, 3))
  assert paired.alike(loss) == list(range(12))
  loss[4] += [0.0, 0.7, 0.2]
  loss[9] += [0.3, 0.0, 0.0]
  kept = [i for i in range(12) if i not in (4, 9)]
  assert paired.alike(loss) == kept
  assert paired.residual(loss[kept])[0] < 0.02 < 0.1 < paired.residual(loss)[0]
  assert paired.alike(loss[:2]) == [0, 1]  # of two nobody can say which


def test_of_variants_that_spread_alike_few_are_taken_for_others():
  rng = np.random.default_rng(6)
  found = [len(paired.alike(rng.normal(0, 1, (8, 3)))) < 8 for _ in range(1000)]
  assert sum(found) / 1000 == pytest.approx(paired.UNLIKE, abs=0.006)
