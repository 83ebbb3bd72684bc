"""Neurons seen on a text in one pass: moments, histograms, and where they fire most."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.interpret.network import Array, Batch

INTERVALS = 12  # of value, equally wide, from zero to a neuron's largest activation in the pilot
QUANTILES = 8  # of the windows' peaks, equally many
BINS = 24  # of a histogram: the intervals in halves
PILOT = 32  # windows from which a neuron's scale is taken; they are the first of a random order
TOP = 16  # windows kept where a neuron's activation peaks highest
KEPT = 4  # windows kept of each interval and of each quantile
_STRIDE = 4  # of the tokens counted in histograms


class State(NamedTuple):
  """What a pass keeps; its size does not depend on the length of the text.

  Attributes:
    windows: seen so far.
    tokens: likewise.
    means_PLn: mean of the activations and of the 2nd, 3rd and 4th power of their distance from it.
    fired_Ln: tokens at which an activation is not zero.
    largest_Ln: the largest activation.
    counts_LnB: tokens whose activation is positive and lies in each bin of `Scale.width_Ln`; the
      last bin has no end. One token in four is counted.
    top_LnK: peaks of the windows with the highest ones, highest first; -inf where there are fewer.
    top_at_LnK: which windows these are.
    interval_LnIR: the first windows whose peak lies in each interval; -1 where there are fewer.
    quantile_LnQR: likewise in each quantile.
    in_interval_LnI: windows whose peak lies in each interval.
    in_quantile_LnQ: likewise.
  """

  windows: Array
  tokens: Array
  means_PLn: Array
  fired_Ln: Array
  largest_Ln: Array
  counts_LnB: Array
  top_LnK: Array
  top_at_LnK: Array
  interval_LnIR: Array
  quantile_LnQR: Array
  in_interval_LnI: Array
  in_quantile_LnQ: Array


class Scale(NamedTuple):
  """Where intervals and quantiles end, of each neuron, seen on the pilot.

  Attributes:
    width_Ln: of a histogram's bin: the largest activation by `BINS`, in the pilot or, of a neuron
      that is not positive there, in the first batch where it is; infinite until then.
    edges_LnQ: between the quantiles of the windows' peaks, `QUANTILES` - 1 of them.
  """

  width_Ln: Array
  edges_LnQ: Array


@jax.jit
def scale(a_LBTn: jax.Array) -> Scale:
  """The neurons' scale from the pilot's windows."""
  peak_LBn = a_LBTn.max(2)
  largest_Ln = peak_LBn.max(1)
  steps = jnp.arange(1, QUANTILES) / QUANTILES
  edges_QLn = jnp.quantile(peak_LBn, steps, axis=1)
  width_Ln = jnp.where(largest_Ln > 0, largest_Ln / BINS, jnp.inf)
  return Scale(width_Ln, jnp.moveaxis(edges_QLn, 0, -1))


def empty(layers: int, neurons: int) -> State:
  """Nothing seen yet."""
  shape = (layers, neurons)
  whole = functools.partial(jnp.zeros, dtype=jnp.int32)
  return State(
    windows=whole(()),
    tokens=whole(()),
    means_PLn=jnp.zeros((4, *shape)),
    fired_Ln=whole(shape),
    largest_Ln=jnp.full(shape, -jnp.inf),
    counts_LnB=whole((*shape, BINS)),
    top_LnK=jnp.full((*shape, TOP), -jnp.inf),
    top_at_LnK=jnp.full((*shape, TOP), -1, jnp.int32),
    interval_LnIR=jnp.full((*shape, INTERVALS, KEPT), -1, jnp.int32),
    quantile_LnQR=jnp.full((*shape, QUANTILES, KEPT), -1, jnp.int32),
    in_interval_LnI=whole((*shape, INTERVALS)),
    in_quantile_LnQ=whole((*shape, QUANTILES)),
  )


@functools.partial(jax.jit, donate_argnums=0)
def add(state: State, a_LBTn: jax.Array, scale: Scale) -> tuple[State, Scale]:
  """The state after some more windows, and the scale of the neurons that fired by then.

  Args:
    state: what was seen before; its memory is used again.
    a_LBTn: activations on the windows that come next.
    scale: of the neurons.
  """
  _, B, T, _ = a_LBTn.shape
  peak_LnB = jnp.moveaxis(a_LBTn.max(2), 1, 2)
  largest_Ln = peak_LnB.max(-1)
  first_Ln = jnp.isinf(scale.width_Ln) & (largest_Ln > 0)
  scale = scale._replace(width_Ln=jnp.where(first_Ln, largest_Ln / BINS, scale.width_Ln))
  window_B = state.windows + jnp.arange(B, dtype=jnp.int32)
  sums_PLn, fired_Ln = _sums(a_LBTn)
  top_LnK, chosen_LnK = jax.lax.top_k(jnp.concatenate([state.top_LnK, peak_LnB], -1), TOP)
  at = jnp.broadcast_to(window_B, peak_LnB.shape)
  at = jnp.concatenate([state.top_at_LnK, at], -1)
  interval_LnB = jnp.ceil(peak_LnB / scale.width_Ln[..., None] * (INTERVALS / BINS)) - 1
  interval_LnB = jnp.where(peak_LnB > 0, jnp.clip(interval_LnB, 0, INTERVALS - 1), -1)
  quantile_LnB = jnp.sum(peak_LnB[..., None] > scale.edges_LnQ[..., None, :], axis=-1)
  quantile_LnB = jnp.where(peak_LnB > 0, quantile_LnB, -1)
  intervals = _first(state.interval_LnIR, state.in_interval_LnI, interval_LnB, state.windows)
  quantiles = _first(state.quantile_LnQR, state.in_quantile_LnQ, quantile_LnB, state.windows)
  tokens = state.tokens + B * T
  added = State(
    windows=state.windows + B,
    tokens=tokens,
    means_PLn=_merged(state.means_PLn, sums_PLn, 1 - B * T / tokens),
    fired_Ln=state.fired_Ln + fired_Ln,
    largest_Ln=jnp.maximum(state.largest_Ln, largest_Ln),
    counts_LnB=state.counts_LnB + _histogram(a_LBTn[:, :, ::_STRIDE], scale.width_Ln),
    top_LnK=top_LnK,
    top_at_LnK=jnp.take_along_axis(at, chosen_LnK, axis=-1),
    interval_LnIR=intervals[0],
    quantile_LnQR=quantiles[0],
    in_interval_LnI=intervals[1],
    in_quantile_LnQ=quantiles[1],
  )
  return added, scale


def _through(a_LBTn: jax.Array, step: Callable, carry: tuple) -> tuple:
  """Goes through the tokens one after the other: XLA's CPU compiler sums over an axis in the
  middle element by element, and this whole rows at a time."""

  def body(t: jax.Array, carry: tuple) -> tuple:
    return step(jax.lax.dynamic_index_in_dim(a_LBTn, t, 2, keepdims=False), carry)

  return jax.lax.fori_loop(0, a_LBTn.shape[2], body, carry)


def _sums(a_LBTn: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Mean and central moments over tokens, and how many are not zero."""
  L, B, T, n = a_LBTn.shape
  mean_Ln = a_LBTn.sum(2).sum(1) / (B * T)

  def step(a_LBn: jax.Array, carry: tuple) -> tuple:
    *powers, fired = carry
    off = a_LBn - mean_Ln[:, None]
    square = off * off
    added = (off, square, square * off, square * square)
    return *(p + x for p, x in zip(powers, added, strict=True)), fired + (a_LBn != 0)

  zero = jnp.zeros((L, B, n))
  *powers, fired = _through(a_LBTn, step, (zero,) * 4 + (zero.astype(jnp.int32),))
  first_Ln, *rest = (p.sum(1) / (B * T) for p in powers)
  # What rounding left of the first moment goes back to the mean; in the others it is nothing.
  return jnp.stack([mean_Ln + first_Ln, *rest]), fired.sum(1)


