"""Tokens to batches: fixed windows, one shuffled order, this process's rows of every batch.

The order depends on the seed alone: batch s of B windows holds examples [first, first + B) of it,
where `first` windows were read before, whatever the number of processes and the size of the
batches until then. How many examples were read is all that a resumed run needs to know.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np

from crate_jax.data import splits
from crate_jax.data.shards import Prepared, Tokens
from crate_jax.data.tokenizer import Tokenizer, make_tokenizer
from crate_jax.errors import UserError

Streams = Sequence[tuple[Tokens, float]]  # token streams, and how much of a batch each makes up


@dataclasses.dataclass(frozen=True)
class Corpus:
  """A tokenised text.

  Attributes:
    train: training tokens, documents in their order; more than one stream is a mixture.
    validation: likewise.
    tokenizer: what made them.
    facts: what a run records about its text: description, digests, and counts of documents,
      of duplicates dropped, and of tokens.
  """

  train: Streams
  validation: Streams
  tokenizer: Tokenizer
  facts: dict[str, str | int]


def load_corpus(
  *,
  prepared: str,
  train: str,
  validation: str,
  validation_fraction: float,
  tokenizer: str | Tokenizer,
  bpe_vocab_size: int,
  cache: Path,
) -> Corpus:
  """Opens prepared data, or reads, splits and tokenises a text.

  Args:
    prepared: folders that `python -m crate_jax.prepare` made, "FOLDER" or "FOLDER=WEIGHT,..."; ""
      for the text that the others name.
    train: see `splits.read`; also `validation` and `validation_fraction`.
    validation: see above.
    validation_fraction: see above.
    tokenizer: see `make_tokenizer`, or a run's own tokenizer; prepared data has one already.
    bpe_vocab_size: see `make_tokenizer`.
    cache: see `make_tokenizer`.

  Raises:
    UserError: the text is not there, damaged, or not of the run's tokenizer.
  """
  if prepared:
    return _open_prepared(prepared, tokenizer if isinstance(tokenizer, Tokenizer) else None)
  if not train:
    raise UserError(
      "The config names no text: `python -m crate_jax.prepare --config=configs/pile.py "
      "--out=data/pile` prepares the paper's for --config.data.prepared=data/pile, and "
      "--config.data.train=python_stdlib trains on the text of Python's own library instead."
    )
  split = splits.read(train, validation, validation_fraction)
  if isinstance(tokenizer, str):
    tokenizer = make_tokenizer(tokenizer, split.train, split.validation, bpe_vocab_size, cache)
  tokens = tokenizer.encode_documents(split.train, end=split.whole)
  held_out = tokenizer.encode_documents(split.validation, end=split.whole)
  facts: dict[str, str | int] = {
    "text": split.description,
    "train_sha256": splits.digest(split.train),
    "validation_sha256": splits.digest(split.validation),
    "tokenizer_sha256": tokenizer.digest(),
    "train_documents": len(split.train),
    "validation_documents": len(split.validation),
    "duplicates_dropped": split.duplicates,
    "train_tokens": len(tokens),
    "validation_tokens": len(held_out),
  }
  return Corpus([(tokens, 1.0)], [(held_out, 1.0)], tokenizer, facts)


def validation(
  *, prepared: str, train: str, validation: str, validation_fraction: float, tokenizer: Tokenizer
) -> tuple[np.ndarray, str]:
  """All validation tokens of a text, without the others, and the digest of the corpus' facts.

  Arguments and errors as in `load_corpus`.
  """
  if prepared:
    corpus = _open_prepared(prepared, tokenizer)
    return first(corpus.validation), str(corpus.facts["validation_sha256"])
  split = splits.read(train, validation, validation_fraction)
  tokens = tokenizer.encode_documents(split.validation, end=split.whole)
  return tokens, splits.digest(split.validation)


def _open_prepared(names: str, tokenizer: Tokenizer | None) -> Corpus:
  weighted = [_parse_weighted(name) for name in names.split(",")]
  folders = [Prepared(Path(name).expanduser()) for name, _ in weighted]
  tokenizer = tokenizer or folders[0].tokenizer
  for folder in folders:
    if folder.tokenizer.digest() != tokenizer.digest():
      raise UserError(
        f"data.prepared: {folder.folder} was prepared with another tokenizer than "
        f"{folders[0].folder if folder is not folders[0] else 'the one of the run'}."
      )
  total = sum(weight for _, weight in weighted)
  facts: dict[str, str | int] = {"text": names, "tokenizer_sha256": tokenizer.digest()}
  streams: dict[str, Streams] = {}
  for name in ("train", "validation"):
    said = [folder.manifest["splits"][name] for folder in folders]
    streams[name] = [
      (folder.split(name), weight / total)
      for folder, (_, weight) in zip(folders, weighted, strict=True)
    ]
    digests = [there["sha256"] for there in said]
    mixed = f"{digests} {[weight for _, weight in streams[name]]}"
    facts[f"{name}_sha256"] = (
      digests[0] if len(digests) == 1 else hashlib.sha256(mixed.encode()).hexdigest()
    )
    for count in ("documents", "tokens"):
      facts[f"{name}_{count}"] = sum(there[count] for there in said)
    if name == "train":
      facts["duplicates_dropped"] = sum(there["duplicates"] for there in said)
  return Corpus(streams["train"], streams["validation"], tokenizer, facts)


def _parse_weighted(name: str) -> tuple[str, float]:
  """FOLDER and its weight from "FOLDER" or "FOLDER=WEIGHT"."""
  folder, equals, weight = name.strip().rpartition("=")
  if not equals:
    return weight, 1.0
  try:
    value = float(weight)
  except ValueError:
    value = 0.0
  if not 0 < value < float("inf"):
    raise UserError(f"data.prepared: {weight!r} in {name.strip()!r} is not a positive weight.")
  return folder, value


def first(streams: Streams, count: int | None = None) -> np.ndarray:
  """The first tokens of every stream, `count` in all, of each in proportion to its weight.

  Fewer where a stream holds fewer; all of them if `count` is None.
  """
  if count is None:
    return np.concatenate([tokens[:] for tokens, _ in streams])
  ends = np.rint(np.cumsum([weight for _, weight in streams]) * count).astype(int)
  starts = np.concatenate([[0], ends[:-1]])
  pieces = zip(streams, ends - starts, strict=True)
  return np.concatenate([tokens[: int(size)] for (tokens, _), size in pieces])


def batch_hash(tokens_BT1: Any, first_row: int = 0) -> tuple[Any, Any]:
  """Two uint32 that tell batches apart: by their tokens, and by the place of each.

  They are sums over tokens of a mixed (murmur3's finaliser) place and id, modulo 2^32, so that the
  hash of a batch is the sum of those of its slices, and the same on any number of devices.

  Args:
    tokens_BT1: windows, a NumPy or a JAX array.
    first_row: row of the global batch that the first of them is.
  """

  def mix(x: Any) -> Any:
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)

  rows, columns = tokens_BT1.shape
  row_B1 = (np.arange(rows, dtype=np.uint32) + np.uint32(first_row))[:, None]
  place_BT1 = row_B1 * np.uint32(columns) + np.arange(columns, dtype=np.uint32)
  tokens_BT1 = tokens_BT1.astype(np.uint32)
  one, two = (
    mix(tokens_BT1 + mix(place_BT1 + np.uint32(salt))).sum(dtype=np.uint32)
    for salt in (0x9E3779B9, 0x7F4A7C15)
  )
  return one, two


def hexadecimal(batch_hash: Sequence[int]) -> str:
  """The two numbers of a batch's hash as 16 digits."""
  return "".join(f"{int(number):08x}" for number in batch_hash)


class Windows:
  """Random access to the windows of a token array: window i is [i T, (i + 1) T], T + 1 tokens.

  Neighbours share one token, which is the last target of one and the first input of the next.
  Up to T - 1 tokens at the end that fill no window are left out.
  """

  def __init__(self, tokens: Tokens, context: int) -> None:
    self._tokens, self._context = tokens, context

  def __len__(self) -> int:
    return max(0, (len(self._tokens) - 1) // self._context)

  def __getitem__(self, i: int) -> np.ndarray:
    return self._tokens[i * self._context : (i + 1) * self._context + 1]


def batches(
  streams: Streams,
  *,
  context: int,
  batch_size: int,
  seed: int,
  examples: int = 0,
  rows: Sequence[int] | None = None,
) -> Iterator[np.ndarray]:
  """Endless batches of windows, every window of a stream once in its epoch, reshuffled between.

  Args:
    streams: the training tokens.
    context: T; a window holds T + 1 tokens.
    batch_size: windows in a global batch.
    seed: of the order.
    examples: how many of the order were read before.
    rows: of every global batch to yield, those of this process; None for all.

  Yields:
    int32 arrays of shape (len(rows), T + 1).

  Raises:
    UserError: a stream is shorter than one window.
  """
  wanted = [int(row) for row in (range(batch_size) if rows is None else rows)]
  order = _order(streams, context, seed)

  def slice_of_batch(number: int) -> np.ndarray:
    first = examples + number * batch_size
    return np.stack([order[first + row] for row in wanted])

  numbers = grain.MapDataset.range(0, (np.iinfo(np.int64).max - examples) // batch_size)
  options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)
  return iter(numbers.map(slice_of_batch).to_iter_dataset(options))


def _order(streams: Streams, context: int, seed: int) -> grain.MapDataset:
  """The endless order of examples: each stream shuffled by itself, then mixed by weight."""
  shuffled = []
  for i, (tokens, _) in enumerate(streams):
    windows = Windows(tokens, context)
    if not len(windows):
      raise UserError(
        f"The training text has {len(tokens)} tokens, fewer than one window of "
        f"model.context + 1 = {context + 1}."
      )
    shuffled.append(grain.MapDataset.source(windows).shuffle(seed=seed + i).repeat())
  if len(shuffled) == 1:
    return shuffled[0]
  return grain.MapDataset.mix(shuffled, [weight for _, weight in streams])
