import json
import subprocess
import sys

import conftest
import numpy as np
import pytest
import studies

from benchmarks import coverage_truths
from crate_jax.errors import UserError
from crate_jax.scaling import fit, table, uncertainty
from crate_jax.scaling.uncertainty import GapDraws, Noise

TOKENS = np.geomspace(6.4e5, 5.12e6, 4)


def rng(seed=0):
  return np.random.default_rng(seed)


def laws(E, B, beta, draws=4):
  return fit.Law(*(np.full(draws, float(x)) for x in (E, B, beta)))


def by_hand(groups):
  """The classical table of a two-way analysis of variance without missing cells, by loops."""
  between = within = df_between = df_within = 0
  for group in groups:
    S, D = group.shape
    rest = [[group[s][d] - sum(group[:, d]) / S for d in range(D)] for s in range(S)]
    for s in range(S):
      mean = sum(rest[s]) / D
      between += D * mean**2
      within += sum((value - mean) ** 2 for value in rest[s])
    df_between += S - 1
    df_within += (S - 1) * (D - 1)
  branch2 = within / df_within
  return max(0, (between / df_between - branch2) / D), branch2


def simulated_cells(groups, S, D, trunk, branch, seed=0):
  r = rng(seed)
  means = r.normal(4, 1, (groups, 1, D))
  noise = r.normal(0, trunk, (groups, S, 1)) + r.normal(0, branch, (groups, S, D))
  return list(means + noise)


def test_noise_of_four_runs_by_hand():
  # Lengths' means are 2 and 4. Rest: -1, -2 and 1, 2. Seeds' means -1.5 and 1.5: 9 = 2 t^2 + b^2.
  # What is left is four times 0.5: b^2 = 1.
  found = uncertainty.noise([np.array([[1.0, 2.0], [3.0, 6.0]])])
  np.testing.assert_allclose([found.trunk, found.branch], [2, 1])
  assert found.degrees == 1


def test_noise_is_the_classical_analysis_of_variance():
  groups = simulated_cells(4, 5, 6, 0.02, 0.01)
  found = uncertainty.noise(groups)
  np.testing.assert_allclose([found.trunk**2, found.branch**2], by_hand(groups), rtol=1e-9)
  assert found.degrees == 16 and found.enough
  moved = [group + np.arange(6) for group in groups]  # lengths' means are not noise
  np.testing.assert_allclose(uncertainty.noise(moved).trunk, found.trunk, rtol=1e-6)
  negative = [np.array([[1.0, -1.0], [-1.0, 1.0]])]  # seeds agree more than cells allow
  assert uncertainty.noise(negative).trunk == 0


def test_noise_is_found_where_cells_are_missing():
  groups = simulated_cells(300, 4, 5, 0.02, 0.01)
  holes = rng(1).random((300, 4, 5)) < 0.3
  for group, hole in zip(groups, holes, strict=True):
    group[hole] = np.nan
  found = uncertainty.noise(groups)
  np.testing.assert_allclose([found.trunk, found.branch], [0.02, 0.01], rtol=0.05)
  whole = [group[~np.isnan(group).any(1)] for group in groups]
  assert found.degrees > sum(max(len(group) - 1, 0) for group in whole)


def test_noise_of_one_length_is_all_of_it_branch():
  found = uncertainty.noise([np.array([[1.0], [3.0], [5.0]]), np.full((2, 1), np.nan)])
  assert (found.trunk, found.degrees) == (0, 2)
  np.testing.assert_allclose(found.branch, 2)


def test_noise_needs_two_seeds():
  with pytest.raises(UserError, match="no length was trained from two seeds"):
    uncertainty.noise([np.ones((1, 5)), np.array([[1.0, np.nan], [np.nan, 1.0]])])


def test_twelve_degrees_of_freedom_are_enough():
  assert uncertainty.noise(simulated_cells(6, 3, 4, 0.1, 0.1)).enough
  assert not uncertainty.noise([*simulated_cells(5, 3, 4, 0.1, 0.1), np.ones((2, 4))]).enough


