import hashlib
import json

import pytest

from crate_jax.data import seal

VALUE = {"step": 7, "of": {"x": [1, 2.5, None, "é"]}, "axes": {"w": ("a", "b")}}


def test_what_was_sealed_is_whole_after_json_too():
  got = seal.sealed(VALUE)
  text = '{"axes": {"w": ["a", "b"]}, "of": {"x": [1, 2.5, null, "\\u00e9"]}, "step": 7}'
  assert got["sha256"] == hashlib.sha256(text.encode()).hexdigest()
  assert seal.is_whole(got) and seal.is_whole(json.loads(json.dumps(got, indent=2)))
  assert seal.sealed(got) == got


@pytest.mark.parametrize(
  "change",
  [
    {"step": 8},
    {"step": "7"},
    {"more": 1},
    {"sha256": "0" * 64},
    {"sha256": None},
    {"of": {"x": [1, 2.5, None]}},
  ],
)
def test_what_was_changed_is_not(change):
  assert not seal.is_whole(seal.sealed(VALUE) | change)


@pytest.mark.parametrize("value", [None, [], "x", {}, {"a": 1}])
def test_what_was_never_sealed_is_not(value):
  assert not seal.is_whole(value)
