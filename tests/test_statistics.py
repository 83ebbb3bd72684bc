"""Intervals on simulated studies of known truth, and matching and corrections on small cases."""

import numpy as np
import pytest

from crate_jax.interpret import scores, statistics
from crate_jax.interpret.statistics import Scored

STUDIES, WORKS, NEURONS, DRAWS = 200, 24, 60, 200


def study(rng, *, seed_effect=0.0, ranks=False, tokens=400, work_W=None):
  """Sums as of a network whose neurons' correlations scatter, on works that scatter too.

  a = s * strength of the neuron * of the work + noise; s is standard normal.
  """
  strength_M = rng.normal(0.6 + seed_effect, 0.25, NEURONS)
  if ranks:
    work_N = np.repeat(np.arange(WORKS), 60)
    scale_N1 = rng.normal(1, 0.15, WORKS)[work_N, None]
    s_NM = rng.normal(size=(len(work_N), NEURONS))
    a_NM = s_NM * strength_M * scale_N1 + rng.normal(size=s_NM.shape)
    return Scored(*scores.rank_sums(scores.ranks(a_NM), scores.ranks(s_NM), work_N, WORKS))
  if work_W is None:
    work_W = rng.normal(1, 0.15, WORKS)
  sums = np.zeros((WORKS, NEURONS, 5))
  for w in range(WORKS):
    s = rng.normal(size=(tokens, NEURONS))
    a = s * strength_M * work_W[w] + rng.normal(size=s.shape)
    sums[w] = np.stack([a.sum(0), (a * a).sum(0), s.sum(0), (s * s).sum(0), (a * s).sum(0)], -1)
  return Scored(sums, np.full(WORKS, tokens))


def truth(rng, seeds=0.0):
  """The mean score of endlessly many neurons of endlessly many seeds on endlessly many works."""
  strength = rng.normal(0.6, np.hypot(0.25, seeds), 1_000_000)
  mean_work, square_work = 1.0, 1 + 0.15**2
  return np.mean(strength * mean_work / np.sqrt(strength**2 * square_work + 1))


def test_intervals_cover_what_they_should():
  rng = np.random.default_rng(0)
  wanted, covered = truth(rng), 0
  for _ in range(STUDIES):
    scored = study(rng)
    counts_DW = statistics.draw_works(WORKS, DRAWS, rng)
    summary, _ = statistics.summarise([scored], counts_DW, rng)
    covered += summary.interval[0] <= wanted <= summary.interval[1]
  assert 0.90 <= covered / STUDIES <= 0.98


@pytest.mark.parametrize("seeds", [0.0, 0.03, 0.2])
def test_intervals_of_three_seeds_cover_too(seeds):
  """Seeds that do not differ; by about as much as a draw of neurons; by much more."""
  rng = np.random.default_rng(5)
  wanted, covered = truth(rng, seeds), 0
  for _ in range(STUDIES):
    work_W = rng.normal(1, 0.15, WORKS)
    effects = rng.normal(0, seeds, 3)
    networks = [study(rng, seed_effect=e, tokens=80, work_W=work_W) for e in effects]
    counts_DW = statistics.draw_works(WORKS, DRAWS, rng)
    summary, _ = statistics.summarise(networks, counts_DW, rng)
    covered += summary.interval[0] <= wanted <= summary.interval[1]
  assert 0.90 <= covered / STUDIES <= 0.98


def test_intervals_of_rank_correlations_cover_too():
  rng = np.random.default_rng(0)
  s_NM = rng.normal(size=(2000, 3000))
  # Every token of a work of its own: the correlation on endlessly many works.
  a_NM = s_NM * rng.normal(0.6, 0.25, 3000) * rng.normal(1, 0.15, s_NM.shape)
  a_NM += rng.normal(size=s_NM.shape)
  sums_WMS, tokens_W = scores.rank_sums(
    scores.ranks(a_NM), scores.ranks(s_NM), np.zeros(2000, int), 1
  )
  wanted = scores.pearson(sums_WMS[0], tokens_W[0]).mean()
  covered = 0
  for _ in range(STUDIES):
    scored = study(rng, ranks=True)
    counts_DW = statistics.draw_works(WORKS, DRAWS, rng)
    summary, _ = statistics.summarise([scored], counts_DW, rng)
    covered += summary.interval[0] <= wanted <= summary.interval[1]
  assert 0.90 <= covered / STUDIES <= 0.98


