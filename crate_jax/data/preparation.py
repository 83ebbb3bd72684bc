"""Text to token shards (`shards`): read in order, tokenised anywhere, written whole or not.

A part of a source is read as units of about `UNIT_BYTES`, and `SHARD_UNITS` units make a shard, so
that what is in a shard depends on the source alone: neither on how many processes tokenise nor on
how often they were stopped. Each shard's record is written after it, and a preparation that is run
again reads on behind the last one.
"""

import dataclasses
import hashlib
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crate_jax.data import atomic, seal, shards, sources, splits
from crate_jax.data.sources import Part, Record, Source
from crate_jax.data.splits import Selection
from crate_jax.data.tokenizer import Tokenizer, make_tokenizer
from crate_jax.errors import UserError

UNIT_BYTES = 1 << 23  # of records, tokenised by one process at a time
SHARD_UNITS = 8
PROGRESS = ".progress"  # folder of the records, until the manifest takes them up
QUARANTINE = "quarantine.jsonl"
_RECIPE = "recipe.json"
_COUNTS = ("documents", "text_bytes", "empty", "duplicates", "quarantined")


class Unit(NamedTuple):
  """Neighbouring records of a part; `last` if they are its end, `done` as in `Record`."""

  part: int
  number: int
  records: list[Record]
  last: bool
  done: int


class Encoded(NamedTuple):
  """What became of a unit."""

  tokens: np.ndarray
  lengths: np.ndarray  # tokens of each document, its end-of-text included
  counts: dict[str, int]
  quarantined: list[dict[str, Any]]


class Encoder:
  """Units to tokens; the same here, in a worker process, and in a Beam worker."""

  def __init__(self, tokenizer_json: str, selection: Selection) -> None:
    self._json, self._selection = tokenizer_json, selection
    self._tokenizer: Tokenizer | None = None  # not pickled: each process makes its own

  def __getstate__(self) -> dict[str, Any]:
    return {**self.__dict__, "_tokenizer": None}

  def __call__(self, unit: Unit) -> Encoded:
    """Decodes, selects and tokenises the documents of a unit."""
    if self._tokenizer is None:
      self._tokenizer = Tokenizer.from_json(self._json)
    counts = dict.fromkeys(_COUNTS, 0)
    quarantined: list[dict[str, Any]] = []
    tokens: list[np.ndarray] = []
    ending = np.array([self._tokenizer.end_of_text], np.int32)
    for ids in self._tokenizer.encode_each(self._texts(unit, counts, quarantined)):
      tokens += [ids, ending]
    lengths = [len(ids) + 1 for ids in tokens[::2]]
    dtype = np.uint16 if self._tokenizer.vocab_size <= 1 << 16 else np.uint32
    joined = np.concatenate([*tokens, np.zeros(0, np.int32)]).astype(dtype)
    return Encoded(joined, np.array(lengths, np.uint32), counts, quarantined)

  def _texts(
    self, unit: Unit, counts: dict[str, int], quarantined: list[dict[str, Any]]
  ) -> Iterator[str]:
    chosen = self._selection
    for record in unit.records:
      try:
        text = chosen.source.text(record)
      except sources.BadRecord as error:
        counts["quarantined"] += 1
        place = {"split": chosen.split, "file": record.piece, "record": record.number}
        start = record.data[:80].decode(errors="backslashreplace")
        quarantined.append({**place, "reason": str(error), "start": start})
        continue
      if not text.strip():
        counts["empty"] += 1
      elif not chosen.holds(text):
        continue
      elif chosen.excludes(text):
        counts["duplicates"] += 1
      else:
        counts["documents"] += 1
        counts["text_bytes"] += len(text.encode())
        yield text


