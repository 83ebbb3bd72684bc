import itertools

import numpy as np
import pytest

from crate_jax.data import pipeline
from crate_jax.errors import UserError

TOKENS = np.arange(50 * 8 + 5, dtype=np.int32)  # 50 windows of 8, and a rest


def take(n, tokens=TOKENS, **changes):
  options = {"context": 8, "batch_size": 4, "seed": 3} | changes
  return list(itertools.islice(pipeline.batches(tokens, **options), n))


def test_windows_overlap_by_one_token():
  windows = pipeline.Windows(TOKENS, 8)
  assert len(windows) == 50
  np.testing.assert_array_equal(windows[3], np.arange(24, 33))
  assert len(pipeline.Windows(np.arange(9), 8)) == 1
  assert len(pipeline.Windows(np.arange(8), 8)) == 0


def test_every_window_once_an_epoch_in_a_new_order():
  starts = np.concatenate(take(50))[:, 0] // 8  # four epochs: 200 examples
  epochs = starts.reshape(4, 50)
  for epoch in epochs:
    assert sorted(epoch) == list(range(50))
  assert not np.array_equal(epochs[0], epochs[1])
  assert not np.array_equal(epochs[0], np.arange(50))


def test_the_seed_decides_the_order():
  np.testing.assert_array_equal(take(20), take(20))
  assert not np.array_equal(take(20), take(20, seed=4))


def test_a_resumed_run_goes_on_where_it_stopped():
  np.testing.assert_array_equal(take(10, start=20), take(30)[20:])


@pytest.mark.parametrize("processes", [2, 4])
def test_global_batches_do_not_depend_on_the_process_count(processes):
  whole = take(30)
  parts = [take(30, process_index=i, process_count=processes) for i in range(processes)]
  np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_the_order_of_examples_does_not_depend_on_the_batch_size():
  np.testing.assert_array_equal(np.concatenate(take(16)), np.concatenate(take(8, batch_size=8)))


def test_a_text_shorter_than_a_window_is_refused():
  with pytest.raises(UserError, match=r"data\.train has 8 tokens, fewer than one window"):
    take(1, TOKENS[:8])


def test_unequal_slices_are_refused():
  with pytest.raises(UserError, match="batch_size=4 is not a multiple of the 3 processes"):
    take(1, process_count=3)


def test_a_corpus_is_tokens_and_facts(text, tmp_path):
  options = {"validation": "", "validation_fraction": 0.2, "bpe_vocab_size": 300, "cache": tmp_path}
  corpus = pipeline.load_corpus(train=str(text), tokenizer="bytes", **options)
  facts = corpus.facts
  assert facts["train_documents"] + facts["validation_documents"] == 12
  assert len(corpus.train) == facts["train_tokens"]
  end = corpus.tokenizer.end_of_text
  assert np.sum(corpus.train == end) == facts["train_documents"] and corpus.train[-1] == end
  again = pipeline.load_corpus(train=str(text), tokenizer=corpus.tokenizer, **options)
  assert again.facts == facts