def test_a_summary_counts_undefined_scores_both_ways():
  sums = np.zeros((8, 4, 5))
  rng = np.random.default_rng(0)
  s = rng.normal(size=(8, 50))
  for m, a in enumerate((s, -s, s + rng.normal(size=s.shape))):  # the fourth never fires
    parts = [a.sum(1), (a * a).sum(1), s.sum(1), (s * s).sum(1), (a * s).sum(1)]
    sums[:, m] = np.stack(parts, -1)
  counts_DW = statistics.draw_works(8, 100, rng)
  summary, drawn_D2 = statistics.summarise([Scored(sums, np.full(8, 50))], counts_DW, rng)
  score_M = Scored(sums, np.full(8, 50)).scores()
  assert score_M[:2] == pytest.approx([1, -1])
  assert np.isnan(score_M[3])
  assert (summary.n, summary.coverage) == (4, 0.75)
  assert summary.mean == pytest.approx(score_M[2] / 3)
  assert summary.mean_zero == pytest.approx(score_M[2] / 4)
  assert summary.median == pytest.approx(score_M[2])
  assert summary.error == pytest.approx(np.std(drawn_D2[:, 0]), rel=1e-6)


def test_a_score_by_several_rules_is_the_mean_of_those_defined():
  rng = np.random.default_rng(0)
  first, second = study(rng), study(rng)
  second.sums_WMS[:, 0, 2:] = 0  # a rule that is constant
  both = Scored(np.stack([first.sums_WMS, second.sums_WMS], axis=1), first.tokens_W)
  one, other = first.scores(), second.scores()
  assert np.isnan(other[0])
  np.testing.assert_allclose(both.scores(), [one[0], *(one[1:] + other[1:]) / 2])
  counts_DW = statistics.draw_works(WORKS, DRAWS, rng)
  mean_D = statistics.means(both, counts_DW, rng)[:, 0]
  assert mean_D.mean() == pytest.approx(both.scores().mean(), abs=0.02)
  assert mean_D.std() < statistics.means(first, counts_DW, rng)[:, 0].std()


def test_seeds_are_the_top_level():
  rng = np.random.default_rng(1)
  counts_DW = statistics.draw_works(WORKS, DRAWS, rng)
  alike = [study(rng) for _ in range(3)]
  apart = [study(rng, seed_effect=x) for x in (-0.4, 0.0, 0.4)]
  narrow, _ = statistics.summarise(alike, counts_DW, rng)
  wide, _ = statistics.summarise(apart, counts_DW, rng)
  assert wide.interval[1] - wide.interval[0] > 2 * (narrow.interval[1] - narrow.interval[0])
  assert narrow.n == 3 * NEURONS


def test_matching_gives_both_the_same_rates():
  rng = np.random.default_rng(0)
  rate_a = 10 ** rng.uniform(-3, -1, 4000)
  rate_b = 10 ** rng.uniform(-2, -0.3, 4000)
  matched = statistics.match(rate_a, rate_b)
  assert matched.weight_a_M.sum() == pytest.approx(matched.weight_b_M.sum())
  assert 0.4 < matched.share_a < 0.6
  assert 0.5 < matched.share_b < 0.7
  assert 0.005 < matched.low < 0.02
  assert 0.05 < matched.high <= 0.2
  means = [
    np.average(np.log10(rate), weights=weight)
    for rate, weight in ((rate_a, matched.weight_a_M), (rate_b, matched.weight_b_M))
  ]
  assert means[0] == pytest.approx(means[1], abs=0.02)


def test_what_has_no_common_support_is_not_matched():
  matched = statistics.match(np.array([0.001, 0.002, 0.0]), np.array([0.3, 0.4]))
  assert not matched.weight_a_M.any()
  assert not matched.weight_b_M.any()
  assert (matched.share_a, matched.share_b) == (0, 0)


def test_p_values_are_two_sided_and_never_zero():
  assert statistics.p_value(np.arange(1.0, 1000)) == pytest.approx(0.002)
  assert statistics.p_value(-np.arange(1.0, 1000)) == pytest.approx(0.002)
  assert statistics.p_value(np.linspace(-1, 1, 999)) == 1
  assert np.isnan(statistics.p_value(np.array([np.nan])))
