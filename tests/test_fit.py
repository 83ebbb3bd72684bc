import numpy as np
import pytest
from scipy import optimize

from crate_jax.errors import UserError
from crate_jax.scaling import fit, powers

TOKENS = np.geomspace(3e5, 4.8e6, 5)
# E, beta and what is above E at 5 M tokens; none of these exponents is one that a fit starts from
LAWS = [(2.1, 0.37, 1.6), (1.7, 0.23, 2.0), (0.0, 0.11, 4.0), (2.6, 0.52, 0.9), (1.9, 1.31, 0.3)]
PUBLISHED = (1.8172, 482.01, 0.3478, 2085.43, 0.3658)  # Besiroglu et al. 2024, E A alpha B beta


def planted():
  E, beta, excess = np.array(LAWS).T
  return fit.Law(E, excess * 5e6**beta, beta)


def runs(sizes=8, lengths=30):
  return [
    a.ravel() for a in np.meshgrid(np.geomspace(4e7, 1e10, sizes), np.geomspace(1e9, 4e11, lengths))
  ]


def published():
  return fit.SizeLaw(*map(np.asarray, PUBLISHED))


def huber(residual):
  size = np.abs(residual)
  return np.where(size < 1e-3, size**2 / 2, 1e-3 * (size - 5e-4)).sum()


def test_a_law_is_what_its_equation_says():
  law = fit.Law(np.array([2.0, 1.0]), np.array([30.0, 8.0]), np.array([0.5, 0.25]))
  np.testing.assert_allclose(law.loss(np.array([1e2, 1e4])), [[5, 2.3], [1 + 8 / 10**0.5, 1.8]])
  assert law.loss(1e4).shape == (2,) and law.loss(np.ones((3, 4))).shape == (2, 3, 4)
  sizes = fit.SizeLaw(*map(np.asarray, (1.0, 20.0, 0.5, 30.0, 0.25)))
  np.testing.assert_allclose(sizes.loss(100.0, np.array([1e4, 1e8])), [6, 3.3])
  np.testing.assert_allclose(sizes.compute_exponent, 1 / 3)
  gap = fit.Gap(np.asarray(-0.1), np.asarray(2.0), np.asarray(0.5))
  np.testing.assert_allclose(gap.at(np.array([4.0, 400.0])), [0.9, 0.0], atol=1e-15)


def test_planted_laws_of_length_are_found():
  law = planted()
  found = fit.fit_lengths(TOKENS, law.loss(TOKENS))
  np.testing.assert_allclose(found.beta, law.beta, atol=1e-6)
  np.testing.assert_allclose(found.E, law.E, atol=1e-6)
  np.testing.assert_allclose(found.loss(1e9), law.loss(1e9), atol=1e-6)


def test_no_planted_exponent_is_a_start():
  one, two = powers.POINTS, round(powers.TRIED**0.5)
  grid = np.concatenate([np.geomspace(*fit.EXPONENTS, points) for points in (one, two)])
  exponents = [beta for _, beta, _ in LAWS] + [PUBLISHED[2], PUBLISHED[4], 0.31, 0.57]
  assert np.abs(np.log(np.divide.outer(exponents, grid))).min() > 1e-3


def test_the_planted_law_of_size_and_length_is_found():
  found = fit.fit_sizes(*runs(), published().loss(*runs()))
  np.testing.assert_allclose(found.alpha, PUBLISHED[2], atol=1e-6)
  np.testing.assert_allclose(found.beta, PUBLISHED[4], atol=1e-6)
  np.testing.assert_allclose([found.E, found.A, found.B], np.take(PUBLISHED, [0, 1, 3]), rtol=1e-5)
  few = fit.fit_sizes(*runs(3, 4), published().loss(*runs(3, 4)))
  np.testing.assert_allclose([few.alpha, few.beta], np.take(PUBLISHED, [2, 4]), atol=1e-3)


@pytest.mark.parametrize("amplitude", [0.3, -0.2])
@pytest.mark.parametrize("remains", [0.1, 0.0, -0.4])
def test_planted_gaps_of_either_sign_are_found(amplitude, remains):
  gamma = np.array([0.31, 0.57])
  gap = fit.Gap(np.full(2, remains), amplitude * 1e6**gamma, gamma)
  found = fit.fit_gap(TOKENS, gap.at(TOKENS))
  np.testing.assert_allclose(found.gamma, gamma, atol=1e-6)
  np.testing.assert_allclose(found.g, remains, atol=1e-6)


