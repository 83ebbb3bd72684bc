"""Which documents train and which validate, in memory or as they go by; digests of texts."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator

from crate_jax.data import sources
from crate_jax.data.sources import BadRecord, Source
from crate_jax.errors import UserError


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


def read(train: str, validation: str, fraction: float) -> Split:
  """Reads the training and the validation documents.

  With a validation source both are read as they are. Without one, whole documents are set
  aside from `train`, in the order of their SHA-256, until they hold `fraction` of its
  characters, passing over one that would make it more than twice that; a source of a single
  document is cut at 1 - fraction of its characters instead.
  A training document that is equal to a validation document is dropped.

  Args:
    train: see `sources.source`.
    validation: likewise, or "" for none.
    fraction: share of the characters to set aside, between 0 and 1.
  """
  _check(fraction)
  documents, whole = sources.read_documents(train, "data.train"), True
  if validation:
    held_out = sources.read_documents(validation, "data.validation")
  elif len(documents) == 1:
    cut = int(len(documents[0]) * (1 - fraction))
    documents, held_out, whole = [documents[0][:cut]], [documents[0][cut:]], False
  else:
    documents, held_out = _set_aside(documents, fraction)
  known = {sha256(text) for text in held_out}
  kept = [text for text in documents if sha256(text) not in known]
  if not kept:
    raise UserError(f"data.train={train!r} holds no document that the validation set lacks.")
  description = sources.source(train, "data.train").description
  return Split(kept, held_out, whole, len(documents) - len(kept), description)


@dataclasses.dataclass(frozen=True)
class Selection:
  """The documents of a source that belong to a split; iterated over, as often as asked for.

  Attributes:
    split: "train" or "validation".
    source: where they stand.
    low: a document is kept if its SHA-256, as a fraction of 2^256, is at least this,
    high: and less than this;
    exclude: and if its SHA-256 is not among these.
  """

  split: str
  source: Source
  low: float = 0.0
  high: float = 1.0
  exclude: frozenset[str] = frozenset()

  def holds(self, text: str) -> bool:
    """True if a document of the source belongs to the split, excluded or not."""
    if (self.low, self.high) == (0.0, 1.0):
      return True
    return self.low <= int(sha256(text), 16) / 2**256 < self.high

  def excludes(self, text: str) -> bool:
    """True if a document is one of `exclude`."""
    return bool(self.exclude) and sha256(text) in self.exclude

  def __iter__(self) -> Iterator[str]:
    """The documents; records that are none are left out."""
    for part in self.source.parts():
      for record in self.source.records(part):
        with contextlib.suppress(BadRecord):
          text = self.source.text(record)
          if text.strip() and self.holds(text) and not self.excludes(text):
            yield text


def select(train: str, validation: str, fraction: float) -> list[Selection]:
  """The validation documents and those to train on, decided for each document by itself.

  Without a validation source those whose SHA-256 is lowest are set aside, as `read` does; but all
  below a fixed bound, so that `fraction` is only the share to expect. Arguments as in `read`.
  """
  _check(fraction)
  source = sources.source(train, "data.train")
  if validation:
    held_out = sources.source(validation, "data.validation")
    return [Selection("validation", held_out), Selection("train", source)]
  return [
    Selection("validation", source, 0.0, fraction),
    Selection("train", source, fraction, 1.0),
  ]


def without_duplicates(selections: list[Selection]) -> list[Selection]:
  """The same two, without the training documents that stand in the validation set."""
  held_out, train = selections
  return [held_out, dataclasses.replace(train, exclude=frozenset(map(sha256, held_out)))]


def digest(documents: Iterable[str]) -> str:
  """SHA-256 of the documents and their boundaries, in their order."""
  total = hashlib.sha256()
  for text in documents:
    total.update(hashlib.sha256(text.encode()).digest())
  return total.hexdigest()


def _check(fraction: float) -> None:
  if not 0 < fraction < 1:
    raise UserError(f"data.validation_fraction={fraction} is not between 0 and 1.")


def _set_aside(documents: list[str], fraction: float) -> tuple[list[str], list[str]]:
  """Splits by document: (training, validation), each in the source's order."""
  wanted = fraction * sum(map(len, documents))
  held_out: set[str] = set()
  characters = 0
  for text in sorted(documents, key=sha256):
    # A document that would take far more than the share stays in training.
    if characters < wanted and characters + len(text) <= 2 * wanted:
      characters += len(text)
      held_out.add(text)
  if not held_out:
    held_out.add(min(documents, key=len))
  train = [text for text in documents if text not in held_out]
  return train, [text for text in documents if text in held_out]


def sha256(text: str) -> str:
  """SHA-256 of a document, in hexadecimal."""
  return hashlib.sha256(text.encode()).hexdigest()