def _merged(a_PLn: jax.Array, b_PLn: jax.Array, share: jax.Array) -> jax.Array:
  """Mean and central moments of two samples together (Pebay 2008, eq. 2.1); a has a share."""
  mean_a, two_a, three_a, four_a = a_PLn
  mean_b, two_b, three_b, four_b = b_PLn
  p, q, d = share, 1 - share, mean_b - mean_a
  two = p * two_a + q * two_b + p * q * d**2
  three = p * three_a + q * three_b + p * q * (p - q) * d**3 + 3 * p * q * d * (two_b - two_a)
  four = p * four_a + q * four_b + p * q * (p * p - p * q + q * q) * d**4
  four += 6 * p * q * d**2 * (p * two_b + q * two_a) + 4 * p * q * d * (three_b - three_a)
  return jnp.stack([mean_a + q * d, two, three, four])


def _histogram(a_LBTn: jax.Array, width_Ln: jax.Array) -> jax.Array:
  L, B, _, n = a_LBTn.shape

  def step(a_LBn: jax.Array, counts: tuple) -> tuple:
    bin_LBn = jnp.minimum(jnp.ceil(a_LBn / width_Ln[:, None]), BINS).astype(jnp.int32)
    return tuple(c + (bin_LBn == i + 1) for i, c in enumerate(counts))

  counts = _through(a_LBTn, step, (jnp.zeros((L, B, n), jnp.int32),) * BINS)
  return jnp.stack([c.sum(1) for c in counts], -1)


