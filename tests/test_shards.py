import json

import numpy as np
import pytest
import safetensors.numpy

from crate_jax.data import seal, shards
from crate_jax.data.tokenizer import make_tokenizer
from crate_jax.errors import UserError

SIZES = (10_000, 3, 4096, 9_000)  # tokens of each shard


@pytest.fixture
def prepared(tmp_path):
  """A folder of four shards of random bytes, as arrays too."""
  tokenizer = make_tokenizer("bytes", [], [], 0, tmp_path)
  tokenizer.save(tmp_path / "tokenizer.json")
  rng = np.random.default_rng(0)
  streams, entries = [], []
  for i, size in enumerate(SIZES):
    tokens = rng.integers(0, 256, size).astype(np.uint16)
    ends = np.unique(np.append(rng.integers(1, size, 3), size))
    tokens[ends - 1] = tokenizer.end_of_text
    file = f"train/{i:05}-00000.safetensors"
    count, sha256 = shards.write(tmp_path / file, tokens, ends)
    entries.append(
      {"file": file, "tokens": size, "documents": len(ends), "bytes": count, "sha256": sha256}
    )
    streams.append(tokens)
  manifest = {
    "format": shards.FORMAT,
    "tokenizer": {"sha256": tokenizer.digest()},
    "splits": {"train": {"shards": entries}},
  }
  (tmp_path / "manifest.json").write_text(json.dumps(seal.sealed(manifest)))
  return tmp_path, np.concatenate(streams)


def open_train(folder):
  return shards.Prepared(folder).split("train")


def test_any_slice_is_that_of_the_stream(prepared):
  folder, stream = prepared
  tokens = open_train(folder)
  assert len(tokens) == len(stream) == sum(SIZES)
  rng = np.random.default_rng(1)
  slices = [tuple(sorted(rng.integers(0, len(stream) + 1, 2))) for _ in range(200)]
  slices += [(0, len(stream)), (5, 5), (9_999, 10_004), (10_000, 10_003), (0, 1), (4095, 4097)]
  for start, stop in slices:
    got = tokens[start:stop]
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, stream[start:stop])
  np.testing.assert_array_equal(tokens[:], stream)
  np.testing.assert_array_equal(tokens[-7:], stream[-7:])


def test_documents_end_where_end_of_text_stands(prepared):
  folder, stream = prepared
  np.testing.assert_array_equal(open_train(folder).ends(), np.flatnonzero(stream == 256) + 1)


def test_a_shard_is_a_safetensors_file(prepared):
  folder, stream = prepared
  there = safetensors.numpy.load_file(folder / "train" / "00000-00000.safetensors")
  assert set(there) == {"tokens", "ends", "crc32"} and there["tokens"].dtype == np.uint16
  np.testing.assert_array_equal(there["tokens"], stream[:10_000])


@pytest.mark.parametrize("place", [40, 5_000, -1])
def test_a_flipped_bit_is_found_where_it_is_read(prepared, place):
  folder, stream = prepared
  file = folder / "train" / "00000-00000.safetensors"
  data = bytearray(file.read_bytes())
  start = int.from_bytes(data[:8], "little") + 8  # of the tensors
  header = json.loads(data[8:start])
  first, last = header["tokens"]["data_offsets"]
  byte = (start + first + 2 * place) if place > 0 else start + last + 2 * place
  data[byte] ^= 4
  file.write_bytes(data)
  tokens, token = open_train(folder), place % 10_000
  damaged = token // 4096 * 4096
  with pytest.raises(UserError, match=rf"00000-00000\.safetensors is damaged: tokens {damaged} to"):
    tokens[token : token + 1]
  elsewhere = (damaged + 4096) % 8192
  np.testing.assert_array_equal(
    tokens[elsewhere : elsewhere + 9], stream[elsewhere : elsewhere + 9]
  )
  with pytest.raises(UserError, match="does not have the SHA-256"):
    tokens.verify()


def cut(file):
  file.write_bytes(file.read_bytes()[:-1])


def break_header(file):
  data = file.read_bytes()
  file.write_bytes(data[:9] + b"?" + data[10:])


@pytest.mark.parametrize(
  ("change", "sentence"),
  [
    (cut, r"00002-00000\.safetensors has \d+ bytes and not the \d+ that manifest\.json lists"),
    (lambda file: file.unlink(), r"00002-00000\.safetensors is missing: manifest\.json lists it"),
    (break_header, r"00002-00000\.safetensors cannot be read"),
  ],
)
def test_a_shard_that_is_not_whole_is_named(prepared, change, sentence):
  folder, _ = prepared
  change(folder / "train" / "00002-00000.safetensors")
  with pytest.raises(UserError, match=sentence):
    open_train(folder)[10_003:]


def test_a_token_outside_the_vocabulary_is_named(prepared):
  folder, _ = prepared
  file = folder / "train" / "00001-00000.safetensors"
  shards.write(file, np.array([1, 999, 256], np.uint16), np.array([1, 2, 3]))
  with pytest.raises(UserError, match=r"00001-.* holds the token id 999, and the vocabulary ends"):
    open_train(folder)[10_000:10_003]


def test_the_wrong_tokenizer_is_refused(prepared):
  folder, _ = prepared
  make_tokenizer("characters", ["abc"], [], 0, folder).save(folder / "tokenizer.json")
  with pytest.raises(UserError, match=r"tokenizer\.json is not the tokenizer that manifest\.json"):
    shards.Prepared(folder)


@pytest.mark.parametrize(
  ("text", "sentence"),
  [
    ("{", "is not a manifest of prepared data"),
    ("[]", "is not a manifest of prepared data"),
    (
      '{"format": 2, "splits": {"train": {"shards": []}}}',
      "does not have the SHA-256 that it names",
    ),
    (
      json.dumps(seal.sealed({"format": 2, "splits": {"train": {"shards": [{"file": "x"}]}}})),
      "is not a manifest",
    ),
    (json.dumps(seal.sealed({"format": 2})), "is not a manifest"),
    ('{"format": 9}', "is of format 9, and this version reads 2"),
  ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path, text, sentence):
  (tmp_path / "manifest.json").write_text(text)
  with pytest.raises(UserError, match=sentence):
    shards.Prepared(tmp_path)


@pytest.mark.parametrize("file", ["../x.safetensors", "/x.safetensors", "train/link"])
def test_a_shard_outside_of_the_folder_is_refused(file, prepared):
  folder, _ = prepared
  manifest = json.loads((folder / "manifest.json").read_text())
  (folder / "train" / "link").symlink_to(folder / manifest["splits"]["train"]["shards"][0]["file"])
  manifest["splits"]["train"]["shards"][0]["file"] = file
  (folder / "manifest.json").write_text(json.dumps(seal.sealed(manifest)))
  with pytest.raises(UserError, match="is not a file of that folder"):
    shards.Prepared(folder)


def test_a_folder_that_is_not_prepared_says_what_prepares_it(tmp_path):
  with pytest.raises(UserError, match=r"is not there: `python -m crate_jax\.prepare .*_stdlib"):
    shards.Prepared(tmp_path / "nothing")
  with pytest.raises(UserError, match="is there, but not prepared to its end"):
    shards.Prepared(tmp_path)


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path, monkeypatch):
  def full(file):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr("os.fsync", full)
  with pytest.raises(OSError, match="No space left"):
    shards.write(tmp_path / "a.safetensors", np.zeros(5, np.uint16), np.array([5]))
  assert not list(tmp_path.iterdir())
