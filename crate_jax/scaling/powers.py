"""Sums of powers, c + sum over j of a_j exp(-e_j x_j), fitted to many data sets at once.

`fit` says what is fitted, and why so. Parameters are theta_P = (c, a_1, e_1, a_2, e_2, ...).
"""

import dataclasses
import itertools

import numpy as np

STARTS = 3  # refined for each data set
POINTS = 40  # exponents that are tried for these, if there is one
TRIED = 200  # about so many sets of exponents, if there are more
STEPS = 300  # of refinement at most
LEAST = 1e-12  # amplitude of a term that may not be negative


@dataclasses.dataclass(frozen=True)
class Problem:
  """S data sets of R values, to be fitted with J terms.

  Attributes:
    target_SR: the values; positive if `log`.
    weight_SR: of their Huber losses; 0 for one that is missing.
    x_JR: logarithm of the size that a term is a power of, about 0.
    own_JR: 1 where a value has the term, 0 where not.
    exponents: the least and the largest.
    log: residuals are of logarithms, and no part of a sum is negative.
    delta: where Huber's loss of a residual turns from square to linear.
  """

  target_SR: np.ndarray
  weight_SR: np.ndarray
  x_JR: np.ndarray
  own_JR: np.ndarray
  exponents: tuple[float, float]
  log: bool
  delta: float

  def bounds(self) -> tuple[np.ndarray, np.ndarray]:
    """Of theta, low_SP and high_SP."""
    S, J = len(self.target_SR), len(self.x_JR)
    low_SP = np.tile([-np.inf] + [-np.inf, self.exponents[0]] * J, (S, 1))
    high_SP = np.tile([np.inf] + [np.inf, self.exponents[1]] * J, (S, 1))
    if self.log:
      low_SP[:, 0], low_SP[:, 1::2] = 0, LEAST
      high_SP[:, 0] = np.where(self.weight_SR > 0, self.target_SR, 0).max(1)  # flat, at most
    return low_SP, high_SP

  def of(self, index: np.ndarray) -> "Problem":
    """These data sets of it."""
    chosen = {"target_SR": self.target_SR[index], "weight_SR": self.weight_SR[index]}
    return dataclasses.replace(self, **chosen)

  def residual(self, theta_SP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The residuals, and their derivatives by theta."""
    S, P = theta_SP.shape
    slope_SRP = np.ones((S, self.target_SR.shape[1], P))
    for j, (x_R, own_R) in enumerate(zip(self.x_JR, self.own_JR, strict=True)):
      power_SR = own_R * np.exp(-theta_SP[:, 2 * j + 2, None] * x_R)
      slope_SRP[:, :, 2 * j + 1] = power_SR
      slope_SRP[:, :, 2 * j + 2] = -x_R * theta_SP[:, 2 * j + 1, None] * power_SR
    value_SR = self.value(theta_SP)
    if not self.log:
      return value_SR - self.target_SR, slope_SRP
    return np.log(value_SR / self.target_SR), slope_SRP / value_SR[:, :, None]

  def value(self, theta_SP: np.ndarray) -> np.ndarray:
    """The sums."""
    value_SR = np.repeat(theta_SP[:, :1], self.target_SR.shape[1], axis=1)
    for j, (x_R, own_R) in enumerate(zip(self.x_JR, self.own_JR, strict=True)):
      power_SR = np.exp(-theta_SP[:, 2 * j + 2, None] * x_R)
      value_SR += own_R * theta_SP[:, 2 * j + 1, None] * power_SR
    return np.maximum(value_SR, 1e-300) if self.log else value_SR

  def cost(self, theta_SP: np.ndarray) -> np.ndarray:
    """Huber's loss, summed over a data set."""
    value_SR = self.value(theta_SP)
    residual_SR = np.log(value_SR / self.target_SR) if self.log else value_SR - self.target_SR
    return self.huber(residual_SR)

  def huber(self, residual_SR: np.ndarray) -> np.ndarray:
    """Huber's loss of residuals, summed over a data set."""
    size_SR = np.abs(residual_SR)
    inside_SR = np.minimum(size_SR, self.delta)
    return (self.weight_SR * inside_SR * (size_SR - inside_SR / 2)).sum(1)


def fit(problem: Problem) -> np.ndarray:
  """theta_SP of the least Huber loss found for each data set."""
  S = len(problem.target_SR)
  theta_KSP = _starts(problem)
  K = len(theta_KSP)
  many = problem.of(np.tile(np.arange(S), K))
  theta, cost = _refine(many, theta_KSP.reshape(K * S, -1))
  best_S = np.argmin(cost.reshape(K, S), axis=0)
  chosen: np.ndarray = theta.reshape(K, S, -1)[best_S, np.arange(S)]
  return chosen


def _starts(problem: Problem) -> np.ndarray:
  """theta_KSP: the K best of a grid of exponents, each with the linear fit that goes with it."""
  J = len(problem.x_JR)
  points = POINTS if J == 1 else max(3, round(TRIED ** (1 / J)))
  grid = np.geomspace(*problem.exponents, points)
  low_SP, high_SP = problem.bounds()
  thetas, costs = [], []
  for exponents in itertools.product(grid, repeat=J):
    theta_SP = _linear(problem, np.array(exponents), low_SP, high_SP)
    thetas.append(theta_SP)
    costs.append(problem.cost(theta_SP))
  best_KS = np.argsort(np.stack(costs), axis=0)[:STARTS]
  chosen: np.ndarray = np.stack(thetas)[best_KS, np.arange(len(low_SP))]
  return chosen


def _linear(
  problem: Problem, exponent_J: np.ndarray, low_SP: np.ndarray, high_SP: np.ndarray
) -> np.ndarray:
  """theta_SP of these exponents: least squares for c, within its bounds, then for the a."""
  power_JR = problem.own_JR * np.exp(-exponent_J[:, None] * problem.x_JR)
  basis_QR = np.concatenate([np.ones((1, power_JR.shape[1])), power_JR])
  weight_SR = problem.weight_SR / problem.target_SR**2 if problem.log else problem.weight_SR
  # Products of the whole by BLAS would round differently with how many data sets there are.
  gram_SQQ = (weight_SR[:, None, None] * (basis_QR[:, None] * basis_QR)).sum(-1)
  moment_SQ = ((weight_SR * problem.target_SR)[:, None] * basis_QR).sum(-1)
  theta_SP = np.empty_like(low_SP)
  theta_SP[:, 0] = np.clip(_solve(gram_SQQ, moment_SQ)[:, 0], low_SP[:, 0], high_SP[:, 0])
  rest_SJ = moment_SQ[:, 1:] - theta_SP[:, :1] * gram_SQQ[:, 1:, 0]
  theta_SP[:, 1::2] = np.maximum(_solve(gram_SQQ[:, 1:, 1:], rest_SJ), low_SP[:, 1::2])
  theta_SP[:, 2::2] = exponent_J
  return theta_SP


def _solve(matrix_SQQ: np.ndarray, vector_SQ: np.ndarray) -> np.ndarray:
  """Solutions of small symmetric systems, a little damped so that each has one."""
  diagonal_SQ = np.einsum("sqq->sq", matrix_SQQ)
  damped = matrix_SQQ + np.eye(matrix_SQQ.shape[-1]) * (1e-13 * diagonal_SQ + 1e-300)[:, None]
  solution: np.ndarray = np.linalg.solve(damped, vector_SQ[..., None])[..., 0]
  return solution


def _refine(problem: Problem, theta_SP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Damped Gauss-Newton steps (Levenberg and Marquardt), Huber's loss as reweighted squares.

  A step that would leave the bounds ends on them; a parameter on a bound that would leave it
  stands still. A data set is done when its steps no longer lower the cost.
  """
  low_SP, high_SP = problem.bounds()
  theta_SP = np.clip(theta_SP, low_SP, high_SP)
  cost_S = problem.cost(theta_SP)
  damping_S = np.full(len(cost_S), 1e-3)
  idle_S = np.zeros(len(cost_S), int)  # steps in a row that brought next to nothing
  for _ in range(STEPS):
    (open_,) = np.nonzero(idle_S < 4)
    if not len(open_):
      break
    part, theta, cost = problem.of(open_), theta_SP[open_], cost_S[open_]
    step = _step(part, theta, low_SP[open_], high_SP[open_], damping_S[open_])
    new = np.clip(theta - step, low_SP[open_], high_SP[open_])
    new_cost = part.cost(new)
    better = new_cost < cost
    gain = np.where(better, cost - new_cost, 0)
    idle_S[open_] = np.where(gain > 1e-9 * cost, 0, idle_S[open_] + np.where(better, 1, 0.5))
    idle_S[open_] += (~better) & (damping_S[open_] > 1e8)
    damping_S[open_] *= np.where(better, 0.2, 5.0)
    theta_SP[open_] = np.where(better[:, None], new, theta)
    cost_S[open_] = np.where(better, new_cost, cost)
  return theta_SP, cost_S


def _step(
  problem: Problem,
  theta_SP: np.ndarray,
  low_SP: np.ndarray,
  high_SP: np.ndarray,
  damping_S: np.ndarray,
) -> np.ndarray:
  residual_SR, slope_SRP = problem.residual(theta_SP)
  size_SR = np.maximum(np.abs(residual_SR), problem.delta)
  weighted_SRP = (problem.weight_SR * problem.delta / size_SR)[:, :, None] * slope_SRP
  slope_SP = np.einsum("srp,sr->sp", weighted_SRP, residual_SR)
  hessian_SPP = np.swapaxes(weighted_SRP, 1, 2) @ slope_SRP
  still_SP = (theta_SP <= low_SP) & (slope_SP >= 0) | (theta_SP >= high_SP) & (slope_SP <= 0)
  free_SP = np.where(still_SP | (low_SP == high_SP), 0.0, 1.0)
  hessian_SPP *= free_SP[:, :, None] * free_SP[:, None]
  diagonal_SP = np.einsum("spp->sp", hessian_SPP)
  ridge_SP = damping_S[:, None] * diagonal_SP + np.where(free_SP > 0, 0.0, 1.0)
  return _solve(hessian_SPP + np.eye(theta_SP.shape[1]) * ridge_SP[:, None], free_SP * slope_SP)
