"""Scores against NumPy and SciPy on stored simulations, and selectivity against plain counts."""

import collections
import math

import numpy as np
import planted
import pytest
import scipy.stats

from crate_jax.interpret import rules, scores
from crate_jax.interpret.network import batches

EACH = 4
M = EACH * len(planted.KINDS)


@pytest.fixture(scope="module")
def judged():
  """A planted text, its tables and rules, and the sums over its scoring works."""
  excerpts, see = planted.planted("zipf", 3, each=EACH, windows=160)
  explain, score = excerpts.of("explain"), excerpts.of("score")
  known = rules.pairs(explain.tokens_NT, 512)
  tables = rules.fit(batches(see, explain, 32), known, M)
  made = rules.rules(tables)
  null_KM = np.stack([np.roll(np.arange(M), k) for k in (1, 3)])
  found = scores.sums(batches(see, score, 32), made, len(score.works), null_KM)
  return excerpts, see, tables, made, found, null_KM


def test_a_score_is_numpys_correlation_of_the_stored_simulation(judged):
  excerpts, see, _, made, found, null_KM = judged
  score = excerpts.of("score")
  a_NM = see(score.tokens_NT)[0].reshape(-1, M).astype(np.float64)
  by_token, by_pair = (s.reshape(-1, M).astype(np.float64) for s in made.simulate(score.tokens_NT))
  for sums_WMS, s_NM in (
    (found.token_WMS, by_token),
    (found.pair_WMS, by_pair),
    (found.null_WKMS[:, 0], by_pair[:, null_KM[0]]),
    (found.null_WKMS[:, 1], by_pair[:, null_KM[1]]),
  ):
    wanted = [np.corrcoef(a_NM[:, m], s_NM[:, m])[0, 1] for m in range(M)]
    got = scores.pearson(sums_WMS.sum(0), found.tokens_W.sum())
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
  assert found.tokens_W.sum() == score.tokens_NT.size


def test_sums_of_a_work_are_of_its_windows_alone(judged):
  excerpts, see, _, made, found, _ = judged
  score = excerpts.of("score")
  work = int(score.work_N[0])
  own = score.tokens_NT[score.work_N == work]
  a_NM = see(own)[0].reshape(-1, M).astype(np.float64) - made.mean_M
  np.testing.assert_allclose(found.pair_WMS[work, :, 0], a_NM.sum(0), rtol=1e-4, atol=1e-3)
  assert found.tokens_W[work] == own.size
  elsewhere = np.isin(np.arange(len(score.works)), score.work_N, invert=True)
  assert not found.tokens_W[elsewhere].any()
  assert not found.pair_WMS[elsewhere].any()


def sums_of(a_N, s_N):
  return np.array([[a_N.sum(), a_N @ a_N, s_N.sum(), s_N @ s_N, a_N @ s_N]])


def test_predicting_the_mean_explains_nothing():
  a_N = np.random.default_rng(0).exponential(size=1000)
  assert scores.explained_variance(sums_of(a_N, np.full(1000, a_N.mean())), 1000) == pytest.approx(
    0, abs=1e-12
  )
  assert scores.explained_variance(sums_of(a_N, a_N), 1000) == pytest.approx(1)
  assert np.isnan(scores.pearson(sums_of(a_N, np.full(1000, 0.5)), 1000)).all()
  assert np.isnan(scores.explained_variance(sums_of(np.zeros(9), np.arange(9.0)), 9)).all()


def test_firing_on_nothing_is_undefined_and_not_zero():
  a_N = np.random.default_rng(0).exponential(size=1000)
  assert np.isnan(scores.pearson(sums_of(a_N, np.zeros(1000)), 1000)).all()
  assert np.isnan(scores.pearson(sums_of(np.zeros(1000), a_N), 1000)).all()


def test_rank_correlations_are_scipys():
  rng = np.random.default_rng(0)
  a_NM = np.maximum(rng.normal(size=(300, 5)), 0)
  s_NM = np.round(a_NM + rng.normal(size=(300, 5)))
  work_N = np.repeat([2, 0, 3], [50, 130, 120])
  sums_WMS, tokens_W = scores.rank_sums(scores.ranks(a_NM), scores.ranks(s_NM), work_N, 5)
  assert tokens_W.tolist() == [130, 0, 50, 120, 0]
  wanted = [scipy.stats.spearmanr(a_NM[:, m], s_NM[:, m]).statistic for m in range(5)]
  np.testing.assert_allclose(scores.pearson(sums_WMS.sum(0), 300), wanted, atol=1e-12)
  assert not sums_WMS[[1, 4]].any() and sums_WMS[[0, 2, 3]].all()
  constant = np.ones((300, 1))
  sums_WMS, _ = scores.rank_sums(scores.ranks(constant), scores.ranks(s_NM[:, :1]), work_N, 5)
  assert np.isnan(scores.pearson(sums_WMS.sum(0), 300)).all()


def test_selectivity_is_that_of_plain_counts(judged):
  excerpts, see, tables, *_ = judged
  explain = excerpts.of("explain")
  a_NM = see(explain.tokens_NT)[0].reshape(-1, M)
  tokens = explain.tokens_NT.ravel()
  found = scores.selectivity(tables)
  for m in range(M):
    fired = collections.Counter(tokens[a_NM[:, m] != 0].tolist())
    total = sum(fired.values())
    shares = [count / total for count in fired.values()]
    assert found.purity_M[m] == pytest.approx(max(shares), rel=1e-5)
    bits = -sum(p * math.log2(p) for p in shares)
    assert found.effective_tokens_M[m] == pytest.approx(2**bits, rel=1e-4)


def test_purity_and_information_tell_causes_apart_where_correlation_does_not(judged):
  *_, tables, _, found, _ = judged
  by_token = scores.pearson(found.token_WMS.sum(0), found.tokens_W.sum())
  selectivity = scores.selectivity(tables)

  def of(values, kind):
    return planted.of_kind(values, kind, EACH)

  one, eight = of(by_token, "token").mean(), of(by_token, "eight tokens").mean()
  assert abs(one - eight) < 0.03  # the correlation does not see that eight tokens are unrelated
  assert (of(selectivity.purity_M, "token") == 1).all()
  assert (of(selectivity.purity_M, "eight tokens") < 0.7).all()
  np.testing.assert_allclose(of(selectivity.effective_tokens_M, "token"), 1, rtol=1e-6)
  assert (of(selectivity.effective_tokens_M, "eight tokens") > 3).all()
  information = selectivity.adjusted_information_M
  np.testing.assert_allclose(of(information, "token"), 1, atol=0.01)
  np.testing.assert_allclose(of(information, "noise"), 0, atol=0.02)
  np.testing.assert_allclose(of(information, "context"), 0, atol=0.02)
  assert (of(information, "bigram") > 0.2).all()
