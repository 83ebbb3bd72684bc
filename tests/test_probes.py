"""The probes of benchmarks/probes.py: sequences, scores, and a run of two steps."""

import itertools
import json
import subprocess
import sys

import conftest
import numpy as np
import pytest

from benchmarks import probes


def lookup(tokens):
  """What a plain dictionary says each token is: what followed the last time the one before came."""
  seen, predicted = {}, [-1]
  for before, token in itertools.pairwise(tokens):
    predicted.append(seen.get(before, -1))
    seen[before] = token
  return predicted


@pytest.mark.parametrize("probe", probes.PROBES)
def test_a_lookup_scores_all_and_a_guess_is_near_chance(probe):
  batch = tokens_NT, scored_NT = probes.held_out(probe, 0)
  assert tokens_NT.shape == scored_NT.shape == (probes.HELD_OUT, probes.WINDOW)
  oracle = np.array([lookup(tokens) for tokens in tokens_NT.tolist()])
  assert probes.accuracy(oracle, batch) == (1.0, 0.0)
  _, answers = probes.PROBES[probe]
  first = probes.VOCABULARY - answers  # of the tokens that can be an answer
  guess = np.random.default_rng(2).integers(first, probes.VOCABULARY, tokens_NT.shape)
  mean, error = probes.accuracy(guess, batch)
  assert abs(mean - 1 / answers) < 4 * error and 0 < error < 0.01


def test_induction_says_the_same_again():
  tokens_NT, scored_NT = probes.induction(np.random.default_rng(0), 300)
  rounds = set()
  for tokens, scored in zip(tokens_NT.tolist(), scored_NT, strict=True):
    r = tokens.index(tokens[0], 1)
    rounds.add(r)
    assert len(set(tokens[:r])) == r and tokens[r : 2 * r] == tokens[:r]
    assert np.flatnonzero(scored).tolist() == list(range(r + 1, 2 * r))
  assert rounds == set(range(probes.ROUNDS[0], probes.ROUNDS[1] + 1))


def test_recall_asks_for_every_key_once_and_its_value_follows():
  tokens_NT, scored_NT = probes.recall(np.random.default_rng(0), 300)
  n, orders = probes.PAIRS, set()
  for tokens, scored in zip(tokens_NT.tolist(), scored_NT, strict=True):
    keys, values = tokens[: 2 * n : 2], tokens[1 : 2 * n : 2]
    asked, answers = tokens[2 * n :: 2], tokens[2 * n + 1 :: 2]
    assert len(set(keys)) == n and sorted(asked) == sorted(keys)
    assert max(keys) < probes.VOCABULARY // 2 <= min(values)
    assert answers == [dict(zip(keys, values, strict=True))[key] for key in asked]
    assert np.flatnonzero(scored).tolist() == list(range(2 * n + 1, 4 * n, 2))
    orders.add(tuple(keys.index(key) for key in asked))
  assert len(orders) > 290


def test_elimination_of_a_sequence_done_by_hand():
  tokens_NT = np.array([[9, 5, 5, 7]])
  scored_NT = np.array([[False, True, True, True]])
  assert probes.elimination((tokens_NT, scored_NT)) == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)


def test_batches_are_decided_by_the_seed_and_are_not_the_held_out_ones():
  first, again, other = (next(probes.batches(seed, 64)) for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()
  for probe, rows in zip(probes.PROBES, np.split(first, 2), strict=True):
    held_out = set(map(bytes, probes.held_out(probe, 0)[0]))
    assert held_out.isdisjoint(map(bytes, rows))


def test_a_run_writes_the_table_and_run_again_skips_what_is_done(tmp_path):
  flags = [f"--out={tmp_path}", "--architectures=crate+mssa_query", "--steps=2"]
  for _ in range(2):
    done = subprocess.run(
      [sys.executable, "benchmarks/probes.py", *flags],
      cwd=conftest.ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = json.loads((tmp_path / "probes.json").read_text())
  assert "step 2 of 2" not in done.stdout
  assert run["settings"]["model.mixing"] == "mssa_query"
  assert [point["step"] for point in run["curve"]] == [1, 2]
  table = (tmp_path / "probes.md").read_text()
  for probe in probes.PROBES:
    assert 0 <= run["probes"][probe]["accuracy"] < 0.1
    assert f"{run['probes'][probe]['accuracy']:.1%} ±" in table
  assert f"| crate+mssa_query | {run['parameters']:,} |" in table and "2 steps" in table