def test_laws_with_one_floor_are_found():
  law = fit.Law(np.array([2.1, 2.1]), np.array([300.0, 90.0]), np.array([0.37, 0.29]))
  found = fit.fit_shared(TOKENS, law.loss(TOKENS))
  np.testing.assert_allclose(found.beta, law.beta, atol=1e-6)
  np.testing.assert_allclose(found.E, 2.1, atol=1e-6)
  noisy = law.loss(TOKENS)[:, None] + np.random.default_rng(0).normal(0, 0.01, (2, 3, 5))
  found = fit.fit_shared(TOKENS, noisy)
  assert found.E.shape == (2, 3)
  np.testing.assert_array_equal(found.E[0], found.E[1])
  weights = np.array([1.0, 0.0, 1.0, 1.0, 1.0])  # of no weight: not there
  weighted = fit.fit_shared(TOKENS, noisy, weights)
  without = fit.fit_shared(TOKENS[weights > 0], noisy[..., weights > 0])
  np.testing.assert_allclose(weighted.loss(2e6), without.loss(2e6), rtol=1e-6)


def test_no_law_of_length_that_scipy_finds_is_better():
  law = planted()
  noise = np.random.default_rng(1).normal(0, 0.003, (5, len(TOKENS)))
  loss = law.loss(TOKENS) * np.exp(noise)
  found = fit.fit_lengths(TOKENS, loss)
  x = np.log(TOKENS / 1e6)
  for i in range(5):

    def cost(theta, target=loss[i]):
      return huber(np.log((np.abs(theta[0]) + np.exp(theta[1] - theta[2] * x)) / target))

    options = {"maxiter": 4000, "maxfev": 4000, "xatol": 1e-9, "fatol": 1e-15}
    best = min(
      optimize.minimize(cost, start, method="Nelder-Mead", options=options).fun
      for start in ([2.0, 0.5, 0.3], [0.5, 1.2, 0.15], [2.5, 0.0, 0.9])
    )
    assert huber(np.log(found.loss(TOKENS)[i] / loss[i])) <= best * (1 + 1e-6)


def test_no_law_of_size_and_length_that_scipy_finds_is_better():
  N, D = runs(6, 10)
  loss = published().loss(N, D) * np.exp(np.random.default_rng(2).normal(0, 0.004, len(N)))
  found = fit.fit_sizes(N, D, loss)

  def cost(theta):
    E, A, B = np.exp(theta[:3])
    return huber(np.log((E + A * (N / 1e9) ** -theta[3] + B * (D / 1e10) ** -theta[4]) / loss))

  start = [np.log(1.8), np.log(482 * 1e9**-0.3478), np.log(2085 * 1e10**-0.3658), 0.3478, 0.3658]
  options = {"maxiter": 20000, "maxfev": 20000, "xatol": 1e-9, "fatol": 1e-15}
  best = optimize.minimize(cost, start, method="Nelder-Mead", options=options).fun
  assert huber(np.log(found.loss(N, D) / loss)) <= best * (1 + 1e-6)


def test_a_weight_is_a_run_that_stands_there_so_often():
  rng = np.random.default_rng(3)
  loss, count = planted().loss(TOKENS)[0] + rng.normal(0, 0.01, 5), np.array([2, 1, 3, 1, 2])
  found = fit.fit_lengths(TOKENS, loss, count)
  again = fit.fit_lengths(np.repeat(TOKENS, count), np.repeat(loss, count))
  np.testing.assert_allclose(found.loss(TOKENS), again.loss(TOKENS), rtol=1e-6)
  gap = fit.fit_gap(TOKENS, loss - 4, count)
  again = fit.fit_gap(np.repeat(TOKENS, count), np.repeat(loss - 4, count))
  np.testing.assert_allclose(gap.at(TOKENS), again.at(TOKENS), atol=1e-6)


