"""A pass over a text against NumPy and SciPy on the whole of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from crate_jax.interpret import collect
from crate_jax.interpret.excerpts import Excerpts
from crate_jax.interpret.network import batches

N, T, L, n = 70, 12, 2, 5


def _see(tokens_BT):
  """Activations that the tokens decide: sparse, of many sizes; the last neuron never fires."""
  rng = np.random.default_rng(0)
  of_VLn = np.maximum(rng.normal(size=(50, L, n)) - 0.5, 0) * rng.lognormal(size=(L, n))
  of_VLn[:, :, -1] = 0
  return jnp.moveaxis(jnp.asarray(of_VLn, jnp.float32)[tokens_BT], 2, 0)


@pytest.fixture(scope="module")
def seen():
  tokens_NT = np.random.default_rng(1).integers(50, size=(N, T)).astype(np.int32)
  excerpts = Excerpts(tokens_NT, np.zeros(N, int), np.zeros(N, int), ("a",), 0)
  collector = collect.Collector(N)
  for _ in collector.through(batches(_see, excerpts, 16)):
    pass
  return collector.result(), np.asarray(_see(tokens_NT), np.float64)


def test_moments_rates_and_kurtosis_are_those_of_all_tokens(seen):
  collected, a_LNTn = seen
  a_LXn = a_LNTn.reshape(L, N * T, n)
  means = collected.state.means_PLn
  np.testing.assert_allclose(means[0], a_LXn.mean(1), rtol=1e-5, atol=1e-7)
  for power in (2, 3, 4):
    wanted = scipy.stats.moment(a_LXn, power, axis=1)
    np.testing.assert_allclose(means[power - 1], wanted, rtol=1e-4, atol=1e-7)
  fires = a_LXn[..., :-1].std(1) > 0
  kurtosis = scipy.stats.kurtosis(a_LXn[..., :-1], axis=1)
  np.testing.assert_allclose(collected.kurtosis_Ln[:, :-1][fires], kurtosis[fires], rtol=1e-3)
  assert np.isnan(collected.kurtosis_Ln[:, -1]).all()
  np.testing.assert_array_equal(collected.firing_rate_Ln, (a_LXn != 0).mean(1))
  np.testing.assert_allclose(collected.state.largest_Ln, a_LXn.max(1), rtol=1e-6)
  assert (collected.state.windows, collected.state.tokens) == (N, N * T)


def test_top_windows_are_those_with_the_highest_peaks(seen):
  collected, a_LNTn = seen
  peaks_LnN = np.moveaxis(a_LNTn.max(2), 1, 2)
  highest = -np.sort(-peaks_LnN, axis=-1)[..., : collect.TOP]
  np.testing.assert_allclose(collected.state.top_LnK, highest, rtol=1e-6)
  at = np.take_along_axis(peaks_LnN, collected.state.top_at_LnK, axis=-1)
  np.testing.assert_allclose(at, highest, rtol=1e-6)


def test_reservoirs_hold_the_first_windows_whose_peak_lies_there(seen):
  collected, a_LNTn = seen
  peaks_LNn = a_LNTn.max(2)
  state, scale = collected.state, collected.scale
  for layer in range(L):
    for neuron in range(n):
      peaks = peaks_LNn[layer, :, neuron].astype(np.float32)
      width = scale.width_Ln[layer, neuron] * collect.BINS / collect.INTERVALS
      of = np.clip(np.ceil(peaks / width) - 1, 0, collect.INTERVALS - 1)
      quantile = (peaks[:, None] > scale.edges_LnQ[layer, neuron]).sum(1)
      kept = (
        (of, state.interval_LnIR, state.in_interval_LnI),
        (quantile, state.quantile_LnQR, state.in_quantile_LnQ),
      )
      for group, reservoir, count in kept:
        for i in range(reservoir.shape[2]):
          there = np.flatnonzero((group == i) & (peaks > 0))
          assert count[layer, neuron, i] == len(there)
          wanted = np.full(collect.KEPT, -1)
          wanted[: len(there)] = there[: collect.KEPT]
          assert reservoir[layer, neuron, i].tolist() == wanted.tolist()


def test_histograms_count_every_fourth_token_that_is_positive(seen):
  collected, a_LNTn = seen
  counted = a_LNTn[:, :, ::4]
  positive = (counted > 0).sum((1, 2))
  np.testing.assert_array_equal(collected.state.counts_LnB.sum(-1), positive)
  layer, neuron = 0, int(np.argmax(positive[0]))
  values = counted[layer, ..., neuron].ravel().astype(np.float32)
  bins = np.minimum(np.ceil(values / collected.scale.width_Ln[layer, neuron]), collect.BINS)
  wanted = np.bincount(bins.astype(int), minlength=collect.BINS + 1)[1:]
  np.testing.assert_array_equal(collected.state.counts_LnB[layer, neuron], wanted)


def test_a_pass_keeps_no_more_of_a_longer_text():
  sizes = []
  for windows in (40, 400):
    state = jax.eval_shape(lambda: collect.empty(L, n))
    state, _ = jax.eval_shape(
      collect.add,
      state,
      jax.ShapeDtypeStruct((L, windows, T, n), jnp.float32),
      collect.Scale(
        jax.ShapeDtypeStruct((L, n), jnp.float32),
        jax.ShapeDtypeStruct((L, n, collect.QUANTILES - 1), jnp.float32),
      ),
    )
    sizes.append([x.shape for x in state])
  assert sizes[0] == sizes[1]


def test_a_neuron_that_fires_after_the_pilot_has_the_scale_of_where_it_first_does():
  a_LBTn = np.zeros((1, 48, 4, 2), np.float32)
  a_LBTn[..., 0] = 1
  a_LBTn[0, 36, 1, 1], a_LBTn[0, 38, 0, 1] = 2.4, 1.2  # the second neuron, in the third batch
  a_LBTn[0, 45, 0, 1] = 0.3
  excerpts = Excerpts(np.arange(48 * 4).reshape(48, 4), np.zeros(48, int), np.zeros(48, int), (), 0)
  collector = collect.Collector(48)
  for _ in collector.through(batches(lambda tokens: a_LBTn[:, tokens[:, 0] // 4], excerpts, 16)):
    pass
  found = collector.result()
  np.testing.assert_allclose(found.scale.width_Ln[0], [1 / collect.BINS, 2.4 / collect.BINS])
  places = [np.flatnonzero(w >= 0) for w in found.state.interval_LnIR[0, 1].T]
  assert places[0].tolist() == [1, 5, 11]  # 0.3, 1.2 and 2.4 of 2.4, in twelfths
  assert found.state.counts_LnB[0, 1].sum() == 2  # of the tokens that are counted