def units(source: Source, index: int, part: Part) -> Iterator[Unit]:
  """The units of a part, at least one, and the last marked."""
  records: list[Record] = []
  number = size = 0
  for record in source.records(part):
    if size >= UNIT_BYTES:  # only now, that another record is there
      yield Unit(index, number, records, last=False, done=records[-1].done)
      records, number, size = [], number + 1, 0
    records.append(record)
    size += len(record.data)
  yield Unit(index, number, records, last=True, done=part.size)


class Preparation:
  """One preparation of a text in one folder.

  Attributes:
    out: the folder.
    tokenizer: what makes the tokens.
    selections: the validation documents, and those to train on.
    recipe: what decides every byte of the result.
  """

  def __init__(
    self,
    out: Path,
    *,
    train: str,
    validation: str,
    validation_fraction: float,
    tokenizer: str,
    bpe_vocab_size: int,
    cache: Path,
  ) -> None:
    """Looks at the sources, and makes or finds the tokenizer.

    Args:
      out: the folder, made if it is not there.
      train: see `sources.source`.
      validation: likewise; or "" to set documents of `train` aside, those whose SHA-256 is lowest.
      validation_fraction: the share that is then expected to be set aside.
      tokenizer: see `make_tokenizer`; also `bpe_vocab_size` and `cache`.
      bpe_vocab_size: see above.
      cache: see above.

    Raises:
      UserError: a source is not there, or `out` holds something else.
    """
    if out.exists() and not out.is_dir():
      raise UserError(f"--out={out} is a file, not a folder.")
    self.out = out
    self.selections = splits.select(train, validation, validation_fraction)
    self.parts = {chosen.split: chosen.source.parts() for chosen in self.selections}
    self.recipe: dict[str, Any] = {
      "format": shards.FORMAT,
      "tokenizer": tokenizer,
      "bpe_vocab_size": bpe_vocab_size if tokenizer == "bpe" else None,
      "splits": {
        chosen.split: {
          "source": chosen.source.description,
          "share": [chosen.low, chosen.high],
          "parts": [[list(part.pieces), part.size] for part in self.parts[chosen.split]],
        }
        for chosen in self.selections
      },
    }
    begun = self._was_begun()
    if validation:
      self.selections = splits.without_duplicates(self.selections)
    if begun and (out / shards.TOKENIZER).exists():
      self.tokenizer = Tokenizer.load(out / shards.TOKENIZER)
    else:
      held_out, kept = self.selections
      self.tokenizer = make_tokenizer(tokenizer, kept, held_out, bpe_vocab_size, cache)
      self.tokenizer.save(out / shards.TOKENIZER)
      atomic.write(out / PROGRESS / _RECIPE, json.dumps(self.recipe))

  @property
  def finished(self) -> bool:
    """True if the folder holds the whole result."""
    return (self.out / shards.MANIFEST).exists()

  def encoder(self, chosen: Selection) -> Encoder:
    """What tokenises the units of a split."""
    return Encoder(self.tokenizer.to_json(), chosen)

  def write_shard(
    self, split: str, part: int, number: int, encoded: list[Encoded], last: bool
  ) -> None:
    """Writes a shard, then its record."""
    name = f"{part:05}-{number:05}"
    tokens = np.concatenate([one.tokens for one in encoded])
    ends = np.cumsum(np.concatenate([one.lengths for one in encoded]), dtype=np.int64)
    record = {
      "last": last,
      "counts": {key: sum(one.counts[key] for one in encoded) for key in _COUNTS},
      "quarantined": [entry for one in encoded for entry in one.quarantined],
      "shard": None,
    }
    if len(tokens):
      file = f"{split}/{name}.safetensors"
      size, sha256 = shards.write(self.out / file, tokens, ends)
      record["shard"] = dataclasses.asdict(shards.Shard(file, len(tokens), len(ends), size, sha256))
    atomic.write(self._record_path(split, part, number), json.dumps(record))

  def records(self, split: str, part: int) -> list[dict[str, Any]]:
    """The records of a part's shards that are done, from its first on."""
    done: list[dict[str, Any]] = []
    while (path := self._record_path(split, part, len(done))).exists():
      record = json.loads(path.read_bytes())
      if there := record["shard"]:
        file = self.out / there["file"]
        if not file.exists() or file.stat().st_size != there["bytes"]:
          break  # the disk lost it: made again
      done.append(record)
    return done

  def finish(self) -> dict[str, Any]:
    """Writes the manifest from the records, and returns it.

    Raises:
      UserError: a split has no document.
    """
    manifest: dict[str, Any] = {
      "format": shards.FORMAT,
      "recipe": self.recipe,
      "tokenizer": {
        "vocab_size": self.tokenizer.vocab_size,
        "end_of_text": self.tokenizer.end_of_text,
        "sha256": self.tokenizer.digest(),
      },
      "splits": {},
    }
    quarantined: list[dict[str, Any]] = []
    for chosen in self.selections:
      split = chosen.split
      indices = range(len(self.parts[split]))
      records = [record for index in indices for record in self.records(split, index)]
      there = [record["shard"] for record in records if record["shard"]]
      quarantined += [entry for record in records for entry in record["quarantined"]]
      manifest["splits"][split] = {
        "tokens": sum(shard["tokens"] for shard in there),
        **{key: sum(record["counts"][key] for record in records) for key in _COUNTS},
        "sha256": hashlib.sha256("".join(s["sha256"] for s in there).encode()).hexdigest(),
        "shards": there,
      }
    if quarantined:
      lines = "".join(json.dumps(entry) + "\n" for entry in quarantined)
      atomic.write(self.out / QUARANTINE, lines)
    for split, said in manifest["splits"].items():
      if not said["tokens"]:
        raise UserError(
          f"{self.recipe['splits'][split]['source']} yields no document for {split}: of its "
          f"records {said['empty']} are empty, {said['duplicates']} stand in the validation set, "
          f"and {said['quarantined']} are no documents (see {self.out / QUARANTINE})."
        )
    manifest = seal.sealed(manifest)
    atomic.write(self.out / shards.MANIFEST, json.dumps(manifest, indent=1) + "\n")
    self.clean()
    return manifest

  def clean(self) -> None:
    """Takes away what only a preparation under way needs."""
    shutil.rmtree(self.out / PROGRESS, ignore_errors=True)
    for stale in self.out.rglob(".*.tmp"):  # of a process that was killed as it wrote
      stale.unlink()

  def _record_path(self, split: str, part: int, number: int) -> Path:
    return self.out / PROGRESS / f"{split}-{part:05}-{number:05}.json"

  def _was_begun(self) -> bool:
    """Refuses a folder that holds something else; True if it was begun before."""
    path, manifest = self.out / PROGRESS / _RECIPE, self.out / shards.MANIFEST
    if manifest.exists():
      before = shards.read_manifest(self.out, "--out")["recipe"]
    elif path.exists():
      before = json.loads(path.read_bytes())
    else:
      return False
    if before != json.loads(json.dumps(self.recipe)):
      raise UserError(
        f"--out={self.out} holds a preparation of {_difference(before, self.recipe)}: choose "
        "another folder, or delete this one."
      )
    return True


def _difference(before: Any, now: Any) -> str:
  """What of two recipes differs first, in words."""
  for key in ("format", "tokenizer", "bpe_vocab_size"):
    if before.get(key) != now[key]:
      return f"{key}={before.get(key)!r}, not {now[key]!r}"
  for split, there in now["splits"].items():
    earlier = before["splits"].get(split, {})
    for key in ("source", "share"):
      if earlier.get(key) != there[key]:
        return f"{split} {key} {earlier.get(key)!r}, not {there[key]!r}"
    pairs = itertools.zip_longest(earlier["parts"], there["parts"])
    for was, part in pairs:
      if was != part:
        return f"another text: {split} had {was} and has {part} now (files, bytes)"
  return "another text"