def test_draws_of_a_law_spread_as_linear_theory_says():
  law = fit.Law(*map(np.asarray, (2.2, 1.6 * 2e6**0.3, 0.3)))
  noise, seeds = Noise(1e-4, 5e-5, 10**6), np.array([5, 5, 3, 2])
  drawn = uncertainty.law_draws(law, TOKENS, seeds, noise, 4000, rng())
  # All residuals are below Huber's delta: least squares of log L, weighted by the seeds.
  loss, x = law.loss(TOKENS), np.log(TOKENS / 2e6)
  power = np.exp(-0.3 * x)
  J = np.stack([np.ones(len(x)), power, -1.6 * x * power], 1) / loss[:, None]
  W = np.diag(seeds / 5)
  shared = np.minimum.outer(seeds, seeds) / np.multiply.outer(seeds, seeds)
  covariance = (1e-4**2 * shared + np.diag(5e-5**2 / seeds)) / np.multiply.outer(loss, loss)
  inverse = np.linalg.inv(J.T @ W @ J) @ J.T @ W
  expected = np.sqrt((inverse @ covariance @ inverse.T)[2, 2])
  np.testing.assert_allclose(drawn.beta.std(), expected, rtol=0.05)
  np.testing.assert_allclose(drawn.beta.mean(), 0.3, atol=4 * expected / 4000**0.5)


def test_draws_know_how_little_the_noise_is_known():
  law = fit.Law(*map(np.asarray, (2.2, 1.6 * 2e6**0.3, 0.3)))
  widths = [
    np.subtract(*uncertainty.interval(
      uncertainty.law_draws(law, TOKENS, 3, Noise(1e-3, 1e-3, degrees), 2000, rng()).loss(5e7)
    ))
    for degrees in (3, 10**6)
  ]  # fmt: skip
  assert widths[0] < 1.2 * widths[1] < 0  # low minus high


def test_draws_without_noise_are_the_law():
  law = fit.Law(*map(np.asarray, (2.2, 1.6 * 2e6**0.31, 0.31)))
  drawn = uncertainty.law_draws(law, TOKENS, 3, Noise(0, 0, 12), 5, rng())
  np.testing.assert_allclose(drawn.beta, 0.31, atol=1e-6)
  truth = laws(2.25, 1.7 * 2e6**0.33, 0.33, 1).loss(TOKENS) * np.ones((3, 1))
  gpt2 = law.loss(TOKENS) * np.ones((3, 1))
  sample = uncertainty.gap_draws(TOKENS, truth, gpt2, Noise(0, 0, 12), 6, rng())
  far = np.array([5e6, 5e7])
  expected = laws(2.25, 1.7 * 2e6**0.33, 0.33, 1).loss(far)[0] - law.loss(far)
  np.testing.assert_allclose(sample.at(far)[3:], [expected] * 3, atol=1e-5)
  direct = fit.fit_gap(TOKENS, (truth - gpt2)[0])
  np.testing.assert_allclose(sample.at(far)[:3], [direct.at(far)] * 3, atol=1e-6)
  assert sample.at(5e7).shape == (6,)


def test_a_gap_is_as_sure_as_noise_and_seeds_allow():
  crate = laws(2.25, 1.7 * 2e6**0.33, 0.33, 1).loss(TOKENS) * np.ones((8, 1))
  gpt2 = laws(2.2, 1.6 * 2e6**0.31, 0.31, 1).loss(TOKENS) * np.ones((8, 1))

  def width(seeds, gap, loss=0.01):
    of_loss = Noise(loss, loss, 16)
    sample = uncertainty.gap_draws(
      TOKENS, crate[:seeds], gpt2[:seeds], Noise(gap, gap, 16), 400, rng(), of_loss
    )
    low, high = uncertainty.interval(sample.at(5e6))
    return high - low

  assert width(2, 0.005) < width(2, 0.01) < width(2, 0.02)
  assert width(8, 0.01) < width(3, 0.01)
  # Of the mean of n seeds at the end of the data, about as Student's interval: 2 * 1.75 * sd / n^.5
  np.testing.assert_allclose(width(4, 0.01), 2 * 1.75 * 0.01 * 2**0.5 / 2, rtol=0.25)


