"""JSON objects that carry the SHA-256 of themselves, by which a changed value is seen."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

KEY = "sha256"


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
  """The object as JSON gives it back, with the SHA-256 of its canonical text."""
  plain = {key: x for key, x in json.loads(json.dumps(value)).items() if key != KEY}
  text = json.dumps(plain, sort_keys=True)
  return plain | {KEY: hashlib.sha256(text.encode()).hexdigest()}


def is_whole(value: Any) -> bool:
  """Whether an object that was read is the one that was sealed."""
  return isinstance(value, dict) and sealed(value) == value
