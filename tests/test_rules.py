"""Rules on neurons whose cause is known, against plain dictionaries, and what they say."""

import collections

import numpy as np
import planted
import pytest

from crate_jax.data.tokenizer import make_tokenizer
from crate_jax.interpret import rules, scores
from crate_jax.interpret.network import batches

EACH = 24


@pytest.fixture(scope="module", params=[("zipf", 0), ("markov", 901), ("markov", 902)], ids=str)
def judged(request) -> tuple[np.ndarray, np.ndarray, np.ndarray, scores.Selectivity]:
  """Scores by token, by pair, by another neuron's rule, and selectivities."""
  excerpts, see = planted.planted(*request.param, each=EACH)
  explain = excerpts.of("explain")
  known = rules.pairs(explain.tokens_NT, 512)
  tables = rules.fit(batches(see, explain, 64), known, 5 * EACH)
  made = rules.rules(tables)
  score = excerpts.of("score")
  null_KM = np.random.default_rng(0).permutation(5 * EACH)[None]
  found = scores.sums(batches(see, score, 64), made, len(score.works), null_KM)
  tokens = found.tokens_W.sum()
  by = [
    scores.pearson(x.sum(0), tokens)
    for x in (found.token_WMS, found.pair_WMS, found.null_WKMS[:, 0])
  ]
  return *by, scores.selectivity(tables)


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
  return values.mean(), values.std() / np.sqrt(len(values))


def test_rules_rank_planted_neurons_by_their_cause(judged):
  by_token, by_pair, _, _ = judged
  token = {kind: mean_and_error(planted.of_kind(by_token, kind, EACH)) for kind in planted.KINDS}
  pair = {kind: mean_and_error(planted.of_kind(by_pair, kind, EACH)) for kind in planted.KINDS}
  assert 0.92 < token["token"][0] < 0.98
  assert 0.3 <= token["bigram"][0] <= 0.4
  assert pair["bigram"][0] > 0.85
  for kind in ("context", "noise"):
    for mean, error in (token[kind], pair[kind]):
      assert abs(mean) <= 0.02
      assert error <= 0.005


def test_tables_and_rules_are_those_of_plain_dictionaries():
  excerpts, see = planted.planted("markov", 5, each=2, windows=60)
  explain = excerpts.of("explain")
  known = rules.pairs(explain.tokens_NT, 512)
  tables = rules.fit(batches(see, explain, 7), known, 10)
  made = rules.rules(tables)
  a_NTM = see(explain.tokens_NT)[0].astype(np.float64)
  by_token, by_pair, by_next = (collections.defaultdict(list) for _ in range(3))
  for tokens_T, a_TM in zip(explain.tokens_NT.tolist(), a_NTM, strict=True):
    for t, token in enumerate(tokens_T):
      by_token[token].append(a_TM[t])
      if t:
        by_pair[tokens_T[t - 1], token].append(a_TM[t])
        by_next[token].append(a_TM[t - 1])
  mean_M = a_NTM.mean((0, 1))
  np.testing.assert_allclose(made.mean_M, mean_M, rtol=1e-4, atol=1e-7)

  def shrunk(seen, towards):
    return (np.sum(seen, 0) + 5 * towards) / (len(seen) + 5)

  expected = {token: shrunk(seen, mean_M) for token, seen in by_token.items()}
  for token, wanted in expected.items():
    np.testing.assert_allclose(made.token_VM[token], wanted, rtol=1e-4, atol=1e-6)
    assert tables.count_V[token] == len(by_token[token])
  frequent = {pair: seen for pair, seen in by_pair.items() if len(seen) >= rules.RAREST}
  assert len(frequent) == len(known.key_K)
  for i, key in enumerate(known.key_K.tolist()):
    pair = divmod(key, 512)
    wanted = shrunk(frequent[pair], expected[pair[1]])
    np.testing.assert_allclose(made.pair_KM[i], wanted, rtol=1e-4, atol=1e-6)
  for token, seen in by_next.items():
    np.testing.assert_allclose(tables.next_VM[token], np.sum(seen, 0), rtol=1e-4, atol=1e-5)
  # Simulated, a pair that is not known falls back to its token.
  tokens_T = explain.tokens_NT[0]
  simulated = made.simulate(tokens_T[None])
  np.testing.assert_array_equal(simulated[0][0], made.token_VM[tokens_T])
  for t in range(1, 256):
    pair = tokens_T[t - 1].item(), tokens_T[t].item()
    wanted = expected[pair[1]]
    if pair in frequent:
      wanted = shrunk(frequent[pair], wanted)
    np.testing.assert_allclose(simulated[1][0, t], wanted, rtol=1e-4, atol=1e-6)


def test_other_neurons_rules_explain_nothing(judged):
  mean, error = mean_and_error(judged[2])
  assert abs(mean) <= 0.02
  assert error <= 0.005


def test_a_rule_reads_as_a_sentence(tmp_path):
  tokenizer = make_tokenizer("bytes", [], [], 0, tmp_path)
  text = ("to be or not to be " * 40).encode()
  tokens_NT = np.array(tokenizer.encode(text.decode()), np.int32).reshape(-1, 40)

  def see(tokens_BT):
    of = tokenizer.encode("e")[0], tokenizer.encode("o")[0], tokenizer.encode("t")[0]
    before = np.roll(tokens_BT, 1, axis=1)
    pair = (tokens_BT == of[1]) & (before == of[2])
    both = np.where(tokens_BT == of[0], 1, -1)
    neurons = [tokens_BT == of[0], pair, 0 * tokens_BT, both, both - 2]  # the last: -1 or -3
    return np.stack(neurons, -1)[None].astype(np.float32)

  excerpts = planted.Excerpts(tokens_NT, np.zeros(len(tokens_NT), int), None, ("a",), 0)
  known = rules.pairs(tokens_NT, tokenizer.vocab_size)
  tables = rules.fit(batches(see, excerpts, 8), known, 5)
  made = rules.rules(tables)
  words = [rules.sentence(tables, made, i, i == 1, tokenizer) for i in range(5)]
  assert words[0] == "fires on 'e' (100%); 0% of its activation lies elsewhere"
  assert words[1].startswith("fires on 'o' after 't' (9")
  assert words[2] == "never fires"
  assert words[3] == words[4] == "is highest on 'e'; some others make it negative"
