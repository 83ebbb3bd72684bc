"""Windows of a held-out text, in three sets that share no work."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from crate_jax.data import splits
from crate_jax.data.tokenizer import Tokenizer
from crate_jax.errors import UserError

# What rules are made from, what is chosen between them on, and what they are scored on; and the
# share of the windows that each gets.
SETS = {"explain": 0.5, "calibrate": 0.1, "score": 0.4}
BLOCK = 8192  # bytes of a work, of which one window is taken: excerpts are not each other's echo
FEWEST_WORKS = 8


@dataclasses.dataclass(frozen=True)
class Excerpts:
  """Windows of a text; every set's stand in random order, so that its first are a sample.

  Attributes:
    tokens_NT: token ids of the windows.
    work_N: which work each is of, as an index into `works`.
    set_N: which of `SETS` its work belongs to, as an index.
    works: SHA-256 of each work.
    short: works left out because they are shorter than a window.
  """

  tokens_NT: np.ndarray
  work_N: np.ndarray
  set_N: np.ndarray
  works: tuple[str, ...]
  short: int

  def of(self, name: str) -> "Excerpts":
    """The windows of one set, whose works are numbered as before."""
    chosen_N = self.set_N == list(SETS).index(name)
    return dataclasses.replace(
      self,
      tokens_NT=self.tokens_NT[chosen_N],
      work_N=self.work_N[chosen_N],
      set_N=self.set_N[chosen_N],
    )

  def first(self, count: int) -> "Excerpts":
    """The first windows."""
    return dataclasses.replace(
      self,
      tokens_NT=self.tokens_NT[:count],
      work_N=self.work_N[:count],
      set_N=self.set_N[:count],
    )

  def digest(self) -> str:
    """SHA-256 of the windows and of which work and set each belongs to."""
    total = hashlib.sha256(np.ascontiguousarray(self.tokens_NT, np.int32).tobytes())
    total.update(np.ascontiguousarray(self.set_N, np.int32).tobytes())
    total.update("".join(self.works[i] for i in self.work_N).encode())
    return total.hexdigest()


def excerpts(
  tokens: np.ndarray, tokenizer: Tokenizer, length: int, seed: int, most: int, name: str
) -> Excerpts:
  """Takes one window of every block of every work, at random, and divides the works into `SETS`.

  A work is a document. Its text and length decide which set it goes to, not its tokens, so that
  models with different tokenizers are scored on the same works.

  Args:
    tokens: token ids of the text, each document followed by end-of-text.
    tokenizer: theirs.
    length: tokens of a window, T; it never crosses the end of a work.
    seed: of where in a block a window starts, and of the order of the windows.
    most: windows to keep, the first in that order.
    name: of the text, for errors.

  Raises:
    UserError: there are too few works to divide.
  """
  sizes = tokenizer.byte_lengths()
  documents = _documents(tokens, tokenizer.end_of_text)
  long = [ids for ids in documents if len(ids) >= length]
  works = [splits.sha256(tokenizer.decode(ids)) for ids in long]
  unique = dict(zip(works, long, strict=True))
  if len(unique) < FEWEST_WORKS:
    raise UserError(
      f"{name} holds {len(unique)} documents of at least {length} tokens, and neurons are "
      f"explained and scored on different ones: name a text of at least {FEWEST_WORKS} with --data."
    )
  windows, work_N = [], []
  for number, (work, ids) in enumerate(unique.items()):
    for start in _starts(ids, sizes, length, np.random.default_rng([seed, int(work[:12], 16)])):
      windows.append(ids[start : start + length])
      work_N.append(number)
  set_W = _sets(list(unique), np.array([sizes[ids].sum() for ids in unique.values()]))
  order_N = np.random.default_rng([seed, len(windows)]).permutation(len(windows))[:most]
  chosen = np.array(work_N)[order_N]
  found = Excerpts(
    np.array(windows, np.int32)[order_N],
    chosen,
    set_W[chosen],
    tuple(unique),
    len(documents) - len(long),
  )
  for part in SETS:
    if not len(found.of(part).work_N):
      raise UserError(
        f"{name}: of {most} windows none is left to {part}; allow more with --tokens."
      )
  return found


def _documents(tokens: np.ndarray, end: int) -> list[np.ndarray]:
  parts = np.split(tokens, np.flatnonzero(tokens == end) + 1)
  return [ids for part in parts if len(ids := part[part != end])]


def _starts(
  ids: np.ndarray, sizes: np.ndarray, length: int, rng: np.random.Generator
) -> Sequence[int]:
  """Where a window of each block starts: anywhere in the block that leaves the window its room."""
  last = len(ids) - length
  block_T = (np.cumsum(sizes[ids]) - sizes[ids])[: last + 1] // BLOCK
  first_B = np.flatnonzero(np.diff(block_T, prepend=-1))
  room_B = np.diff(first_B, append=last + 1)
  starts = (first_B + rng.integers(room_B)).tolist()
  # Two neighbours may overlap where one starts late in its block and the other early.
  kept = starts[:1]
  for start in starts[1:]:
    if start >= kept[-1] + length:
      kept.append(start)
  return kept


def _sets(works: Sequence[str], size_W: np.ndarray) -> np.ndarray:
  """Which set each work goes to: in the order of their digests, to the set that lacks most."""
  set_W = np.zeros(len(works), np.int64)
  share = np.array(list(SETS.values()))
  filled = np.zeros(len(SETS))
  for work in np.argsort(np.array(works)):
    set_W[work] = np.argmax(share * (filled.sum() + size_W[work]) - filled)
    filled[set_W[work]] += size_W[work]
  return set_W
