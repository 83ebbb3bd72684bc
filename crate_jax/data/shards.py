"""Prepared data: a folder of token shards that any context length reads at random.

  manifest.json               counts, digests, tokenizer and source of everything below, sealed
  tokenizer.json              what made the tokens
  train/PART-SHARD.safetensors, validation/...
  quarantine.jsonl            records that are no documents, if there were any

A shard is a safetensors file of whole documents, each ended by end-of-text:

  tokens  (tokens,)           uint16, or uint32 for vocabularies of more than 65,536
  ends    (documents,) uint32 where each document ends, its end-of-text included
  crc32   (blocks,) uint32    checksum of the little-endian bytes of every `BLOCK` tokens

The shards of a split, one after the other, are its token stream.
"""

import dataclasses
import functools
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors
from safetensors.numpy import save

from crate_jax.data import atomic, seal
from crate_jax.data.tokenizer import Tokenizer
from crate_jax.errors import UserError

FORMAT = 2
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
BLOCK = 4096  # tokens that are checked together: little to read around a window, little to keep


class Tokens(Protocol):
  """A token stream: an int32 array, or what is read like one."""

  def __len__(self) -> int: ...

  def __getitem__(self, where: slice, /) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Shard:
  """What the manifest says of a shard; `file` is relative to the folder."""

  file: str
  tokens: int
  documents: int
  bytes: int
  sha256: str


def write(path: Path, tokens: np.ndarray, ends: np.ndarray) -> tuple[int, str]:
  """Writes a shard at once or not at all.

  Args:
    path: where to.
    tokens: token ids, uint16 or uint32.
    ends: position behind each document's last token.

  Returns:
    The file's size in bytes and its SHA-256.
  """
  tokens = np.ascontiguousarray(tokens, tokens.dtype.newbyteorder("<"))
  blocks = range(0, len(tokens), BLOCK)
  crc32 = np.array([zlib.crc32(tokens[i : i + BLOCK].data) for i in blocks], np.uint32)
  data = save({"tokens": tokens, "ends": ends.astype(np.uint32), "crc32": crc32})
  atomic.write(path, data)
  return len(data), hashlib.sha256(data).hexdigest()


class Prepared:
  """A folder that `python -m crate_jax.prepare` made.

  Attributes:
    manifest: what manifest.json holds.
    tokenizer: what made the tokens.
  """

  def __init__(self, folder: Path) -> None:
    """Opens it, and checks that every file is there and of its size.

    Raises:
      UserError: it is not prepared data, or not all of it.
    """
    self.folder = folder
    self.manifest = read_manifest(folder, "data.prepared")
    self.tokenizer = Tokenizer.load(folder / TOKENIZER)
    if self.tokenizer.digest() != self.manifest["tokenizer"]["sha256"]:
      raise UserError(f"{folder / TOKENIZER} is not the tokenizer that {MANIFEST} beside it names.")

  def split(self, name: str) -> "ShardedTokens":
    """The tokens of "train" or "validation"."""
    shards = [Shard(**entry) for entry in self.manifest["splits"][name]["shards"]]
    return ShardedTokens(self.folder, shards, self.tokenizer.vocab_size)


