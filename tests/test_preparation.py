import gzip
import hashlib
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from crate_jax.data import local, preparation, shards, sources, splits
from crate_jax.data.tokenizer import make_tokenizer
from crate_jax.errors import UserError

if sys.version_info >= (3, 14):
  from compression import zstd
else:
  from backports import zstd


def plan(out, train, validation="", **changes):
  options = {"validation_fraction": 0.2, "tokenizer": "bytes", "bpe_vocab_size": 300}
  options |= {"cache": out.parent / "cache"} | changes
  return preparation.Preparation(out, train=str(train), validation=str(validation), **options)


def jsonl(file, texts):
  lines = "".join(json.dumps({"text": text, "meta": {"n": 1}}) + "\n" for text in texts).encode()
  packer = {".zst": zstd.compress, ".gz": gzip.compress}.get(file.suffix, bytes)
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_bytes(packer(lines))
  return file


def books(count, size=3_000):
  rng = np.random.default_rng(count)
  words = "the cat sat on a mat and saw that dog".split()  # noqa: SIM905
  return [f"book {i}: " + " ".join(rng.choice(words, size // 4)) for i in range(count)]


def files(folder):
  """Every file's SHA-256 by its name."""
  return {
    file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
    for file in folder.rglob("*")
    if file.is_file()
  }


@pytest.fixture
def small_units(monkeypatch):
  monkeypatch.setattr(preparation, "UNIT_BYTES", 10_000)
  monkeypatch.setattr(preparation, "SHARD_UNITS", 2)


def test_prepared_tokens_are_those_of_the_text(tmp_path, small_units):
  train = books(40)
  held_out = [train[3], "another book", train[30]]
  for i in range(2):
    jsonl(tmp_path / "train" / f"{i}.jsonl.zst", train[20 * i : 20 * i + 20])
  validation = jsonl(tmp_path / "val.jsonl.gz", held_out)
  work = plan(tmp_path / "out", tmp_path / "train", validation, tokenizer="bpe")
  manifest = local.prepare(work)
  prepared = shards.Prepared(tmp_path / "out")
  kept = [text for text in train if text not in held_out]
  tokenizer = make_tokenizer("bpe", kept, held_out, 300, tmp_path / "cache")
  assert prepared.tokenizer.digest() == tokenizer.digest()
  for name, texts in (("train", kept), ("validation", held_out)):
    there = manifest["splits"][name]
    stream = prepared.split(name)
    np.testing.assert_array_equal(stream[:], tokenizer.encode_documents(texts))
    assert there["tokens"] == len(stream) and there["documents"] == len(texts)
    assert there["text_bytes"] == sum(len(text.encode()) for text in texts)
    assert len(stream.ends()) == len(texts)
    stream.verify()
  assert manifest["splits"]["train"]["duplicates"] == 2
  assert len(manifest["splits"]["train"]["shards"]) > 3
  assert not (tmp_path / "out" / ".progress").exists()


def test_documents_of_the_lowest_digests_are_set_aside(tmp_path, small_units):
  texts = books(200, 400)
  local.prepare(plan(tmp_path / "out", jsonl(tmp_path / "a.jsonl", texts)))
  prepared = shards.Prepared(tmp_path / "out")
  held_out = [text for text in texts if int(splits.sha256(text), 16) / 2**256 < 0.2]
  assert 20 < len(held_out) < 60
  for name, expected in (
    ("validation", held_out),
    ("train", [text for text in texts if text not in held_out]),
  ):
    tokens = prepared.split(name)[:]
    np.testing.assert_array_equal(tokens, prepared.tokenizer.encode_documents(expected))


def test_a_large_vocabulary_takes_four_bytes(tmp_path):
  characters = "".join(chr(i) for i in range(0x4E00, 0x4E00 + 3)) + "".join(
    chr(i) for i in range(0x20000, 0x20000 + 66_000)
  )
  train = jsonl(tmp_path / "a.jsonl", [characters])
  held_out = jsonl(tmp_path / "b.jsonl", [characters[:9]])
  local.prepare(plan(tmp_path / "out", train, held_out, tokenizer="characters"))
  prepared = shards.Prepared(tmp_path / "out")
  assert prepared.tokenizer.decode(prepared.split("train")[:-1]) == characters


def test_what_is_no_document_is_counted_and_listed(tmp_path):
  file = tmp_path / "a.jsonl"
  good = [json.dumps({"text": f"document {i}"}).encode() for i in range(3)]
  bad = [b'{"text": "caf\xe9"}', b'{"text": 3}', b"[1]", b"{", b'{"text": "\\ud800"}']
  empty = [b'{"text": " \\n"}', b""]
  file.write_bytes(b"\n".join([good[0], *bad, good[1], *empty, good[2]]) + b"\n")
  held_out = jsonl(tmp_path / "b.jsonl", ["something else"])
  manifest = local.prepare(plan(tmp_path / "out", file, held_out))
  there = manifest["splits"]["train"]
  assert (there["documents"], there["empty"], there["quarantined"]) == (3, 2, 5)
  lines = [json.loads(x) for x in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
  assert [line["record"] for line in lines] == [2, 3, 4, 5, 6]
  assert all(line["file"] == "a.jsonl" and line["split"] == "train" for line in lines)
  assert "byte 0xe9 at 13" in lines[0]["reason"] and "caf\\xe9" in lines[0]["start"]
  tokens = shards.Prepared(tmp_path / "out").split("train")
  assert len(tokens.ends()) == 3


@pytest.mark.parametrize("name", ["train", "validation"])
def test_a_source_that_yields_nothing_is_an_error(tmp_path, name):
  texts = {"train": ["one"], "validation": ["two"]} | {name: [" ", "\n"]}
  paths = {key: jsonl(tmp_path / f"{key}.jsonl", value) for key, value in texts.items()}
  with pytest.raises(UserError, match=rf"{name}\.jsonl yields no document for {name}: of its"):
    local.prepare(plan(tmp_path / "out", paths["train"], paths["validation"]))
  assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_truncated_source_is_named_and_nothing_taken_for_whole(tmp_path, small_units):
  file = jsonl(tmp_path / "a.jsonl.zst", books(40))
  held_out = jsonl(tmp_path / "b.jsonl", ["something else"])
  whole = file.read_bytes()
  file.write_bytes(whole[:-6])
  with pytest.raises(UserError, match=r"a\.jsonl\.zst cannot be read: Compressed file ended"):
    local.prepare(plan(tmp_path / "out", file, held_out))
  with pytest.raises(UserError, match="not prepared to its end"):
    shards.Prepared(tmp_path / "out")
  file.write_bytes(whole)
  with pytest.raises(UserError, match=r"a preparation of another text: train had .*a\.jsonl\.zst"):
    local.prepare(plan(tmp_path / "out", file, held_out))


def test_a_full_disk_loses_nothing(tmp_path, small_units, monkeypatch):
  train, held_out = jsonl(tmp_path / "a.jsonl", books(60)), jsonl(tmp_path / "b.jsonl", ["else"])
  local.prepare(plan(tmp_path / "straight", train, held_out))
  write, written = shards.write, []

  def fill(path, tokens, ends):
    if len(written) == 3:
      raise OSError(28, "No space left on device")
    written.append(path)
    return write(path, tokens, ends)

  monkeypatch.setattr(shards, "write", fill)
  with pytest.raises(UserError, match=r"the disk is full\. What is prepared stays; run the same"):
    local.prepare(plan(tmp_path / "out", train, held_out))
  monkeypatch.setattr(shards, "write", write)
  written.pop().unlink()  # as if the disk had lost it after all: only this one is made again
  before = {path: path.stat().st_mtime_ns for path in written}
  local.prepare(plan(tmp_path / "out", train, held_out))
  assert all(path.stat().st_mtime_ns == time for path, time in before.items())
  assert files(tmp_path / "out") == files(tmp_path / "straight")


def test_a_folder_of_another_preparation_is_refused(tmp_path):
  train, held_out = jsonl(tmp_path / "a.jsonl", books(2)), jsonl(tmp_path / "b.jsonl", ["else"])
  local.prepare(plan(tmp_path / "out", train, held_out))
  again = plan(tmp_path / "out", train, held_out)
  assert again.finished and local.prepare(again)["splits"]["train"]["documents"] == 2
  with pytest.raises(UserError, match="a preparation of tokenizer='bytes', not 'bpe'"):
    plan(tmp_path / "out", train, held_out, tokenizer="bpe")
  jsonl(tmp_path / "a.jsonl", books(3))
  with pytest.raises(UserError, match="a preparation of another text"):
    plan(tmp_path / "out", train, held_out)


def test_small_files_share_a_shard_and_large_ones_do_not(tmp_path, monkeypatch):
  for i in range(30):
    (tmp_path / "text" / f"{i // 10}").mkdir(parents=True, exist_ok=True)
    (tmp_path / "text" / f"{i // 10}" / f"{i}.txt").write_text(f"document {i} " * 10)
  monkeypatch.setattr(sources, "_PART_BYTES", 700)
  held_out = jsonl(tmp_path / "b.jsonl", ["else"])
  local.prepare(plan(tmp_path / "out", tmp_path / "text", held_out))
  prepared = shards.Prepared(tmp_path / "out")
  assert len(prepared.manifest["splits"]["train"]["shards"]) == 6
  documents = sources.read_documents(str(tmp_path / "text"))
  tokens = prepared.split("train")[:]
  np.testing.assert_array_equal(tokens, prepared.tokenizer.encode_documents(documents))


PROGRAM = """
import sys
from pathlib import Path
from crate_jax.data import local, preparation

if __name__ == "__main__":
  preparation.UNIT_BYTES, preparation.SHARD_UNITS = 10_000, 2
  out, train, validation = map(Path, sys.argv[1:])
  local.prepare(preparation.Preparation(
    out, train=str(train), validation=str(validation), validation_fraction=0.1, tokenizer="bpe",
    bpe_vocab_size=300, cache=out.parent / "cache"))
"""


def test_killed_at_any_moment_it_ends_in_the_same_bytes(tmp_path):
  program = tmp_path / "program.py"
  program.write_text(PROGRAM)
  train, held_out = jsonl(tmp_path / "a.jsonl.zst", books(150)), jsonl(tmp_path / "b.jsonl", ["e"])

  def start(out):
    arguments = [sys.executable, str(program), str(tmp_path / out), str(train), str(held_out)]
    return subprocess.Popen(arguments, stderr=subprocess.DEVNULL)

  assert start("straight").wait(400) == 0
  progress, killed = tmp_path / "out" / ".progress", 0
  for records in (0, 1, 4, 9):
    process = start("out")
    while process.poll() is None and len(list(progress.glob("*-*.json"))) < records:
      time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    killed += process.wait(400) == -signal.SIGKILL
  assert killed >= 3
  assert start("out").wait(400) == 0
  assert files(tmp_path / "out") == files(tmp_path / "straight")


def test_what_a_kill_at_the_very_end_left_is_taken_away(tmp_path):
  train, held_out = jsonl(tmp_path / "a.jsonl", books(2)), jsonl(tmp_path / "b.jsonl", ["else"])
  local.prepare(plan(tmp_path / "out", train, held_out))
  before = files(tmp_path / "out")
  (tmp_path / "out" / ".progress").mkdir()
  (tmp_path / "out" / ".progress" / "train-00000-00000.json").write_text("{}")
  (tmp_path / "out" / "train" / ".00000-00000.safetensors.7.tmp").write_bytes(b"half")
  local.prepare(plan(tmp_path / "out", train, held_out))
  assert files(tmp_path / "out") == before
