"""Scaling laws fitted to losses: L(D), L(N, D), and the gap between two architectures.

Losses are fitted as Hoffmann et al. (2022, arXiv 2203.15556, appendix D.3) and Besiroglu et al.
(2024, arXiv 2404.10102) do: the sum of Huber losses of the residuals of log L, from many starts.
Given the exponents a law is linear in the rest, so a start is an exponent, or a pair, and the
linear least-squares fit that goes with it (the idea of VPNLS, arXiv 2603.22339). The best of them
are refined together by damped Gauss-Newton steps within bounds, for all data sets at once: a
bootstrap needs hundreds of fits.

Inside, a term B D^-beta is b (D / D0)^-beta, with D0 the geometric mean of the sizes: b is of the
size of a loss, and hardly depends on beta.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from crate_jax.errors import UserError
from crate_jax.scaling import powers

HUBER = 1e-3  # where the loss of a residual of log L turns from square to linear
HUBER_GAP = 1e-2  # the same for the gap, in nats: means over paired seeds have few outliers
EXPONENTS = (0.02, 2.0)  # the least and the largest that is fitted
LENGTHS = 4  # distinct ones that L(D) and the gap need: they have three numbers

Number = np.ndarray | float


@dataclasses.dataclass(frozen=True)
class Law:
  """L(D) = E + B D^-beta, one law a data set: fields are arrays of one shape.

  Attributes:
    E: irreducible loss, in nats.
    B: nats above E after one token. As large as 10^24 where beta is 2, which float64 holds; it
      moves with beta, so only `loss` compares between laws.
    beta: exponent.
  """

  E: np.ndarray
  B: np.ndarray
  beta: np.ndarray

  def loss(self, tokens: Number) -> np.ndarray:
    """Nats after so many tokens; the axes of the fields, then those of `tokens`."""
    return _power(self.E, self.B, self.beta, tokens)


@dataclasses.dataclass(frozen=True)
class Gap:
  """Delta(D) = g + k D^-gamma in nats, which may be negative: fields are arrays of one shape.

  Attributes:
    g: what remains for any number of tokens.
    k: see `Law.B`.
    gamma: exponent.
  """

  g: np.ndarray
  k: np.ndarray
  gamma: np.ndarray

  def at(self, tokens: Number) -> np.ndarray:
    """Nats after so many tokens; the axes of the fields, then those of `tokens`."""
    return _power(self.g, self.k, self.gamma, tokens)


@dataclasses.dataclass(frozen=True)
class SizeLaw:
  """L(N, D) = E + A N^-alpha + B D^-beta, one law a data set: fields are arrays of one shape."""

  E: np.ndarray
  A: np.ndarray
  alpha: np.ndarray
  B: np.ndarray
  beta: np.ndarray

  def loss(self, parameters: Number, tokens: Number) -> np.ndarray:
    """Nats; the axes of the fields, then those that `parameters` and `tokens` broadcast to."""
    parameters, tokens = np.broadcast_arrays(parameters, tokens)
    of_size = _power(self.E, self.A, self.alpha, parameters)
    return of_size + _power(np.zeros_like(self.E), self.B, self.beta, tokens)

  @property
  def compute_exponent(self) -> np.ndarray:
    """a = beta / (alpha + beta): with C = 6 N D the best N grows as C^a."""
    return self.beta / (self.alpha + self.beta)


def fit_lengths(
  tokens_D: np.ndarray, loss_ND: np.ndarray, weights_ND: np.ndarray | None = None
) -> Law:
  """L(D) of each data set.

  Args:
    tokens_D: lengths; the same may stand there more than once.
    loss_ND: nats, positive; any axes before the last are kept. NaN: there is no such run.
    weights_ND: that the runs' Huber losses are multiplied by, as a bootstrap's counts; one if not.

  Returns:
    Fields of the shape of `loss_ND` without its last axis.

  Raises:
    UserError: a data set has fewer than four distinct lengths, or a number is not positive.
  """
  data = _data("L(D)", [tokens_D], loss_ND, weights_ND)
  theta_P = _fit(data, [_log_size(tokens_D)])
  return Law(*_amplitudes(theta_P, [tokens_D]))


def fit_shared(
  tokens_D: np.ndarray, loss_AND: np.ndarray, weights_AND: np.ndarray | None = None
) -> Law:
  """L(D) of two architectures or more with one E in common: a sensitivity, and no finding.

  The same text has one entropy, but how much of it a model can reach is its own affair.

  Args:
    tokens_D: lengths.
    loss_AND: nats of A architectures; axes between the first and the last are kept.
    weights_AND: see `fit_lengths`.

  Returns:
    Fields of the shape of `loss_AND` without its last axis; E is the same along the first.

  Raises:
    UserError: as `fit_lengths`.
  """
  loss_AND, A = np.asarray(loss_AND, float), len(loss_AND)
  weights_AND = None if weights_AND is None else np.broadcast_to(weights_AND, loss_AND.shape)
  for a in range(A):
    _data("L(D)", [tokens_D], loss_AND[a], None)
  weights = None if weights_AND is None else _flat(weights_AND)
  data = _data("L(D)", [np.tile(tokens_D, A)], _flat(loss_AND), weights)
  own_ARr = np.repeat(np.eye(A), len(tokens_D), axis=1)  # which term a run's law has
  theta_P = _fit(data, [np.tile(_log_size(tokens_D), A)] * A, own_ARr)
  E, *terms = _amplitudes(theta_P, [tokens_D] * A)
  return Law(np.stack([E] * A), np.stack(terms[::2]), np.stack(terms[1::2]))


def fit_sizes(
  parameters_R: np.ndarray,
  tokens_R: np.ndarray,
  loss_NR: np.ndarray,
  weights_NR: np.ndarray | None = None,
) -> SizeLaw:
  """L(N, D) of each data set of R runs.

  What N counts is the caller's choice, and so is what varies it: the law holds for one way to
  grow. Runs whose width is fixed and whose depth varies give the law of depth at that width.

  Args:
    parameters_R: N of each run.
    tokens_R: D of each run.
    loss_NR: nats, positive; any axes before the last are kept. NaN: there is no such run.
    weights_NR: see `fit_lengths`.

  Returns:
    Fields of the shape of `loss_NR` without its last axis.

  Raises:
    UserError: fewer than three distinct N or D, fewer than six pairs of them, D / N the same in
      every run, or a number that is not positive.
  """
  data = _data("L(N, D)", [parameters_R, tokens_R], loss_NR, weights_NR)
  theta_P = _fit(data, [_log_size(parameters_R), _log_size(tokens_R)])
  return SizeLaw(*_amplitudes(theta_P, [parameters_R, tokens_R]))


def fit_gap(
  tokens_D: np.ndarray,
  gap_ND: np.ndarray,
  weights_ND: np.ndarray | None = None,
  delta: float = HUBER_GAP,
) -> Gap:
  """Delta(D) of each data set, by the Huber loss of its residuals in nats.

  Args:
    tokens_D: lengths.
    gap_ND: nats, of any sign; any axes before the last are kept. NaN: there is no such pair.
    weights_ND: see `fit_lengths`.
    delta: where Huber's loss turns linear, in nats.

  Returns:
    Fields of the shape of `gap_ND` without its last axis.

  Raises:
    UserError: a data set has fewer than four distinct lengths, or a length is not positive.
  """
  data = _data("The gap g + k D^-gamma", [tokens_D], gap_ND, weights_ND, signed=True)
  theta_P = _fit(data, [_log_size(tokens_D)], signed=True, delta=delta)
  return Gap(*_amplitudes(theta_P, [tokens_D]))


class _Data(NamedTuple):
  """S data sets of R runs, and the axes that S had; a run that is missing weighs nothing."""

  target_SR: np.ndarray
  weight_SR: np.ndarray
  shape: tuple[int, ...]


def _data(
  what: str,
  sizes: list[np.ndarray],
  value_NR: np.ndarray,
  weights_NR: np.ndarray | None,
  signed: bool = False,
) -> _Data:
  """Checks what is to be fitted."""
  value_NR = np.asarray(value_NR, float)
  known_NR = np.isfinite(value_NR)
  sizes_RJ = np.stack([np.asarray(size, float) for size in sizes], -1)
  if not (np.isfinite(sizes_RJ).all() and (sizes_RJ > 0).all()):
    raise UserError(f"{what}: a number of tokens or parameters is not positive.")
  if not signed and (value_NR[known_NR] <= 0).any():
    raise UserError(f"{what}: a loss is not positive.")
  for known_R in np.unique(known_NR.reshape(-1, len(sizes_RJ)), axis=0):
    if why := _not_identifiable(sizes_RJ[known_R]):
      raise UserError(f"{what} is not identifiable: {why}.")
  weights = np.ones(()) if weights_NR is None else np.asarray(weights_NR, float)
  shape = np.broadcast_shapes(value_NR.shape, weights.shape)
  weight = np.broadcast_to(np.where(known_NR, weights, 0.0), shape)
  target = np.broadcast_to(np.where(known_NR, value_NR, 1.0), shape)
  flat = (-1, shape[-1])
  return _Data(target.reshape(flat), weight.reshape(flat), shape[:-1])


def _fit(
  data: _Data,
  x_JR: list[np.ndarray],
  own_JR: np.ndarray | None = None,
  signed: bool = False,
  delta: float = HUBER,
) -> np.ndarray:
  """(c, a_1, e_1, ...) on the first axis, then the data sets' axes; see `powers`."""
  own_JR = np.ones((len(x_JR), len(x_JR[0]))) if own_JR is None else own_JR
  problem = powers.Problem(
    data.target_SR, data.weight_SR, np.stack(x_JR), own_JR, EXPONENTS, not signed, delta
  )
  return powers.fit(problem).T.reshape(-1, *data.shape)


