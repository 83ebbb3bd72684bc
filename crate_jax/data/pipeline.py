"""Tokens to batches: fixed windows, one shuffled order, this process's slice of every batch.

The order depends on the seed alone. Global batch s holds examples [s B, (s + 1) B) of it,
whatever the number of processes, so the step is all that a resumed run needs to know.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import grain
import numpy as np

from crate_jax.data import sources
from crate_jax.data.tokenizer import Tokenizer, make_tokenizer
from crate_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Corpus:
  """A tokenised text.

  Attributes:
    train: token ids of the training documents in their order, int32.
    validation: likewise.
    tokenizer: what made them.
    facts: what a run records about its text: description, digests, and counts of documents,
      of duplicates dropped, and of tokens.
  """

  train: np.ndarray
  validation: np.ndarray
  tokenizer: Tokenizer
  facts: dict[str, str | int]


def load_corpus(
  *,
  train: str,
  validation: str,
  validation_fraction: float,
  tokenizer: str | Tokenizer,
  bpe_vocab_size: int,
  cache: Path,
) -> Corpus:
  """Reads, splits and tokenises a text.

  Args:
    train: see `sources.read_split`; also `validation` and `validation_fraction`.
    validation: see above.
    validation_fraction: see above.
    tokenizer: a kind of `tokenizer.KINDS`, or a run's own tokenizer.
    bpe_vocab_size: see `make_tokenizer`.
    cache: see `make_tokenizer`.
  """
  split = sources.read_split(train, validation, validation_fraction)
  if isinstance(tokenizer, str):
    tokenizer = make_tokenizer(tokenizer, split.train, split.validation, bpe_vocab_size, cache)
  tokens = tokenizer.encode_documents(split.train, end=split.whole)
  held_out = tokenizer.encode_documents(split.validation, end=split.whole)
  facts: dict[str, str | int] = {
    "text": split.description,
    "train_sha256": sources.digest(split.train),
    "validation_sha256": sources.digest(split.validation),
    "tokenizer_sha256": tokenizer.digest(),
    "train_documents": len(split.train),
    "validation_documents": len(split.validation),
    "duplicates_dropped": split.duplicates,
    "train_tokens": len(tokens),
    "validation_tokens": len(held_out),
  }
  return Corpus(tokens, held_out, tokenizer, facts)


class Windows:
  """Random access to the windows of a token array: window i is [i T, (i + 1) T], T + 1 tokens.

  Neighbours share one token, which is the last target of one and the first input of the next.
  Up to T - 1 tokens at the end that fill no window are left out.
  """

  def __init__(self, tokens: np.ndarray, context: int) -> None:
    self._tokens, self._context = tokens, context

  def __len__(self) -> int:
    return max(0, (len(self._tokens) - 1) // self._context)

  def __getitem__(self, i: int) -> np.ndarray:
    return self._tokens[i * self._context : (i + 1) * self._context + 1]


def batches(
  tokens: np.ndarray,
  *,
  context: int,
  batch_size: int,
  seed: int,
  start: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[np.ndarray]:
  """Endless batches of windows, every window once an epoch, reshuffled between epochs.

  Args:
    tokens: the training tokens.
    context: T; a window holds T + 1 tokens.
    batch_size: windows in a global batch.
    seed: of the order.
    start: number of the first global batch; a run resumed at step s starts at s.
    process_index: which slice of every global batch to yield.
    process_count: number of slices; divides `batch_size`.

  Yields:
    int32 arrays of shape (batch_size / process_count, T + 1).

  Raises:
    UserError: the text is shorter than one window, or the slices are not equal.
  """
  windows = Windows(tokens, context)
  if not len(windows):
    raise UserError(
      f"data.train has {len(tokens)} tokens, fewer than one window of "
      f"model.context + 1 = {context + 1}."
    )
  if batch_size % process_count:
    raise UserError(
      f"train.batch_size={batch_size} is not a multiple of the {process_count} processes."
    )
  size = batch_size // process_count
  order = grain.MapDataset.source(windows).shuffle(seed=seed).repeat()

  def slice_of_batch(step: int) -> np.ndarray:
    first = step * batch_size + process_index * size
    return np.stack([order[first + i] for i in range(size)])

  steps = grain.MapDataset.range(start, np.iinfo(np.int64).max // batch_size)
  options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)
  return iter(steps.map(slice_of_batch).to_iter_dataset(options))