def test_a_run_that_is_missing_is_left_out():
  tokens = np.geomspace(3e5, 4e7, 7)
  loss = planted().loss(tokens) + np.random.default_rng(4).normal(0, 0.01, (5, 7))
  holed = loss.copy()
  holed[1, 3] = holed[4, 0] = np.nan
  found = fit.fit_lengths(tokens, holed)
  np.testing.assert_allclose(found.beta[0], fit.fit_lengths(tokens, loss[0]).beta, rtol=1e-9)
  for i, gone in ((1, 3), (4, 0)):
    alone = fit.fit_lengths(np.delete(tokens, gone), np.delete(loss[i], gone))
    np.testing.assert_allclose(found.loss(tokens)[i], alone.loss(tokens), rtol=1e-6)


def test_one_run_that_went_wrong_hardly_moves_a_law():
  N, D = runs()
  loss = published().loss(N, D) * np.exp(np.random.default_rng(5).normal(0, 1e-3, len(N)))
  clean = fit.fit_sizes(N, D, loss)
  loss[17] *= 1.3
  spoilt = fit.fit_sizes(N, D, loss)
  assert abs(spoilt.alpha - clean.alpha) < 1e-3 and abs(spoilt.beta - clean.beta) < 1e-3


def test_many_data_sets_at_once_are_each_by_itself():
  N, D = runs(4, 6)
  rng = np.random.default_rng(6)
  loss = published().loss(N, D) * np.exp(rng.normal(0, 0.004, len(N)))
  weights = rng.multinomial(len(N), np.ones(len(N)) / len(N), (2, 3))
  found = fit.fit_sizes(N, D, loss, weights)
  assert found.E.shape == (2, 3)
  alone = [[fit.fit_sizes(N, D, loss, w).beta for w in row] for row in weights]
  np.testing.assert_array_equal(found.beta, alone)  # bit for bit, whatever stands beside


def test_a_floor_is_never_negative_nor_a_law_rising():
  loss = 5 * (TOKENS / 1e6) ** -0.1 + np.random.default_rng(7).normal(0, 0.03, (40, 5))
  found = fit.fit_lengths(TOKENS, loss)
  assert found.E.min() == 0  # some stand on the bound
  assert (np.diff(found.loss(np.geomspace(1e5, 1e12, 50))) <= 0).all()
  rising = fit.fit_lengths(TOKENS, 9 - planted().loss(TOKENS)[0])
  np.testing.assert_allclose(np.ptp(rising.loss(TOKENS)), 0, atol=1e-6)  # flat is nearest


@pytest.mark.parametrize(
  ("call", "says"),
  [
    (lambda: fit.fit_lengths(TOKENS[:3], [5, 4, 3.5]), "L.D. is not identifiable: 3 distinct"),
    (lambda: fit.fit_lengths([1, 1, 2, 3], [5, 5, 4, 3]), "3 distinct lengths"),
    (lambda: fit.fit_lengths(TOKENS, [[5, 4, 3, 2, 1], [5, 4, 3, *[np.nan] * 2]]), "3 distinct"),
    (lambda: fit.fit_gap(TOKENS[:3], [0.1, 0, -0.1]), "gap .* is not identifiable: 3 distinct"),
    (lambda: fit.fit_lengths(TOKENS, [5, 4, 3, 2, 0]), "a loss is not positive"),
    (lambda: fit.fit_lengths(TOKENS - 3e5, [5, 4, 3, 2, 1]), "tokens .* is not positive"),
    (lambda: fit.fit_sizes(*runs(2, 9), np.ones(18)), "L.N, D. is not identifiable: 2 distinct N"),
    (lambda: fit.fit_sizes(*runs(9, 2), np.ones(18)), "not identifiable: 2 distinct D"),
    (lambda: fit.fit_sizes([1, 1, 2, 2, 3], [1, 2, 1, 3, 2], np.ones(5)), "5 distinct pairs"),
    (lambda: fit.fit_sizes(TOKENS.repeat(2), 20 * TOKENS.repeat(2), np.ones(10)), "5 distinct"),
    (lambda: fit.fit_sizes(runs()[0], 20 * runs()[0], np.ones(240)), "D / N is the same"),
    (lambda: fit.fit_shared(TOKENS[:3], np.ones((2, 3))), "3 distinct lengths"),
  ],
)
def test_what_cannot_be_fitted_is_said_in_a_sentence(call, says):
  with pytest.raises(UserError, match=says) as error:
    call()
  assert str(error.value).endswith(".") and "\n" not in str(error.value)