class ShardedTokens:
  """The token stream of a split, int32; slices of it are read from disk and checked."""

  def __init__(self, folder: Path, shards: list[Shard], vocab_size: int) -> None:
    self._folder, self._shards, self._vocab_size = folder, shards, vocab_size
    self._starts = np.cumsum([0] + [shard.tokens for shard in shards])
    self._open = functools.lru_cache(maxsize=4096)(self._open)  # type: ignore[method-assign]
    for shard in shards:
      path = folder / shard.file
      size = path.stat().st_size if path.exists() else -1
      if size != shard.bytes:
        raise UserError(
          f"{path} is missing: {MANIFEST} lists it."
          if size < 0
          else f"{path} has {size} bytes and not the {shard.bytes} that {MANIFEST} lists."
        )

  def __len__(self) -> int:
    return int(self._starts[-1])

  def __getitem__(self, where: slice) -> np.ndarray:
    """The tokens of a slice without a step.

    Raises:
      UserError: a shard is damaged.
    """
    start, stop, _ = where.indices(len(self))
    pieces = []
    shard = int(np.searchsorted(self._starts, start, side="right")) - 1
    while start < stop:
      first = int(self._starts[shard])
      last = min(stop, int(self._starts[shard + 1]))
      pieces.append(self._read(shard, start - first, last - first))
      start, shard = last, shard + 1
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int32)

  def ends(self) -> np.ndarray:
    """Where each document ends in the stream, int64, its end-of-text included."""
    per_shard = [
      self._open(i)[1].astype(np.int64) + self._starts[i] for i in range(len(self._shards))
    ]
    return np.concatenate(per_shard) if per_shard else np.zeros(0, np.int64)

  def verify(self) -> None:
    """Reads every file whole.

    Raises:
      UserError: one is not what the manifest says.
    """
    for shard in self._shards:
      with (self._folder / shard.file).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
      if digest != shard.sha256:
        raise UserError(f"{self._folder / shard.file} does not have the SHA-256 of {MANIFEST}.")

  def _read(self, shard: int, start: int, stop: int) -> np.ndarray:
    tokens, _, crc32 = self._open(shard)
    first = start // BLOCK
    low, high = first * BLOCK, min(-(-stop // BLOCK) * BLOCK, self._shards[shard].tokens)
    blocks = tokens[low:high]
    for place in range(0, high - low, BLOCK):
      if zlib.crc32(blocks[place : place + BLOCK]) != crc32[first + place // BLOCK]:
        raise UserError(
          f"{self._folder / self._shards[shard].file} is damaged: tokens {low + place} to "
          f"{min(low + place + BLOCK, high) - 1} do not have their checksum. Prepare it again."
        )
    wanted = blocks[start - low : stop - low].astype(np.int32)
    if wanted.max() >= self._vocab_size:
      raise UserError(
        f"{self._folder / self._shards[shard].file} holds the token id {wanted.max()}, and the "
        f"vocabulary ends at {self._vocab_size - 1}."
      )
    return wanted

  def _open(self, shard: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """(tokens, to be sliced; ends; crc32) of a shard; the tokens stay on disk."""
    there = self._shards[shard]
    path = self._folder / there.file
    try:
      file = safetensors.safe_open(path, "np")
      tokens, ends, crc32 = (
        file.get_slice("tokens"),
        file.get_tensor("ends"),
        file.get_tensor("crc32"),
      )
      shapes = tokens.get_shape(), ends.shape, crc32.shape
    except (OSError, safetensors.SafetensorError) as error:
      raise UserError(f"{path} cannot be read: {error}.") from error
    if shapes != ([there.tokens], (there.documents,), (-(-there.tokens // BLOCK),)):
      raise UserError(f"{path} does not hold what {MANIFEST} says: its header is damaged.")
    return tokens, ends, crc32


def read_manifest(folder: Path, key: str) -> dict[str, Any]:
  """What manifest.json of a folder holds.

  Raises:
    UserError: there is none, or it is not one.
  """
  path = folder / MANIFEST
  if not path.exists():
    there = "is there, but not prepared to its end" if folder.exists() else "is not there"
    raise UserError(
      f"{key}={str(folder)!r} {there}: `python -m crate_jax.prepare --config=... --out={folder}` "
      f"prepares it; --config.{key}= --config.data.train=python_stdlib trains on the text of "
      "Python's own library instead."
    )
  try:
    manifest = json.loads(path.read_text())
    if manifest["format"] != FORMAT:
      raise UserError(
        f"{path} is of format {manifest['format']!r}, and this version reads {FORMAT}: prepare the "
        "text again."
      )
    if not seal.is_whole(manifest):
      raise UserError(f"{path} is damaged: it does not have the SHA-256 that it names.")
    for split in manifest["splits"].values():
      for shard in [Shard(**entry) for entry in split["shards"]]:
        _check_inside(folder, shard.file)
    manifest["tokenizer"]["sha256"]
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(f"{path} is not a manifest of prepared data: {error!r}.") from error
  return manifest


def _check_inside(folder: Path, file: str) -> None:
  """Refuses a shard that lies elsewhere: what is prepared is one folder."""
  if Path(file).is_absolute() or ".." in Path(file).parts or (folder / file).is_symlink():
    raise UserError(f"{folder / MANIFEST} names {file}, which is not a file of that folder.")
