"""Where text comes from: files and folders, TensorFlow Datasets, Python's standard library.

A source is a list of parts, each of which is read from its start, record by record, in constant
memory; a record is the bytes of one document.
"""

import dataclasses
import gzip
import json
import lzma
import os
import platform
import re
import sys
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from crate_jax.errors import UserError

if sys.version_info >= (3, 14):
  from compression import zstd
else:
  from backports import zstd

PYTHON_STDLIB = "python_stdlib"
TFDS = "tfds:"
SEPARATOR = "<|endoftext|>"

# Tests would be a third of the text and repeat themselves; `encodings` and `pydoc_data` are
# generated tables and prose; the others are not part of every installation.
_STDLIB_EXCLUDED = {"test", "tests", "idle_test", "encodings", "pydoc_data", "__pycache__"}
_STDLIB_EXCLUDED |= {"site-packages", "dist-packages", "idlelib", "turtledemo", "tkinter"}
_STDLIB_EXCLUDED |= {"ensurepip", "lib2to3"}

_PART_BYTES = 1 << 26  # of small files together
_PART = 100_000  # examples of a TensorFlow dataset


class Part(NamedTuple):
  """A piece of a source that is read on its own.

  Attributes:
    pieces: what it consists of: neighbouring files, or a range of examples.
    size: what its records' `done` ends at: bytes on disk, or examples.
  """

  pieces: tuple[str, ...]
  size: int


class Record(NamedTuple):
  """The bytes of a document.

  Attributes:
    data: as they stand in the source.
    piece: the one that holds it.
    number: of the record in its piece, from 1; the line of a JSON lines file.
    done: how much of the part lies behind it.
  """

  data: bytes
  piece: str
  number: int
  done: int


class BadRecord(Exception):
  """A record that is no document; says why."""


class Source(Protocol):
  """Documents in a fixed order."""

  @property
  def description(self) -> str:
    """For people: which text it is."""

  def parts(self) -> list[Part]:
    """What there is to read, in order."""

  def records(self, part: Part) -> Iterator[Record]:
    """The records of a part, in order.

    Raises:
      UserError: it cannot be read to its end.
    """

  def text(self, record: Record) -> str:
    """The document that a record holds; blank if it holds none.

    Raises:
      BadRecord: it is not UTF-8, or not what its file should hold.
    """


def source(name: str, key: str = "data") -> Source:
  """The source that a string names.

  Args:
    name: "python_stdlib"; "tfds:NAME[:SPLIT[:FEATURE]]", a dataset that TensorFlow Datasets has
      prepared on this machine as array_record or parquet (split "train" and feature "text" by
      default); a file; or a folder, whose files are read in the order of their names. Files
      may be packed as .gz, .xz or .zst. In one that is called .jsonl each line is an object whose
      "text" is a document; in any other, documents are separated by a line `<|endoftext|>`, and a
      file without one is one document.
    key: the configuration key or flag that named the source, for error messages.

  Raises:
    UserError: there is no such source.
  """
  if name == PYTHON_STDLIB:
    return PythonLibrary()
  if name.startswith(TFDS):
    # Not at a colon within brackets, as in "train[:99%]".
    dataset, *given = re.split(r":(?![^\[]*\])", name.removeprefix(TFDS))
    if len(given) > 2:
      raise UserError(f"{key}={name!r} is not written {TFDS}NAME[:SPLIT[:FEATURE]].")
    split, feature = [*given, "", ""][:2]
    return TensorFlowDataset(dataset, split or "train", feature or "text", key)
  path = Path(os.path.expanduser(name))
  if not name or not path.exists():
    raise UserError(f"{key}={name!r}: there is no such file or folder.")
  return Files(path, key, name)


def read_documents(name: str, key: str = "data") -> list[str]:
  """All documents of a source at once; see `iterate`.

  Raises:
    UserError: the source is missing, empty or damaged, or a document is.
  """
  documents = list(iterate(name, key))
  if not documents:
    raise UserError(f"{key}={name!r} is empty: it holds no text.")
  return documents


def iterate(name: str, key: str = "data") -> Iterator[str]:
  """The documents of a source, in its order; blank ones are left out.

  Raises:
    UserError: the source is missing or damaged, or a document is.
  """
  there = source(name, key)
  for part in there.parts():
    for record in there.records(part):
      try:
        text = there.text(record)
      except BadRecord as error:
        raise UserError(f"{key}: {record.piece}, document {record.number}, {error}.") from error
      if text.strip():
        yield text


@dataclasses.dataclass(frozen=True)
class Files:
  """A text or JSON lines file, or all such files of a folder that are not hidden, by name."""

  path: Path
  key: str
  description: str

  def parts(self) -> list[Part]:
    """The files, small neighbours together."""
    if self.path.is_file():
      return [Part((self.path.name,), self.path.stat().st_size)]
    files = [(file.relative_to(self.path), file) for file in self.path.rglob("*")]
    visible = [
      (name.as_posix(), file.stat().st_size)
      for name, file in files
      if file.is_file() and not any(piece.startswith(".") for piece in name.parts)
    ]
    parts: list[Part] = []
    for name, size in sorted(visible):
      if parts and parts[-1].size + size <= _PART_BYTES:
        parts[-1] = Part((*parts[-1].pieces, name), parts[-1].size + size)
      else:
        parts.append(Part((name,), size))
    return parts

  def records(self, part: Part) -> Iterator[Record]:
    """The lines of a JSON lines file, the separated documents of any other."""
    before = 0
    for piece in part.pieces:
      file = self.path if self.path.is_file() else self.path / piece
      split = _lines if _is_jsonl(piece) else _documents
      try:
        with file.open("rb") as packed, _unpacked(packed, file.suffix) as stream:
          for number, data in enumerate(split(stream), 1):
            yield Record(data, piece, number, before + packed.tell())
          before += packed.tell()
      except (OSError, EOFError, lzma.LZMAError, zlib.error, zstd.ZstdError) as error:
        raise UserError(f"{self.key}: {file} cannot be read: {error}.") from error

  def text(self, record: Record) -> str:
    """The "text" of a JSON object, or the record itself."""
    if not _is_jsonl(record.piece):
      return _decoded(record.data).replace("\r\n", "\n")
    if not record.data.strip():
      return ""
    try:
      value = json.loads(_decoded(record.data))
    except ValueError as error:
      raise BadRecord(f"is not JSON: {error}") from error
    except RecursionError as error:
      raise BadRecord("is not JSON that can be read: it is nested too deeply") from error
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
      raise BadRecord('is not an object with a string "text"')
    text = value["text"]
    try:
      text.encode()
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair
      raise BadRecord(f"holds no text that UTF-8 can write: {error.reason}") from error
    return text


