import gzip
import json
import lzma
import subprocess
import sys
import tracemalloc

import pytest

from crate_jax.data import sources, splits
from crate_jax.errors import UserError

if sys.version_info >= (3, 14):
  from compression import zstd
else:
  from backports import zstd


def test_documents_are_separated_by_a_line(tmp_path):
  file = tmp_path / "a.txt"
  file.write_text("one\nmore\n<|endoftext|>\ntwo <|endoftext|> inside\n<|endoftext|>\n\n")
  assert sources.read_documents(str(file)) == ["one\nmore\n", "two <|endoftext|> inside\n"]


def test_a_folder_is_read_by_name_plain_gz_and_xz(tmp_path):
  (tmp_path / "sub").mkdir()
  (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"second"))
  (tmp_path / "sub" / "c.txt.xz").write_bytes(lzma.compress("dritte \u00fc".encode()))
  (tmp_path / "a.txt").write_text("first")
  (tmp_path / ".hidden").write_bytes(b"\xff")
  assert sources.read_documents(str(tmp_path)) == ["first", "second", "dritte \u00fc"]


@pytest.mark.parametrize(
  ("name", "data", "sentence"),
  [
    ("empty.txt", b"", "is empty"),
    ("blank.txt", b"\n \n<|endoftext|>\n", "is empty"),
    ("latin.txt", b"caf\xe9", r"latin.txt, document 1, is not UTF-8 text \(byte 0xe9 at 3\)"),
    ("cut.txt.gz", gzip.compress(b"text" * 99, mtime=0)[:20], r"cut.txt.gz cannot be read"),
    ("bad.txt.gz", b"no gzip", r"bad.txt.gz cannot be read"),
    ("bad.txt.xz", b"no xz", r"bad.txt.xz cannot be read"),
    ("cut.txt.zst", zstd.compress(b"text" * 99)[:-3], r"cut.txt.zst cannot be read"),
    ("bad.txt.zst", b"no zst", r"bad.txt.zst cannot be read"),
    ("a.jsonl", b'{"text": "a"}\n{"txt": 1}\n', r'a.jsonl, document 2, .* string "text"'),
    ("b.jsonl", b"[" * 100_000, r"b.jsonl, document 1, is not JSON that can be read"),
  ],
)
def test_a_bad_file_is_named(tmp_path, name, data, sentence):
  (tmp_path / name).write_bytes(data)
  with pytest.raises(UserError, match=sentence):
    sources.read_documents(str(tmp_path / name), "data.train")


def test_json_lines_are_documents(tmp_path):
  lines = [json.dumps({"text": text, "meta": None}) for text in ("one\n", "", "zw\u00f6lf \u2028")]
  frames = [zstd.compress(f"{line}\n".encode()) for line in lines]  # as parallel packers write
  (tmp_path / "a.jsonl.zst").write_bytes(b"".join(frames))
  (tmp_path / "b.jsonl").write_text("\r\n".join(lines))
  expected = ["one\n", "zw\u00f6lf \u2028"]
  assert sources.read_documents(str(tmp_path)) == expected * 2


def test_a_source_is_read_in_constant_memory(tmp_path):
  file = tmp_path / "a.txt"
  file.write_text("word " * 4000 + "\n<|endoftext|>\n")
  there = sources.source(str(file))
  (part,) = there.parts()
  with file.open("a") as more:
    for _ in range(500):
      more.write("word " * 4000 + "\n<|endoftext|>\n")
  tracemalloc.start()
  count = sum(1 for _ in there.records(part))
  assert count == 501 and tracemalloc.get_traced_memory()[1] < 1e6
  tracemalloc.stop()


@pytest.mark.parametrize("name", ["tfds:a:b:c:d", ""])
def test_a_source_that_cannot_be_is_refused(name):
  with pytest.raises(UserError, match=r"is not written tfds:NAME|no such file"):
    sources.source(name)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(UserError, match=r"data\.train='.*nothing\.txt': there is no such file"):
    sources.read_documents(str(tmp_path / "nothing.txt"), "data.train")


def test_whole_documents_are_set_aside(text):
  split = splits.read(str(text), "", 0.2)
  documents = sources.read_documents(str(text))
  assert sorted(split.train + split.validation) == sorted(documents)
  share = sum(map(len, split.validation)) / sum(map(len, documents))
  assert 0.2 <= share < 0.3
  assert split.whole and split.duplicates == 0
  again = splits.read(str(text), "", 0.2)
  assert (again.train, again.validation) == (split.train, split.validation)


def test_a_large_document_is_not_set_aside(tmp_path):
  for note in range(8):  # on either side of the book in the order of digests
    (tmp_path / "book.txt").write_text("a book " * 1000)
    (tmp_path / "note.txt").write_text(f"note {note}")
    split = splits.read(str(tmp_path), "", 0.1)
    assert split.validation == [f"note {note}"] and len(split.train) == 1


def test_a_single_document_is_cut(tmp_path):
  file = tmp_path / "one.txt"
  file.write_text("0123456789" * 10)
  split = splits.read(str(file), "", 0.1)
  assert split.train == ["0123456789" * 9] and split.validation == ["0123456789"]
  assert not split.whole


def test_duplicates_between_the_splits_are_dropped_from_training(tmp_path):
  train, validation = tmp_path / "train", tmp_path / "validation"
  train.write_text("a\n<|endoftext|>\nb\n<|endoftext|>\na\n<|endoftext|>\nc\n")
  validation.write_text("a\n<|endoftext|>\nd\n")
  split = splits.read(str(train), str(validation), 0.1)
  assert split.train == ["b\n", "c\n"] and split.validation == ["a\n", "d\n"]
  assert split.duplicates == 2


def test_copies_within_a_source_stay_on_one_side(tmp_path):
  file = tmp_path / "text"
  file.write_text("\n<|endoftext|>\n".join(f"document {i % 5}" for i in range(40)))
  split = splits.read(str(file), "", 0.2)
  assert split.train and split.validation
  assert not set(split.train) & set(split.validation)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_a_fraction_outside_zero_and_one_is_refused(text, fraction):
  with pytest.raises(UserError, match=r"data\.validation_fraction"):
    splits.read(str(text), "", fraction)


def test_the_standard_library_is_the_same_text_in_another_process():
  documents = sources.read_documents("python_stdlib")
  assert sum(map(len, documents)) > 6e6
  program = (
    "from crate_jax.data import sources, splits;"
    "print(splits.digest(sources.read_documents('python_stdlib')), end='')"
  )
  other = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, timeout=180, check=True
  )
  assert other.stdout == splits.digest(documents)
  assert splits.digest(documents[1:]) != other.stdout


def test_boundaries_of_documents_enter_the_digest():
  assert splits.digest(["ab", "c"]) != splits.digest(["a", "bc"])