def _first(
  kept_LnIR: jax.Array, seen_LnI: jax.Array, group_LnB: jax.Array, windows: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Windows go to the free places of their group (-1: none); how many have come to each."""
  I, R = kept_LnIR.shape[-2:]
  of_LnBI = group_LnB[..., None] == jnp.arange(I)
  place_LnBI = seen_LnI[..., None, :] + jnp.cumsum(of_LnBI, axis=-2) - 1
  for r in range(R):
    takes_LnBI = of_LnBI & (place_LnBI == r)
    window_LnI = jnp.where(takes_LnBI.any(-2), windows + jnp.argmax(takes_LnBI, -2), -1)
    kept_LnIR = kept_LnIR.at[..., r].max(window_LnI.astype(jnp.int32))
  return kept_LnIR, seen_LnI + of_LnBI.sum(-2)


@dataclasses.dataclass(frozen=True)
class Collected:
  """The result of a pass, on the host; see `State`.

  Attributes:
    state: as arrays of NumPy.
    scale: likewise.
  """

  state: State
  scale: Scale

  @property
  def firing_rate_Ln(self) -> np.ndarray:
    """Share of the tokens at which a neuron is not zero."""
    return self.state.fired_Ln / self.state.tokens

  @property
  def kurtosis_Ln(self) -> np.ndarray:
    """Standardised excess kurtosis, E (a - mu)^4 / sigma^4 - 3; NaN for a constant neuron."""
    _, two, _, four = self.state.means_PLn.astype(np.float64)
    return np.divide(four, two**2, out=np.full_like(two, np.nan), where=two > 0) - 3


class Collector:
  """A pass over a text: windows go through it and come out as they were."""

  def __init__(self, windows: int) -> None:
    """Args: windows: how many there will be; the pilot is no longer."""
    self._wanted = min(PILOT, windows)
    self._pilot: list[jax.Array] = []
    self._state: State | None = None
    self._scale: Scale | None = None

  def through(self, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Takes in every batch and hands it on."""
    for batch in batches:
      self._add(batch.a_LBTn)
      yield batch

  def result(self) -> Collected:
    """What was collected, on the host."""
    return Collected(*jax.device_get((self._state, self._scale)))

  def _add(self, a_LBTn: jax.Array) -> None:
    if self._scale is not None:
      self._state, self._scale = add(self._state, a_LBTn, self._scale)
      return
    self._pilot.append(a_LBTn)
    if sum(a.shape[1] for a in self._pilot) < self._wanted:
      return
    self._scale = scale(jnp.concatenate(self._pilot, 1))
    L, _, _, n = a_LBTn.shape
    self._state = empty(L, n)
    for pilot_LBTn in self._pilot:
      self._state, self._scale = add(self._state, pilot_LBTn, self._scale)
    self._pilot.clear()


def windows_of(state: State, layer: int, neuron: int) -> Sequence[int]:
  """Every window that was kept for a neuron, once."""
  kept = [
    state.top_at_LnK[layer, neuron],
    state.interval_LnIR[layer, neuron],
    state.quantile_LnQR[layer, neuron],
  ]
  found = np.unique(np.concatenate([np.ravel(x) for x in kept]))
  return found[found >= 0].tolist()
