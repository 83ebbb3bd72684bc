"""Windows of works, and that no work is in two sets."""

import itertools

import numpy as np
import pytest

from crate_jax.data.tokenizer import make_tokenizer
from crate_jax.errors import UserError
from crate_jax.interpret import excerpts
from crate_jax.interpret.excerpts import BLOCK, SETS

T = 64


@pytest.fixture(scope="module")
def text(tmp_path_factory):
  """Thirty works of 1 to 60 thousand bytes, one of which stands there twice."""
  tokenizer = make_tokenizer("bytes", [], [], 0, tmp_path_factory.mktemp("cache"))
  rng = np.random.default_rng(0)
  documents = [
    "".join(rng.choice(list("abcdefg \n"), int(10 ** rng.uniform(3, 4.8)))) for _ in range(30)
  ]
  documents += [documents[3], "short"]
  return documents, tokenizer, tokenizer.encode_documents(documents)


def taken(text, seed=0, most=10**9):
  _, tokenizer, tokens = text
  return excerpts.excerpts(tokens, tokenizer, T, seed, most, "the text")


def test_no_work_is_in_two_sets_and_shares_are_kept(text):
  found = taken(text)
  of = {name: set(found.of(name).work_N.tolist()) for name in SETS}
  assert not of["explain"] & of["calibrate"]
  assert not of["explain"] & of["score"]
  assert not of["calibrate"] & of["score"]
  assert set.union(*of.values()) == set(range(30))
  counts = np.bincount(found.set_N) / len(found.set_N)
  np.testing.assert_allclose(counts, list(SETS.values()), atol=0.1)
  assert found.short == 1
  assert len(set(found.works)) == len(found.works) == 30


def test_there_is_a_window_for_every_block_and_none_crosses_a_work(text):
  documents, tokenizer, _ = text
  found = taken(text)
  by_digest = {excerpts.splits.sha256(d): d for d in documents}
  for work, digest in enumerate(found.works):
    document = by_digest[digest]
    starts = []
    for tokens_T in found.tokens_NT[found.work_N == work]:
      starts.append(document.index(tokenizer.decode(tokens_T)))
    starts.sort()
    blocks = -(-(len(document) - T + 1) // BLOCK)
    assert blocks / 1.2 <= len(starts) <= blocks
    assert all(b - a >= T for a, b in itertools.pairwise(starts))


def test_the_order_is_random_and_the_seeds(text):
  found, again, other = taken(text), taken(text), taken(text, seed=1)
  np.testing.assert_array_equal(found.tokens_NT, again.tokens_NT)
  assert found.digest() == again.digest() != other.digest()
  # Where works go does not depend on the seed.
  sets = {found.works[w]: s for w, s in zip(found.work_N, found.set_N, strict=True)}
  assert sets == {other.works[w]: s for w, s in zip(other.work_N, other.set_N, strict=True)}
  fewer = taken(text, most=40)
  np.testing.assert_array_equal(fewer.tokens_NT, found.tokens_NT[:40])


def test_too_few_works_are_refused_by_name(text):
  documents, tokenizer, _ = text
  tokens = tokenizer.encode_documents(documents[:5])
  with pytest.raises(UserError, match=r"the text holds 5 documents of at least 64 tokens.*--data"):
    excerpts.excerpts(tokens, tokenizer, T, 0, 100, "the text")
  with pytest.raises(UserError, match=r"of 1 windows none is left to .*--tokens"):
    taken(text, most=1)