@dataclasses.dataclass(frozen=True)
class TensorFlowDataset:
  """A dataset that TensorFlow Datasets has prepared, read without TensorFlow."""

  name: str
  split: str
  feature: str
  key: str

  @property
  def description(self) -> str:
    """As it is written in a config."""
    return f"{TFDS}{self.name}:{self.split}:{self.feature}"

  def parts(self) -> list[Part]:
    """Ranges of examples."""
    count = len(self._open())
    starts = range(0, count, _PART)
    lasts = (min(first + _PART, count) for first in starts)
    return [Part((f"{a}:{b}",), b - a) for a, b in zip(starts, lasts, strict=True)]

  def records(self, part: Part) -> Iterator[Record]:
    """The feature of each example."""
    first, last = map(int, part.pieces[0].split(":"))
    examples = self._open()
    for i in range(first, last):
      try:
        value = examples[i][self.feature]
      except KeyError as error:
        known = ", ".join(examples.dataset_info.features or ())
        raise UserError(
          f"{self.key}={self.description!r}: the dataset has no feature {self.feature!r}; it has "
          f"{known}."
        ) from error
      except Exception as error:  # whatever its readers raise
        raise UserError(
          f"{self.key}={self.description!r} cannot be read at example {i}: {error}."
        ) from error
      data = value.encode() if isinstance(value, str) else bytes(value)
      yield Record(data, part.pieces[0], i + 1 - first, i + 1 - first)

  def text(self, record: Record) -> str:
    """The feature as text."""
    return _decoded(record.data)

  def _open(self) -> Any:
    try:
      import tensorflow_datasets as tfds
    except ImportError as error:
      raise UserError(
        f"{self.key}={self.description!r} needs TensorFlow Datasets: run "
        "EXTRAS=tfds launch/local.sh, or pip install 'crate_jax[tfds]'."
      ) from error
    try:
      return tfds.data_source(self.name, split=self.split, download=False)
    except Exception as error:  # it raises of every kind
      reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
      raise UserError(
        f"{self.key}={self.description!r} cannot be opened in {tfds.core.constants.DATA_DIR} "
        f"(TFDS_DATA_DIR names another folder): {reason.rstrip('.')}."
      ) from error


@dataclasses.dataclass(frozen=True)
class PythonLibrary:
  """The .py files of the running Python's standard library, by path, without its tests."""

  @property
  def description(self) -> str:
    """Which library."""
    return f"the standard library of Python {platform.python_version()}"

  def parts(self) -> list[Part]:
    """All of it in one."""
    return [Part((PYTHON_STDLIB,), len(self._files()))]

  def records(self, part: Part) -> Iterator[Record]:
    """A file each."""
    for done, file in enumerate(self._files(), 1):
      data = file.read_bytes()
      try:
        data.decode()
      except UnicodeDecodeError:
        continue  # the few files in another encoding are the same ones on every machine
      yield Record(data, PYTHON_STDLIB, done, done)

  def text(self, record: Record) -> str:
    """The file's text, its line ends as Python reads them."""
    return _decoded(record.data).replace("\r\n", "\n").replace("\r", "\n")

  def _files(self) -> list[Path]:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [(file.relative_to(root), file) for file in root.rglob("*.py")]
    return [
      file
      for name, file in sorted(files, key=lambda pair: pair[0].as_posix())
      if _STDLIB_EXCLUDED.isdisjoint(name.parts) and not name.name.startswith("_sysconfigdata")
    ]


def _unpacked(file: BinaryIO, suffix: str) -> Any:
  """The stream that a packed file holds, or the file itself."""
  if suffix == ".gz":
    return gzip.open(file)
  if suffix == ".xz":
    return lzma.open(file)
  if suffix == ".zst":
    return zstd.open(file)
  return file


def _is_jsonl(piece: str) -> bool:
  return piece.removesuffix(".gz").removesuffix(".xz").removesuffix(".zst").endswith(".jsonl")


def _lines(stream: BinaryIO) -> Iterator[bytes]:
  for line in stream:
    yield line.rstrip(b"\r\n")


def _documents(stream: BinaryIO) -> Iterator[bytes]:
  """What lies between separators, each of which is a whole line."""
  separator = SEPARATOR.encode()
  lines: list[bytes] = []
  for line in stream:
    if separator in line and line.strip() == separator:
      yield b"".join(lines)
      lines = []
    else:
      lines.append(line)
  if lines:
    yield b"".join(lines)


def _decoded(data: bytes) -> str:
  try:
    return data.decode()
  except UnicodeDecodeError as error:
    raise BadRecord(
      f"is not UTF-8 text (byte {data[error.start]:#04x} at {error.start})"
    ) from error
