"""Where text comes from: files, folders, and the source code of Python's standard library."""

import dataclasses
import gzip
import hashlib
import lzma
import os
import platform
import sysconfig
import zlib
from collections.abc import Iterable
from pathlib import Path

from crate_jax.errors import UserError

PYTHON_STDLIB = "python_stdlib"
SEPARATOR = "<|endoftext|>"

# Tests would be a third of the text and repeat themselves; `encodings` and `pydoc_data` are
# generated tables and prose; the others are not part of every installation.
_STDLIB_EXCLUDED = {"test", "tests", "idle_test", "encodings", "pydoc_data", "__pycache__"}
_STDLIB_EXCLUDED |= {"site-packages", "dist-packages", "idlelib", "turtledemo", "tkinter"}
_STDLIB_EXCLUDED |= {"ensurepip", "lib2to3"}


@dataclasses.dataclass(frozen=True)
class Split:
  """Documents for training and for validation, and how they came to be.

  Attributes:
    train: training documents.
    validation: validation documents.
    whole: True if the documents are whole; False if one document was cut in two, and neither
      part ends where a document ends.
    duplicates: training documents that were dropped because they stand in the validation set.
    description: a word or two for people: which text this is.
  """

  train: list[str]
  validation: list[str]
  whole: bool
  duplicates: int
  description: str


def read_documents(source: str, key: str = "data") -> list[str]:
  """All documents of a source, in a fixed order.

  Args:
    source: "python_stdlib", a text file (plain, .gz or .xz), or a folder of such files, read
      in the order of their names. Documents are separated by a line `<|endoftext|>`; a file
      without one is one document.
    key: the configuration key or flag that named the source, for error messages.

  Raises:
    UserError: the source is missing, empty, damaged, or not UTF-8.
  """
  if source == PYTHON_STDLIB:
    return _python_stdlib()
  path = Path(os.path.expanduser(source))
  if not source or not path.exists():
    raise UserError(f"{key}={source!r}: there is no such file or folder.")
  documents = [text for file in _files(path) for text in _split_documents(_read(file, key))]
  if not documents:
    raise UserError(f"{key}={source!r} is empty: it holds no text.")
  return documents


def read_split(train: str, validation: str, fraction: float) -> Split:
  """Reads the training and the validation documents.

  With a validation source both are read as they are. Without one, whole documents are set
  aside from `train`, in the order of their SHA-256, until they hold `fraction` of its
  characters, passing over one that would make it more than twice that; a source of a single
  document is cut at 1 - fraction of its characters instead.
  A training document that is equal to a validation document is dropped.

  Args:
    train: see `read_documents`.
    validation: likewise, or "" for none.
    fraction: share of the characters to set aside, between 0 and 1.
  """
  if not 0 < fraction < 1:
    raise UserError(f"data.validation_fraction={fraction} is not between 0 and 1.")
  documents, whole = read_documents(train, "data.train"), True
  if validation:
    held_out = read_documents(validation, "data.validation")
  elif len(documents) == 1:
    cut = int(len(documents[0]) * (1 - fraction))
    documents, held_out, whole = [documents[0][:cut]], [documents[0][cut:]], False
  else:
    documents, held_out = _set_aside(documents, fraction)
  known = {_sha256(text) for text in held_out}
  kept = [text for text in documents if _sha256(text) not in known]
  if not kept:
    raise UserError(f"data.train={train!r} holds no document that the validation set lacks.")
  description = train
  if train == PYTHON_STDLIB:
    description = f"the standard library of Python {platform.python_version()}"
  return Split(kept, held_out, whole, len(documents) - len(kept), description)


def digest(documents: Iterable[str]) -> str:
  """SHA-256 of the documents and their boundaries, in their order."""
  total = hashlib.sha256()
  for text in documents:
    total.update(hashlib.sha256(text.encode()).digest())
  return total.hexdigest()


def _set_aside(documents: list[str], fraction: float) -> tuple[list[str], list[str]]:
  """Splits by document: (training, validation), each in the source's order."""
  wanted = fraction * sum(map(len, documents))
  held_out: set[str] = set()
  characters = 0
  for text in sorted(documents, key=_sha256):
    # A document that would take far more than the share stays in training.
    if characters < wanted and characters + len(text) <= 2 * wanted:
      characters += len(text)
      held_out.add(text)
  if not held_out:
    held_out.add(min(documents, key=len))
  train = [text for text in documents if text not in held_out]
  return train, [text for text in documents if text in held_out]


def _sha256(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()


def _files(path: Path) -> list[Path]:
  """The file itself, or every file below the folder that is not hidden, by name."""
  if path.is_file():
    return [path]
  files = [file for file in path.rglob("*") if file.is_file()]
  visible = [f for f in files if not any(p.startswith(".") for p in f.relative_to(path).parts)]
  return sorted(visible, key=lambda file: file.relative_to(path).as_posix())


def _read(file: Path, key: str) -> str:
  try:
    data = file.read_bytes()
    if file.suffix == ".gz":
      data = gzip.decompress(data)
    elif file.suffix == ".xz":
      data = lzma.decompress(data)
    return data.decode("utf-8").replace("\r\n", "\n")
  except UnicodeDecodeError as error:
    raise UserError(
      f"{key}: {file} is not UTF-8 text (byte {error.object[error.start]:#04x} at {error.start})."
    ) from error
  except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
    raise UserError(f"{key}: {file} cannot be read: {error}.") from error


def _split_documents(text: str) -> list[str]:
  """The documents of one file; a separator is a whole line, blank documents are dropped."""
  documents: list[str] = []
  lines: list[str] = []
  for line in text.splitlines(keepends=True) if SEPARATOR in text else [text]:
    if line.strip() == SEPARATOR:
      documents.append("".join(lines))
      lines = []
    else:
      lines.append(line)
  documents.append("".join(lines))
  return [document for document in documents if document.strip()]


def _python_stdlib() -> list[str]:
  """The .py files of the running Python's standard library, by path, without its tests."""
  root = Path(sysconfig.get_paths()["stdlib"])
  documents = []
  for file in sorted(root.rglob("*.py"), key=lambda file: file.relative_to(root).as_posix()):
    parts = file.relative_to(root).parts
    if _STDLIB_EXCLUDED.isdisjoint(parts) and not parts[-1].startswith("_sysconfigdata"):
      try:
        documents.append(file.read_text("utf-8"))
      except UnicodeDecodeError:
        continue  # the few files in another encoding are the same ones on every machine
  return [text for text in documents if text.strip()]