def _amplitudes(theta_P: np.ndarray, sizes: list[np.ndarray]) -> list[np.ndarray]:
  """The same, with amplitudes at size 1 in place of those at the mean size."""
  numbers = list(theta_P)
  for j, size_R in enumerate(sizes):
    numbers[2 * j + 1] = numbers[2 * j + 1] * np.exp(numbers[2 * j + 2] * np.log(size_R).mean())
  return numbers


def _not_identifiable(sizes_RJ: np.ndarray) -> str:
  """Why these sizes cannot give the law, or nothing."""
  distinct = [len(np.unique(size_R)) for size_R in sizes_RJ.T]
  if len(distinct) == 1:
    few = distinct[0] < LENGTHS
    return f"{distinct[0]} distinct lengths, and it needs {LENGTHS} or more" if few else ""
  for name, count in zip("ND", distinct, strict=True):
    if count < 3:
      return f"{count} distinct {name}, and it needs three or more"
  if (pairs := len(np.unique(sizes_RJ, axis=0))) < 6:
    return f"{pairs} distinct pairs (N, D), and it has five numbers"
  if np.ptp(np.log(sizes_RJ[:, 1] / sizes_RJ[:, 0])) < 1e-3:
    return "D / N is the same in every run, so what N does and what D does cannot be told apart"
  return ""


def _log_size(size_R: np.ndarray) -> np.ndarray:
  log_R = np.log(np.asarray(size_R, float))
  return log_R - log_R.mean()


def _power(constant: Number, amplitude: Number, exponent: Number, size: Number) -> np.ndarray:
  """constant + amplitude size^-exponent, with the axes of the size last."""
  size = np.asarray(size, float)
  last = tuple(range(-size.ndim, 0))
  c, a, e = (np.expand_dims(np.asarray(x, float), last) for x in (constant, amplitude, exponent))
  return c + a * np.exp(-e * np.log(size))


def _flat(values_AND: np.ndarray) -> np.ndarray:
  """The first axis moved to the last but one, and joined with the last."""
  moved = np.moveaxis(values_AND, 0, -2)
  return moved.reshape(*moved.shape[:-2], -1)
