"""Characters, bytes, and byte-level BPE, all as Hugging Face `tokenizers` in one file format."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from crate_jax.data import sources
from crate_jax.errors import UserError

KINDS = ("characters", "bytes", "bpe")
END_OF_TEXT = sources.SEPARATOR
_ENCODE_CHARACTERS = 1 << 22  # at a time: bounds the memory that encodings take


class Tokenizer:
  """Text to token ids and back. The end-of-text token ends a document; text never yields it."""

  def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
    # Text that spells the end-of-text token out is text: only `encode_documents` ends one.
    tokenizer.encode_special_tokens = True
    self._tokenizer = tokenizer
    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    if end_of_text is None:
      raise UserError(f"The tokenizer has no {END_OF_TEXT} token.")
    self.end_of_text: int = end_of_text
    self.vocab_size: int = tokenizer.get_vocab_size()

  def encode(self, text: str) -> np.ndarray:
    """Token ids of a text, int32, without an end-of-text token.

    Raises:
      UserError: a character-level vocabulary lacks one of the characters.
    """
    try:
      return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)
    except Exception as error:  # the library raises bare Exception
      known = self._tokenizer.get_vocab()
      missing = sorted(set(text) - set(known))
      raise UserError(
        f"The tokenizer has no token for the character {missing[0]!r}." if missing else str(error)
      ) from error

  def encode_documents(self, documents: Sequence[str], *, end: bool = True) -> np.ndarray:
    """Token ids of all documents, int32, each followed by end-of-text if `end`."""
    parts: list[np.ndarray] = []
    ending = np.array([self.end_of_text] if end else [], np.int32)
    for batch in _in_batches(documents):
      try:
        encodings = self._tokenizer.encode_batch_fast(batch, add_special_tokens=False)
        ids = [np.array(encoding.ids, np.int32) for encoding in encodings]
      except Exception:  # find the document at fault and say what is wrong with it
        ids = [self.encode(text) for text in batch]
      for part in ids:
        parts += [part, ending]
    return np.concatenate(parts)

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    """Text of token ids; end-of-text is written out, broken UTF-8 becomes U+FFFD."""
    return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

  def byte_lengths(self) -> np.ndarray:
    """UTF-8 bytes that each token stands for, shape (vocab_size,); end-of-text stands for 0."""
    by_id = {i: token for token, i in self._tokenizer.get_vocab().items()}
    if isinstance(self._tokenizer.decoder, decoders.ByteLevel):
      lengths = [len(by_id[i]) for i in range(self.vocab_size)]  # one character a byte
    else:
      lengths = [len(by_id[i].encode()) for i in range(self.vocab_size)]
    lengths[self.end_of_text] = 0
    return np.array(lengths, np.int64)

  def digest(self) -> str:
    """SHA-256 of the tokenizer's file."""
    return hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()

  def save(self, path: Path) -> None:
    """Writes tokenizer.json at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(self._tokenizer.to_str(), "utf-8")
    os.replace(temporary, path)

  @classmethod
  def load(cls, path: Path) -> "Tokenizer":
    """Reads a tokenizer.json.

    Raises:
      UserError: there is none, or it is not a tokenizer.
    """
    try:
      return cls(tokenizers.Tokenizer.from_str(path.read_text("utf-8")))
    except FileNotFoundError as error:
      raise UserError(f"{path} is missing: a run keeps its tokenizer there.") from error
    except Exception as error:  # the library raises bare Exception
      raise UserError(f"{path} is not a tokenizer file: {error}.") from error


def make_tokenizer(
  kind: str, documents: Sequence[str], validation: Sequence[str], vocab_size: int, cache: Path
) -> Tokenizer:
  """The tokenizer of a kind for some text.

  Args:
    kind: "characters" (those that stand in the training or validation documents), "bytes"
      (256 and end-of-text), or "bpe" (byte-level, trained on the training documents).
    documents: training documents.
    validation: validation documents; only "characters" looks at them.
    vocab_size: tokens of a "bpe" vocabulary, end-of-text among them.
    cache: folder that keeps trained vocabularies, by digest of the text and size.
  """
  if kind == "characters":
    return _characters(documents, validation)
  if kind == "bytes":
    return _byte_level({})
  if kind != "bpe":
    raise UserError(f"data.tokenizer={kind!r} is not one of: {', '.join(KINDS)}.")
  if vocab_size < 257:
    raise UserError(f"data.bpe_vocab_size={vocab_size} must be at least 257: bytes, end-of-text.")
  name = hashlib.sha256(
    f"{sources.digest(documents)} {vocab_size} {tokenizers.__version__}".encode()
  ).hexdigest()[:16]
  path = cache / f"bpe-{vocab_size}-{name}.json"
  if not path.exists():
    _train_bpe(documents, vocab_size).save(path)
  return Tokenizer.load(path)


def _characters(documents: Sequence[str], validation: Sequence[str]) -> Tokenizer:
  characters = sorted(set().union(*map(set, documents), *map(set, validation)))
  vocabulary = {character: i for i, character in enumerate([*characters, END_OF_TEXT])}
  tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary))
  tokenizer.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
  tokenizer.decoder = decoders.Fuse()
  tokenizer.add_special_tokens([END_OF_TEXT])
  return Tokenizer(tokenizer)


def _byte_level(vocabulary: dict[str, int]) -> Tokenizer:
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  vocabulary = vocabulary or {byte: i for i, byte in enumerate([*alphabet, END_OF_TEXT])}
  tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, []))
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.add_special_tokens([END_OF_TEXT])
  return Tokenizer(tokenizer)


def _train_bpe(documents: Sequence[str], vocab_size: int) -> Tokenizer:
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size,
    special_tokens=[END_OF_TEXT],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator(documents, trainer)
  return Tokenizer(tokenizer)


def _in_batches(documents: Sequence[str]) -> Iterator[list[str]]:
  """Consecutive documents, about `_ENCODE_CHARACTERS` at a time."""
  batch: list[str] = []
  characters = 0
  for text in documents:
    batch.append(text)
    characters += len(text)
    if characters >= _ENCODE_CHARACTERS:
      yield batch
      batch, characters = [], 0
  if batch:
    yield batch
