import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crate_jax.training.digest import digests


def by_hand(array):
  """The two sums, word by word."""
  raw = np.ascontiguousarray(array).view(f"uint{8 * min(array.dtype.itemsize, 4)}")
  one = two = 0
  for place, word in enumerate(int(word) for word in raw.reshape(-1)):
    one += word * (2 * place + 1)
    mixed = (word + place * 0x9E3779B9) % 2**32
    mixed = ((mixed ^ (mixed >> 16)) * 0x85EBCA6B) % 2**32
    mixed = ((mixed ^ (mixed >> 13)) * 0xC2B2AE35) % 2**32
    two += mixed ^ (mixed >> 16)
  return f"{one % 2**32:08x}{two % 2**32:08x}"


def digest(array):
  return digests({"a": jnp.asarray(array)})["['a']"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "float64"])
@pytest.mark.parametrize("shape", [(), (7,), (3, 5, 4)])
def test_it_is_the_sum_over_words(dtype, shape):
  with jax.enable_x64(dtype == "float64"):
    array = np.asarray(np.random.default_rng(0).normal(size=shape) * 100).astype(jnp.dtype(dtype))
    assert digest(array) == f"{dtype}{list(shape)}:{by_hand(array)}"


def test_every_bit_counts_and_every_place():
  array = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
  seen = {digest(array)}
  for place in (0, 1, 577, 1199):
    for bit in range(32):
      changed = array.copy()
      changed.reshape(-1).view(np.uint32)[place] ^= np.uint32(1 << bit)
      seen.add(digest(changed))
  assert len(seen) == 1 + 4 * 32
  signs = array.copy()
  signs[3:5] *= -1  # an even number of top bits, which a sum of odd multiples alone would miss
  assert digest(signs) not in seen
  moved = array.copy()
  moved[[3, 4]] = moved[[4, 3]]
  assert digest(moved) not in seen
  assert digest(array.reshape(30, 40)) not in seen


def test_a_tree_has_one_for_each_array():
  tree = {"a": jnp.zeros(3), "b": [jnp.zeros(3), jnp.ones(())]}
  found = digests(tree)
  assert list(found) == ["['a']", "['b'][0]", "['b'][1]"]
  assert found["['a']"] == found["['b'][0]"] != found["['b'][1]"]
  assert digests({}) == {}
