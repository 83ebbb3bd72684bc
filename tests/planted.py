"""Neurons of known cause on made-up text, from two generators; no network."""

import zlib
from collections.abc import Callable

import numpy as np

from crate_jax.interpret.excerpts import SETS, Excerpts

KINDS = ("token", "bigram", "eight tokens", "context", "noise")


def planted(
  generator: str, seed: int, *, each: int, windows: int = 600
) -> tuple[Excerpts, Callable]:
  """A text in windows, and a function that gives its neurons' activations, (1, B, T, 5 * each).

  Neurons of `KINDS` stand in that order, `each` of every kind.
  "zipf": independent tokens with Zipf's frequencies, log-normal activations.
  "markov": tokens depend on the one before; activations are of uniform size, with a floor of noise
  where a neuron fires.
  """
  rng = np.random.default_rng([zlib.crc32(generator.encode()), seed])
  T, V, works = 256, 512, 40
  probability_V = 1 / (np.arange(V) + 1.0)
  probability_V /= probability_V.sum()
  tokens_NT = rng.choice(V, size=(windows, T), p=probability_V)
  if generator == "markov":  # after one token in seven its partner follows
    partner_V = rng.permutation(V)
    follows = rng.random((windows, T)) < 0.15
    for t in range(1, T):
      tokens_NT[:, t] = np.where(follows[:, t], partner_V[tokens_NT[:, t - 1]], tokens_NT[:, t])
  work_N = rng.integers(works, size=windows)
  set_W = rng.permutation(np.arange(works) % 10)
  set_W = np.searchsorted(np.cumsum(list(SETS.values())) * 10, set_W, side="right")
  names = tuple(f"{generator} {seed} {i}" for i in range(works))
  excerpts = Excerpts(tokens_NT.astype(np.int32), work_N, set_W[work_N], names, 0)

  # No two neurons have a token in common, but for a few of those with eight.
  single, second = rng.permutation(np.arange(12, 12 + 2 * each)).reshape(2, each)
  eights = np.stack([rng.choice(np.arange(100, 260), 8, replace=False) for _ in range(each)])
  halves = rng.random((each, V)) < 0.5

  def sizes(shape: tuple[int, ...], noise: np.random.Generator) -> np.ndarray:
    if generator == "zipf":
      return noise.lognormal(0, 0.3, shape)
    return noise.uniform(0.5, 1.5, shape)

  def see(tokens_BT: np.ndarray) -> np.ndarray:
    rows = []
    for tokens_T in np.asarray(tokens_BT):
      noise = np.random.default_rng([seed, zlib.crc32(tokens_T.tobytes())])
      before_T = np.roll(tokens_T, 1)
      before_T[0] = -1
      causes = [tokens_T[:, None] == single]
      # After the most frequent token, which every seventh is.
      causes.append((tokens_T[:, None] == second) & (before_T[:, None] == 0))
      causes.append((tokens_T[:, None, None] == eights).any(-1))
      member_TM = np.cumsum(halves[:, tokens_T].T, axis=0)
      lag = np.zeros_like(member_TM)
      lag[32:] = member_TM[:-32]
      past = np.zeros_like(member_TM)
      past[2:] = member_TM[:-2]  # what the two tokens that a rule sees say is left out
      causes.append(past - lag > 18)
      causes.append(noise.random((T, each)) < 0.05)
      cause_TM = np.concatenate(causes, axis=1)
      rows.append(np.where(cause_TM, sizes(cause_TM.shape, noise), 0))
    return np.stack(rows)[None].astype(np.float32)

  return excerpts, see


def of_kind(values_M: np.ndarray, kind: str, each: int) -> np.ndarray:
  """Those of the neurons of a kind."""
  first = KINDS.index(kind) * each
  return values_M[first : first + each]


def works(file):
  """Writes twenty works of three blocks each; the file's name."""
  words = "the cat sat on a mat and saw that dog run to his own red hat by it .".split()  # noqa: SIM905
  rng = np.random.default_rng(0)
  documents = [" ".join(rng.choice(words, 5000)) + f" {d}\n" for d in range(20)]
  file.write_text("<|endoftext|>\n".join(documents))
  return str(file)
