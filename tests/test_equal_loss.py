"""Points of made-up networks, compared where their losses are equal."""

import dataclasses

import numpy as np
import pytest

from crate_jax.errors import UserError
from crate_jax.interpret import equal_loss
from crate_jax.interpret.record import OWN_TOP, TRAINED, Record, State

WORKS, NEURONS = 12, 40


def network(kind, loss, score, seed=0, rate=0.1, ended=True):
  """A network whose neurons' correlations lie round a score."""
  rng = np.random.default_rng([seed, int(1000 * loss)])
  tokens = 2000
  s = rng.normal(size=(WORKS, tokens, NEURONS))
  r = np.clip(score + 0.05 * rng.normal(size=NEURONS), -0.99, 0.99)
  a = s * r + rng.normal(size=s.shape) * np.sqrt(1 - r**2)
  sums = np.stack([a.sum(1), (a * a).sum(1), s.sum(1), (s * s).sum(1), (a * s).sum(1)], -1)
  rates = {"firing_rate": np.broadcast_to(rate, NEURONS)}
  state = State(rates, [""] * NEURONS, sums, sums, loss)
  facts = {"kind": kind, "windows_sha256": "x", "run": kind, "step": 1, "train_seed": seed}
  facts |= {"model_sha256": kind, "weights_sha256": f"{kind} {loss} {seed}", "learning_rate": 1e-3}
  facts |= {"schedule": "wsd", "train_steps": 1 if ended else 2}
  states = {TRAINED: state, OWN_TOP: state}
  counts = np.full(WORKS, tokens)
  return Record(facts, np.arange(NEURONS)[None], counts, counts, states, sums[:, None])


def test_kinds_are_compared_at_losses_that_both_reach():
  """a's score is 0.8 whatever its loss, b's rises from 0.2 at a loss of 6 to 0.6 at one of 4."""
  records = [network("b", 6 - x, 0.2 * (1 + x)) for x in (0, 1, 2)]
  records += [network("a", loss, 0.8) for loss in (5.5, 4.5)]
  points = equal_loss.points(records, 0, draws=100)
  assert [p.loss for p in points] == [6, 5, 4, 5.5, 4.5]
  equal = equal_loss.at_equal_loss(points, 0, draws=100)
  assert [(e.a, e.b) for e in equal] == [("a", "b")] * equal_loss.LOSSES
  assert [e.loss for e in equal] == pytest.approx([4.75, 5.0, 5.25])
  for e in equal:
    wanted = 0.8 - (0.2 + 0.2 * (6 - e.loss))
    assert e.value == pytest.approx(wanted, abs=0.03)
    assert e.interval[0] < wanted < e.interval[1]
    # All fire equally often: matched, they are what they were.
    assert e.matched == pytest.approx(e.value) and e.shares == (1, 1) and e.ended


def test_matched_differences_are_read_off_at_the_same_loss():
  """Rare neurons score 0.2 lower in both; of b, which rises with its loss, more are rare."""

  def rates(rare):
    return np.where(np.arange(NEURONS) < rare, 0.001, 0.3)

  def score(high, rare):
    return np.where(np.arange(NEURONS) < rare, high - 0.2, high)

  records = [network("b", 6 - x, score(0.3 + 0.2 * x, 30), rate=rates(30)) for x in (0, 1)]
  records += [network("a", 6 - x, score(0.8, 10), rate=rates(10)) for x in (0, 1)]
  (*_, e) = equal_loss.at_equal_loss(equal_loss.points(records, 0, draws=100), 0, draws=100)
  at = 6 - e.loss
  plain = 0.8 - 0.2 * 10 / NEURONS - (0.3 + 0.2 * at - 0.2 * 30 / NEURONS)
  assert e.value == pytest.approx(plain, abs=0.03)
  assert e.matched == pytest.approx(0.8 - (0.3 + 0.2 * at), abs=0.03)
  assert e.matched_interval[0] < e.matched < e.matched_interval[1]


def test_checkpoints_of_one_network_have_the_same_neurons():
  """Of a and b each the neurons and works of one record stand at two losses: both ways agree."""
  records = []
  for kind, score in (("b", 0.4), ("a", 0.6)):
    for loss in (5, 4):
      of_it = network(kind, 4, score + 0.2 * np.sin(np.arange(NEURONS)))
      of_it.facts["weights_sha256"] += f"at {loss}"
      states = {name: dataclasses.replace(s, loss=loss) for name, s in of_it.states.items()}
      records.append(dataclasses.replace(of_it, states=states))
  points = equal_loss.points(records, 0, draws=2000)
  for e in equal_loss.at_equal_loss(points, 0, draws=2000):
    widths = [high - low for low, high in (e.interval, e.matched_interval)]
    assert widths[0] == pytest.approx(widths[1], rel=0.06)


def test_ends_are_compared_with_ends_and_ways_with_ways():
  """On its way every network scores 0.3 less; the two stages lie at the same losses."""
  records = []
  for kind, score in (("b", 0.5), ("a", 0.6)):
    for loss in (6, 5):
      records.append(network(kind, loss, score))
      records.append(network(kind, loss + 0.01, score - 0.3 * (kind == "a"), ended=False))
  equal = equal_loss.at_equal_loss(equal_loss.points(records, 0, draws=50), 0, draws=50)
  assert [e.ended for e in equal] == [True] * 3 + [False] * 3
  for e in equal:
    assert e.value == pytest.approx(0.1 if e.ended else -0.2, abs=0.03)


def test_a_checkpoint_that_two_runs_share_is_one_point():
  records = [network("a", 5.0, 0.5), network("a", 5.0, 0.5), network("a", 4.5, 0.5)]
  assert len(equal_loss.points(records, 0, draws=20)) == 2


def test_rates_are_kinds_and_models_that_differ_are_not_one():
  slow, fast = network("a", 5.0, 0.5), network("a", 4.0, 0.5)
  fast.facts["learning_rate"] = 2e-3
  kinds = [p.kind for p in equal_loss.points([slow, fast], 0, draws=20)]
  assert kinds == ["a, rate 0.001", "a, rate 0.002"]
  # Others are held against the rate that has most runs, not against the first.
  records = [slow, fast, network("b", 4.5, 0.5), network("b", 3.5, 0.5)]
  records.append(network("a", 3.0, 0.5, seed=1))
  records[-1].facts["learning_rate"] = 2e-3
  points = equal_loss.points(records, 0, draws=20)
  assert equal_loss.base(points) == "a, rate 0.002"
  assert {(e.a, e.b) for e in equal_loss.at_equal_loss(points, 0, draws=20)} == {
    ("b", "a, rate 0.002")
  }
  fast.facts["model_sha256"] = "of another context"
  with pytest.raises(UserError, match=r"a and a are both a, and differ in model\."):
    equal_loss.points([slow, fast], 0, draws=20)


def test_kinds_that_reach_no_loss_in_common_are_not_compared():
  records = [network("a", 5.0, 0.5), network("a", 4.5, 0.5), network("b", 4.0, 0.5)]
  points = equal_loss.points(records, 0, draws=20)
  assert equal_loss.at_equal_loss(points, 0, draws=20) == []


def test_other_windows_are_refused():
  one, other = network("a", 5.0, 0.5), network("b", 4.0, 0.5)
  other.facts["windows_sha256"] = "y"
  with pytest.raises(UserError, match=r"a and b were not measured on the same tokens.*--data"):
    equal_loss.points([one, other], 0)
