import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crate_jax.data import local, pipeline, preparation
from crate_jax.errors import UserError

TOKENS = np.arange(50 * 8 + 5, dtype=np.int32)  # 50 windows of 8, and a rest


def take(n, tokens=TOKENS, **changes):
  options = {"context": 8, "batch_size": 4, "seed": 3} | changes
  return list(itertools.islice(pipeline.batches([(tokens, 1.0)], **options), n))


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
  np.testing.assert_array_equal(take(10, examples=80), take(30)[20:])


def hashes(batches, first_rows=(0,)):
  """The hash of each global batch, from the slices of the processes."""
  totals = []
  for slices in batches:
    parts = [pipeline.batch_hash(x, row) for x, row in zip(slices, first_rows, strict=True)]
    totals.append(pipeline.hexadecimal(np.sum(parts, axis=0, dtype=np.uint32)))
  return totals


def rows_of(process, processes, batch_size):
  size = batch_size // processes
  return range(process * size, (process + 1) * size)


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_global_batches_do_not_depend_on_the_process_count(processes):
  whole = take(30, batch_size=8)  # 50 windows: across four ends of an epoch
  parts = [take(30, batch_size=8, rows=rows_of(i, processes, 8)) for i in range(processes)]
  np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
  rows = range(0, 8, 8 // processes)
  assert hashes(zip(*parts, strict=True), rows) == hashes([[x] for x in whole])


def test_a_run_goes_on_at_its_example_with_other_processes_and_batches():
  examples = np.concatenate(take(40))
  seen, rng = [], np.random.default_rng(0)
  for batch_size, processes in ((4, 2), (8, 1), (6, 3), (16, 8), (4, 1)):
    options = {"batch_size": batch_size, "examples": sum(map(len, seen)), "seed": 3}
    steps = int(rng.integers(1, 5))
    rows = [rows_of(i, processes, batch_size) for i in range(processes)]
    parts = [take(steps, rows=rows[i], **options) for i in range(processes)]
    seen.append(np.concatenate(np.concatenate(parts, axis=1)))
  seen = np.concatenate(seen)
  np.testing.assert_array_equal(seen, examples[: len(seen)])


def test_the_hash_tells_tokens_and_their_places_apart():
  batch = take(1, batch_size=8)[0]
  said = {pipeline.hexadecimal(pipeline.batch_hash(batch))}
  for other in (batch[::-1], batch[:, ::-1], batch + 1, np.roll(batch, 1, axis=1), batch[:4]):
    said.add(pipeline.hexadecimal(pipeline.batch_hash(other)))
  one_less = batch.copy()
  one_less[3, 2] -= 1
  said.add(pipeline.hexadecimal(pipeline.batch_hash(one_less)))
  assert len(said) == 7 and all(len(x) == 16 for x in said)


def test_the_hash_is_the_same_on_devices():
  batch = take(1, batch_size=8)[0]
  on_device = jax.jit(lambda x: jnp.stack(pipeline.batch_hash(x)))(batch)
  assert pipeline.hexadecimal(on_device) == pipeline.hexadecimal(pipeline.batch_hash(batch))


def by_definition(batch):
  """The hash in Python's own integers."""
  totals, columns, mask = [0, 0], batch.shape[1], 2**32 - 1

  def mix(x):
    x = (x ^ (x >> 16)) * 0x85EBCA6B & mask
    x = (x ^ (x >> 13)) * 0xC2B2AE35 & mask
    return x ^ (x >> 16)

  for row, tokens in enumerate(batch.tolist()):
    for column, token in enumerate(tokens):
      for i, salt in enumerate((0x9E3779B9, 0x7F4A7C15)):
        place = mix((row * columns + column + salt) & mask)
        totals[i] = (totals[i] + mix((token + place) & mask)) & mask
  return "".join(f"{total:08x}" for total in totals)


def test_the_hash_is_what_its_definition_says():
  batch = take(1, batch_size=8)[0]
  assert pipeline.hexadecimal(pipeline.batch_hash(batch)) == by_definition(batch)


def test_a_mixture_takes_each_stream_by_its_weight_and_in_its_own_epochs():
  one, two = np.arange(0, 401, dtype=np.int32), np.arange(1000, 1081, dtype=np.int32)
  streams = [(one, 0.8), (two, 0.2)]  # 50 windows and 10
  batches = pipeline.batches(streams, context=8, batch_size=10, seed=0)
  starts = np.concatenate(list(itertools.islice(batches, 25)))[:, 0]
  of_two = starts[starts >= 1000]
  assert len(of_two) == 50 and all(np.sum(starts[i : i + 10] >= 1000) == 2 for i in (0, 10, 240))
  for epoch in of_two.reshape(5, 10):
    assert sorted(epoch) == list(range(1000, 1080, 8))
  of_one = starts[starts < 1000]
  for epoch in of_one.reshape(4, 50):
    assert sorted(epoch) == list(range(0, 400, 8))


def test_the_first_tokens_are_of_every_stream_by_weight():
  one, two = np.arange(100), np.arange(1000, 1010)
  streams = [(one, 0.75), (two, 0.25)]
  np.testing.assert_array_equal(pipeline.first(streams, 8), [0, 1, 2, 3, 4, 5, 1000, 1001])
  assert len(pipeline.first(streams)) == 110 and len(pipeline.first(streams, 80)) == 70


def test_the_order_of_examples_does_not_depend_on_the_batch_size():
  np.testing.assert_array_equal(np.concatenate(take(16)), np.concatenate(take(8, batch_size=8)))


def test_a_text_shorter_than_a_window_is_refused():
  with pytest.raises(UserError, match="training text has 8 tokens, fewer than one window"):
    take(1, TOKENS[:8])


def test_rows_may_be_any():
  whole = take(3, batch_size=8)
  np.testing.assert_array_equal(
    take(3, batch_size=8, rows=[1, 6, 7]), np.array(whole)[:, [1, 6, 7]]
  )


def load(text, tmp_path, **changes):
  options = {"prepared": "", "train": str(text), "validation": "", "validation_fraction": 0.2}
  options |= {"tokenizer": "bytes", "bpe_vocab_size": 300, "cache": tmp_path}
  return pipeline.load_corpus(**(options | changes))


def test_a_corpus_is_tokens_and_facts(text, tmp_path):
  corpus = load(text, tmp_path)
  facts = corpus.facts
  assert facts["train_documents"] + facts["validation_documents"] == 12
  ((tokens, weight),) = corpus.train
  assert len(tokens) == facts["train_tokens"] and weight == 1
  end = corpus.tokenizer.end_of_text
  assert np.sum(tokens == end) == facts["train_documents"] and tokens[-1] == end
  assert load(text, tmp_path, tokenizer=corpus.tokenizer).facts == facts


def prepare(folder, text, held_out, tokenizer="bytes"):
  work = preparation.Preparation(
    folder,
    train=str(text),
    validation=str(held_out),
    validation_fraction=0.1,
    tokenizer=tokenizer,
    bpe_vocab_size=300,
    cache=folder.parent,
  )
  local.prepare(work)


def test_prepared_data_is_the_text_it_was_made_of(text, tmp_path):
  held_out = tmp_path / "held_out.txt"
  held_out.write_text("some other words of the cat\n")
  prepare(tmp_path / "one", text, held_out)
  corpus = load(text, tmp_path, validation=str(held_out))
  prepared = load("", tmp_path, prepared=str(tmp_path / "one"), tokenizer="not looked at")
  for name in ("train", "validation"):
    np.testing.assert_array_equal(
      pipeline.first(getattr(prepared, name)), pipeline.first(getattr(corpus, name))
    )
    for count in ("tokens", "documents"):
      assert prepared.facts[f"{name}_{count}"] == corpus.facts[f"{name}_{count}"]
  options = {"context": 8, "batch_size": 4, "seed": 3}
  for ours, theirs in zip(
    itertools.islice(pipeline.batches(prepared.train, **options), 20),
    pipeline.batches(corpus.train, **options),
    strict=False,
  ):
    np.testing.assert_array_equal(ours, theirs)


def test_a_mixture_of_prepared_folders(text, tmp_path):
  other = tmp_path / "other.txt"
  other.write_text("<|endoftext|>\n".join(f"quite other words {i}\n" for i in range(50)))
  for name, file in (("one", text), ("two", other)):
    prepare(tmp_path / name, file, tmp_path / "text.txt" if name == "two" else other)
  names = f"{tmp_path / 'one'}=3,{tmp_path / 'two'}=1"
  corpus = load("", tmp_path, prepared=names)
  assert [weight for _, weight in corpus.train] == [0.75, 0.25]
  assert corpus.facts["train_tokens"] == sum(len(tokens) for tokens, _ in corpus.train)
  again = load("", tmp_path, prepared=names.replace("=3", "=2"))
  assert again.facts["train_sha256"] != corpus.facts["train_sha256"]
  prepare(tmp_path / "three", other, text, "bpe")
  with pytest.raises(UserError, match=r"three was prepared with another tokenizer than .*one"):
    load("", tmp_path, prepared=f"{tmp_path / 'one'},{tmp_path / 'three'}")
  with pytest.raises(UserError, match="three was prepared with another tokenizer than the one of"):
    load("", tmp_path, prepared=str(tmp_path / "three"), tokenizer=corpus.tokenizer)
  with pytest.raises(UserError, match=r"'many' in '.*one=many' is not a positive weight"):
    load("", tmp_path, prepared=f"{tmp_path / 'one'}=many")


def test_a_config_without_text_says_what_to_do(tmp_path):
  with pytest.raises(UserError, match=r"prepare --config=configs/pile\.py .*train=python_stdlib"):
    load("", tmp_path)
