"""Characters, bytes, BPE, and any tokenizer.json, all as Hugging Face `tokenizers`."""

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from crate_jax.data import atomic, sources, splits
from crate_jax.errors import UserError

KINDS = ("characters", "bytes", "bpe")
END_OF_TEXT = sources.SEPARATOR
# What other vocabularies call it, the likeliest first.
_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[SEP]")
_ENCODE_CHARACTERS = 1 << 20  # at a time: bounds the memory that encodings take
_TRAIN_CHARACTERS = 1 << 30  # of the training text, the first, from which a BPE is trained


class Tokenizer:
  """Text to token ids and back. The end-of-text token ends a document; text never yields it.

  Attributes:
    end_of_text: id of the token that ends a document.
    vocab_size: one more than the largest id.
  """

  def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
    # Text that spells the end-of-text token out is text: only `encode_documents` ends one.
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    self._tokenizer = tokenizer
    vocabulary = tokenizer.get_vocab()
    end = next((token for token in _ENDS if token in vocabulary), None)
    if end is None:
      raise UserError(f"The tokenizer has no token that ends a text: none of {', '.join(_ENDS)}.")
    self.end_of_text: int = vocabulary[end]
    self.vocab_size: int = max(vocabulary.values()) + 1  # ids may have gaps

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
    ending = np.array([self.end_of_text] if end else [], np.int32)
    return np.concatenate([part for ids in self.encode_each(documents) for part in (ids, ending)])

  def encode_each(self, documents: Iterable[str]) -> Iterator[np.ndarray]:
    """Token ids of each document, as `encode` gives them; several are encoded at a time."""
    for batch in _in_batches(documents):
      try:
        encodings = self._tokenizer.encode_batch_fast(batch, add_special_tokens=False)
      except Exception:  # find the document at fault and say what is wrong with it
        yield from (self.encode(text) for text in batch)
        continue
      yield from (np.array(encoding.ids, np.int32) for encoding in encodings)

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    """Text of token ids; end-of-text is written out, broken UTF-8 becomes U+FFFD."""
    return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

  def byte_lengths(self) -> np.ndarray:
    """UTF-8 bytes that each token stands for, shape (vocab_size,); end-of-text stands for 0."""
    lengths = np.zeros(self.vocab_size, np.int64)
    decoder = self._tokenizer.decoder
    byte_level, as_is = isinstance(decoder, decoders.ByteLevel), isinstance(decoder, decoders.Fuse)
    for token, i in self._tokenizer.get_vocab().items():
      if byte_level:
        lengths[i] = len(token)  # one character a byte
      elif as_is:
        lengths[i] = len(token.encode())
      elif re.fullmatch("<0x[0-9A-F]{2}>", token):  # SentencePiece's name of a byte
        lengths[i] = 1
      else:
        lengths[i] = len(token.replace("\u2581", " ").encode())  # its name of a space
    lengths[self.end_of_text] = 0
    return lengths

  def digest(self) -> str:
    """SHA-256 of the tokenizer's file."""
    return hashlib.sha256(self.to_json().encode()).hexdigest()

  def to_json(self) -> str:
    """What `save` writes."""
    return self._tokenizer.to_str()

  def save(self, path: Path) -> None:
    """Writes tokenizer.json at once or not at all."""
    atomic.write(path, self.to_json())

  @classmethod
  def from_json(cls, text: str) -> "Tokenizer":
    """Undoes `to_json`."""
    return cls(tokenizers.Tokenizer.from_str(text))

  @classmethod
  def load(cls, path: Path) -> "Tokenizer":
    """Reads a tokenizer.json.

    Raises:
      UserError: there is none, or it is not a tokenizer.
    """
    try:
      return cls.from_json(path.read_text("utf-8"))
    except FileNotFoundError as error:
      raise UserError(f"{path} is missing: a tokenizer is kept there.") from error
    except UserError as error:
      raise UserError(f"{path}: {error}") from error
    except Exception as error:  # the library raises bare Exception
      raise UserError(f"{path} is not a tokenizer file: {error}.") from error


def make_tokenizer(
  kind: str, documents: Iterable[str], validation: Iterable[str], vocab_size: int, cache: Path
) -> Tokenizer:
  """The tokenizer of a kind for some text.

  Args:
    kind: "characters" (those that stand in the training or validation documents), "bytes"
      (256 and end-of-text), "bpe" (byte-level, trained on the training documents), a
      tokenizer.json, or a folder that holds one or GPT-2's encoder.json and vocab.bpe.
    documents: training documents; read more than once, and only by a kind that needs them.
    validation: validation documents; only "characters" looks at them.
    vocab_size: tokens of a "bpe" vocabulary, end-of-text among them.
    cache: folder that keeps trained vocabularies, by digest of the text and size.
  """
  if kind == "characters":
    return _characters(documents, validation)
  if kind == "bytes":
    return _byte_level({})
  if kind != "bpe":
    return _from_files(kind)
  if vocab_size < 257:
    raise UserError(f"data.bpe_vocab_size={vocab_size} must be at least 257: bytes, end-of-text.")
  text = splits.digest(_first(documents, _TRAIN_CHARACTERS))
  name = hashlib.sha256(f"{text} {vocab_size} {tokenizers.__version__}".encode()).hexdigest()[:16]
  path = cache / f"bpe-{vocab_size}-{name}.json"
  if not path.exists():
    _train_bpe(documents, vocab_size).save(path)
  return Tokenizer.load(path)


def _from_files(name: str) -> Tokenizer:
  path = Path(name).expanduser()
  if path.is_file():
    return Tokenizer.load(path)
  if (path / "tokenizer.json").exists():
    return Tokenizer.load(path / "tokenizer.json")
  vocabulary, merges = path / "encoder.json", path / "vocab.bpe"
  if vocabulary.exists() and merges.exists():
    return _gpt2(vocabulary, merges)
  raise UserError(
    f"data.tokenizer={name!r} is not one of: {', '.join(KINDS)}, and neither a tokenizer.json nor "
    "a folder with one or with encoder.json and vocab.bpe."
  )


def _gpt2(vocabulary: Path, merges: Path) -> Tokenizer:
  """From the files that GPT-2 was released with (Radford et al. 2019)."""
  try:
    model = models.BPE.from_file(str(vocabulary), str(merges))
  except Exception as error:  # the library raises bare Exception
    raise UserError(
      f"{vocabulary} and {merges} are not a vocabulary and its merges: {error}."
    ) from error
  tokenizer = tokenizers.Tokenizer(model)
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.add_special_tokens([END_OF_TEXT])
  return Tokenizer(tokenizer)


def _characters(documents: Iterable[str], validation: Iterable[str]) -> Tokenizer:
  found: set[str] = set()
  for text in itertools.chain(documents, validation):
    found.update(text)
  characters = sorted(found)
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


def _train_bpe(documents: Iterable[str], vocab_size: int) -> Tokenizer:
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size,
    special_tokens=[END_OF_TEXT],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator(_first(documents, _TRAIN_CHARACTERS), trainer)
  return Tokenizer(tokenizer)


def _first(documents: Iterable[str], characters: int) -> Iterator[str]:
  """Documents from the start, as many as begin within so many characters."""
  for text in documents:
    if characters <= 0:
      return
    characters -= len(text)
    yield text


def _in_batches(documents: Iterable[str]) -> Iterator[list[str]]:
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