def test_cells_that_one_of_a_pair_lacks_are_left_out():
  crate = 4.2 + rng(1).normal(0, 0.01, (3, 6)) + np.linspace(1, 0, 6) ** 2
  gpt2 = 4.0 + rng(2).normal(0, 0.01, (3, 6)) + np.linspace(1, 0, 6) ** 2
  tokens = np.geomspace(1e6, 3.2e7, 6)
  crate[:, 5], gpt2[1:, 2] = np.nan, np.nan
  noise = Noise(0.01, 0.01, 12)
  sample = uncertainty.gap_draws(tokens, crate, gpt2, noise, 40, rng(3), noise)
  alone = uncertainty.gap_draws(tokens[:5], crate[:, :5], gpt2[:, :5], noise, 40, rng(3), noise)
  np.testing.assert_allclose(sample.at(1e7), alone.at(1e7))
  with pytest.raises(UserError, match="3 distinct lengths"):
    uncertainty.gap_draws(tokens[:3], crate[:, :3], gpt2[:, :3], noise, 40, rng(3), noise)


def test_the_mean_of_a_pair_has_what_the_difference_leaves():
  mean = uncertainty.of_mean(Noise(0.5, 0.05, 9), Noise(0.6, 0.2, 9))
  np.testing.assert_allclose([mean.trunk, mean.branch], [0.4, 0])


def test_an_interval_holds_its_share():
  np.testing.assert_allclose(uncertainty.interval(np.arange(101.0)), (5, 95))
  np.testing.assert_allclose(uncertainty.interval(np.arange(101.0), 0.5), (25, 75))


def crossers():
  """Four gaps that cross at 2, 4, 8 and 1000 times 1e6 tokens, and four that never do."""
  at = 1e6 * np.array([2.0, 4.0, 8.0, 1000.0])
  gap = fit.Gap(np.full(4, -0.1), 0.1 * at**0.4, np.full(4, 0.4))
  return GapDraws(gap, laws(2.1, 30, 0.3), laws(2.0, 30, 0.3), 1e5)


def test_the_probability_of_a_crossing_is_a_share_of_draws():
  chances = [
    uncertainty.crossing_probability(crossers(), x * 1e6, 1e6) for x in (1, 1.9, 2.1, 5, 10)
  ]
  assert chances == [0, 0, 1 / 8, 2 / 8, 3 / 8]
  inside = uncertainty.crossing_probability(crossers(), 3e6, 5e6)
  assert inside == 1 / 8


def test_beyond_ten_times_the_longest_run_nothing_is_said():
  assert uncertainty.crossing_probability(crossers(), 1.001e7, 1e6) is None
  assert uncertainty.crossing_probability(crossers(), 1e8, 1e6) is None


def test_the_crossing_is_where_the_equation_says():
  found = uncertainty.crossing(crossers(), 1e6, level=0.6)
  assert found.probability == 3 / 8 and found.median is None and found.high is None
  np.testing.assert_allclose(found.low, 4e6, rtol=1e-3)
  alone = GapDraws(crossers().direct, laws(2.0, 20, 0.3), laws(2.1, 30, 0.3), 1e5)
  found = uncertainty.crossing(alone, 1e6)  # half of the draws are below 0 from the start
  assert found.low == 1e5 and found.probability == 7 / 8
  grows = fit.Gap(np.full(4, 0.1), np.full(4, -0.1 * 2e5**0.4), np.full(4, 0.4))
  later = GapDraws(grows, laws(2.1, 30, 0.3), laws(2.0, 30, 0.3), 1e5)
  assert uncertainty.crossing(later, 1e6).probability == 0  # it has opened, and does not close


def test_works_that_all_differ_alike_leave_no_doubt():
  tokens = np.array([10, 200, 30, 4, 57])
  nats = np.arange(1.0, 6)
  value, low, high = uncertainty.by_work(nats + 0.25 * tokens, nats, tokens, 200, rng())
  np.testing.assert_allclose([value, low, high], 0.25, atol=1e-9)


