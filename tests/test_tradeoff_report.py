"""Points of made-up networks, compared where their losses are equal."""

import numpy as np
import pytest

from crate_jax.errors import UserError
from crate_jax.interpret import tradeoff_report
from crate_jax.interpret.record import OWN_TOP, TRAINED, Record, State

WORKS, NEURONS = 12, 40


def network(kind, loss, score, seed=0, rate=0.1):
  """A network whose neurons' correlations lie round a score."""
  rng = np.random.default_rng([seed, int(1000 * loss)])
  tokens = 2000
  s = rng.normal(size=(WORKS, tokens, NEURONS))
  r = np.clip(score + 0.05 * rng.normal(size=NEURONS), -0.99, 0.99)
  a = s * r + rng.normal(size=s.shape) * np.sqrt(1 - r**2)
  sums = np.stack([a.sum(1), (a * a).sum(1), s.sum(1), (s * s).sum(1), (a * s).sum(1)], -1)
  state = State({"firing_rate": np.full(NEURONS, rate)}, [""] * NEURONS, sums, sums, loss)
  facts = {"kind": kind, "windows_sha256": "x", "run": kind, "step": 1, "train_seed": seed}
  states = {TRAINED: state, OWN_TOP: state}
  counts = np.full(WORKS, tokens)
  return Record(facts, np.arange(NEURONS)[None], counts, counts, states, sums[:, None])


def test_kinds_are_compared_at_losses_that_both_reach():
  """a's score is 0.8 whatever its loss, b's rises from 0.2 at a loss of 6 to 0.6 at one of 4."""
  records = [network("b", 6 - x, 0.2 * (1 + x)) for x in (0, 1, 2)]
  records += [network("a", loss, 0.8) for loss in (5.5, 4.5)]
  points = tradeoff_report.points(records, 0, draws=100)
  assert [p.loss for p in points] == [6, 5, 4, 5.5, 4.5]
  equal = tradeoff_report.at_equal_loss(points, 0, draws=100)
  assert [(e.a, e.b) for e in equal] == [("a", "b")] * tradeoff_report.LOSSES
  assert [e.loss for e in equal] == pytest.approx([4.75, 5.0, 5.25])
  for e in equal:
    wanted = 0.8 - (0.2 + 0.2 * (6 - e.loss))
    assert e.value == pytest.approx(wanted, abs=0.03)
    assert e.interval[0] < wanted < e.interval[1]
    assert e.shares == (1, 1)


def test_kinds_that_reach_no_loss_in_common_are_not_compared():
  records = [network("a", 5.0, 0.5), network("a", 4.5, 0.5), network("b", 4.0, 0.5)]
  points = tradeoff_report.points(records, 0, draws=20)
  assert tradeoff_report.at_equal_loss(points, 0, draws=20) == []


def test_the_report_is_written_with_every_point(tmp_path):
  records = [network("b", 6 - x, 0.3) for x in (0, 1)] + [network("a", 5.5, 0.8, rate=0.5)]
  records += [network("a", 5.2, 0.8, rate=0.5)]
  tradeoff_report.write(tmp_path, records, 0, "the command")
  text = (tmp_path / "tradeoff.md").read_text()
  assert text.count("| a |") == text.count("| b |") == 2
  assert "50.0%" in text
  assert "0%, 0%" in text  # of their neurons none fire equally often
  assert (tmp_path / "tradeoff.png").stat().st_size > 5000
  assert '"kind": "a"' in (tmp_path / "tradeoff.json").read_text()


def test_other_windows_are_refused(tmp_path):
  one, other = network("a", 5.0, 0.5), network("b", 4.0, 0.5)
  other.facts["windows_sha256"] = "y"
  with pytest.raises(UserError, match=r"a and b were not measured on the same tokens.*--data"):
    tradeoff_report.points([one, other], 0)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
  with pytest.raises(UserError, match="holds no checkpoint"):
    tradeoff_report.runs([str(tmp_path)])