def test_the_interval_over_works_holds_the_truth():
  hits, r = 0, rng(8)
  for _ in range(300):
    tokens = np.round(np.exp(r.normal(8, 0.8, 20)))
    a = tokens * (4 + r.normal(0, 0.5, 20))  # how hard a work is counts for both
    b = a - tokens * (0.1 + r.gamma(0.5, 0.05, 20))
    value, low, high = uncertainty.by_work(a, b, tokens, 200, r)
    np.testing.assert_allclose(value, (a - b).sum() / tokens.sum())
    hits += low <= 0.125 <= high
  assert 0.84 <= hits / 300 <= 0.96


def test_few_works_say_nothing():
  tokens = np.array([10, 20, 30, 40])
  value, low, high = uncertainty.by_work(2.0 * tokens, 1.0 * tokens, tokens, 200, rng())
  assert (value, low, high) == (1, -np.inf, np.inf)


def pairs():
  return coverage_truths.truths(gap=0.15, E=2.2, excess=1.6, beta=0.3)


@pytest.mark.parametrize("gap", [0.04, 0.15, 0.4])
def test_the_benchmark_s_truths_cross_where_they_say(gap):
  x = np.geomspace(1, 1e6, 6001)
  for truth in coverage_truths.truths(gap=gap, E=2.2, excess=1.6, beta=0.3):
    value = truth.crate(x) - truth.gpt2(x)
    np.testing.assert_allclose(value[0], gap)
    first = x[np.argmax(value <= 0)] if (value <= 0).any() else np.inf
    np.testing.assert_allclose(first, truth.crosses, rtol=0.01)


def covered(truth, seed):
  """Of 25 studies on a short grid: shares whose interval of the gap ten times on is right.

  First that of all draws, then that of the draws of the form g + k D^-gamma alone.
  """
  noise = Noise(0.012, 0.008, 16), Noise(0.010, 0.010, 16)
  design, r, hits = coverage_truths.Design(TOKENS, 5, 16, *noise), rng(seed), np.zeros(2)
  value, far = truth.crate(10.0) - truth.gpt2(10.0), 10 * TOKENS[-1]
  for _ in range(25):
    crate, gpt2, of_gap, of_loss = coverage_truths.simulated(truth, design, r)
    drawn = uncertainty.gap_draws(TOKENS, crate, gpt2, of_gap, 80, r, of_loss)
    for i, values in enumerate((drawn.at(far), drawn.direct.at(far))):
      low, high = uncertainty.interval(values)
      hits[i] += low <= value <= high
  return hits / 25


def test_a_short_grid_s_interval_is_honest_where_one_form_alone_is_not():
  both, direct = covered(pairs()[4], 1)  # two laws, exponents close
  assert both >= 0.8 and direct <= 0.5
  both, direct = covered(pairs()[0], 2)
  assert both >= 0.8 and direct >= 0.8


def benchmark(out, *flags):
  done = subprocess.run(
    [sys.executable, "benchmarks/coverage.py", "--studies=1", "--draws=20", f"--out={out}", *flags],
    cwd=conftest.ROOT, capture_output=True, text=True, timeout=300,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr


def test_the_benchmark_takes_lengths_seeds_and_noise_from_a_table(tmp_path):
  rows = studies.study(sizes=((2, 128),), seeds=(0, 1, 2))
  table.write(tmp_path, rows)
  benchmark(tmp_path / "out", f"--workdir={tmp_path}")
  made = json.loads((tmp_path / "out" / "coverage.json").read_text())
  assert made["design"]["tokens_D"] == sorted({row.tokens for row in rows if row.epochs <= 4})
  assert made["design"]["seeds"] == 3
  assert len(made["laws"]) == 18 and len(made["gaps"]) == len(made["crossings"]) == 12
  assert {row["share"] for row in made["gaps"]} <= {0, 1}
  written = (tmp_path / "out" / "coverage.md").read_text()
  assert "never cross" in written and "100 times the longest run, outside the data" in written


def test_the_benchmark_simulates_a_csv_s_studies(tmp_path):
  benchmark(tmp_path, "--csv")
  made = json.loads((tmp_path / "coverage_csv.json").read_text())
  assert [row["number"] for row in made["laws"]] == [
    "E",
    "A",
    "alpha",
    "B",
    "beta",
    "E",
    "B",
    "beta",
  ]
