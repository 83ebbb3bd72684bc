"""Concepts that text itself decides, and how well a single neuron tells them (k = 1 probes)."""

import functools
import re
from collections.abc import Callable

import numpy as np

from crate_jax.data.tokenizer import Tokenizer

_WORDS = {
  "article": "a an the",
  "preposition": "of in to for with on at from by about into over after under between through",
  "pronoun": "i you he she it we they me him her us them my your his its our their",
  "conjunction": "and or but nor so yet because if while although when",
  "auxiliary verb": "is are was were be been am do does did have has had will would can could may",
  "negation": "not no never none nothing n't",
  "number word": "one two three four five six seven eight nine ten hundred thousand",
}


def _is_one_of(words: str, text: str) -> bool:
  return text.strip().lower() in words.split()


_OF_TOKEN: dict[str, Callable[[str], bool]] = {
  "begins a word": lambda text: text[:1] == " " and text.strip() != "",
  "capital first": lambda text: text.strip()[:1].isupper(),
  "all capitals": lambda text: len(text.strip()) > 1 and text.isupper(),
  "digit": lambda text: any(c.isdigit() for c in text),
  "punctuation": lambda text: bool(re.fullmatch(r"\s*[^\w\s]+\s*", text)),
  "ends a sentence": lambda text: text.strip() in (".", "!", "?"),
  "comma": lambda text: text.strip() == ",",
  "quotation mark": lambda text: text.strip() in ('"', "“", "”", "'", "‘", "’"),
  "line break": lambda text: "\n" in text,
  "vowel first": lambda text: text.strip()[:1].lower() in tuple("aeiou"),
  "one or two letters": lambda text: text.strip().isalpha() and len(text.strip()) <= 2,
  "seven letters or more": lambda text: text.strip().isalpha() and len(text.strip()) >= 7,
  "ends in ing": lambda text: text.strip().endswith("ing"),
  "ends in ed": lambda text: text.strip().endswith("ed"),
  "ends in ly": lambda text: text.strip().endswith("ly"),
  "ends in s": lambda text: len(text.strip()) > 2 and text.endswith("s"),
} | {name: functools.partial(_is_one_of, words) for name, words in _WORDS.items()}
_OF_CONTEXT = (
  "after a sentence's end",
  "after a comma",
  "before a capital",
  "first eight of the window",
  "inside quotation marks",
  "inside brackets",
)
NAMES = (*_OF_TOKEN, *_OF_CONTEXT)
RAREST = 20  # tokens that a concept must hold for, and those it must not


@functools.lru_cache(maxsize=1)
def _vocabulary(tokenizer: Tokenizer) -> tuple[list[str], np.ndarray]:
  """Every token's text, and which concepts hold for it, whatever stands around it."""
  texts = [tokenizer.decode([i]) for i in range(tokenizer.vocab_size)]
  return texts, np.array([[bool(holds(t)) for holds in _OF_TOKEN.values()] for t in texts])


def concepts(tokens_BT: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
  """Which concepts hold at each token, bool (B, T, Q) in the order of `NAMES`."""
  vocabulary, of_VQ = _vocabulary(tokenizer)
  here_BTQ = of_VQ[tokens_BT]

  def is_(name: str) -> np.ndarray:
    return here_BTQ[..., list(_OF_TOKEN).index(name)]

  def shifted(x_BT: np.ndarray, by: int) -> np.ndarray:
    moved_BT = np.zeros_like(x_BT)
    if by > 0:
      moved_BT[:, by:] = x_BT[:, :-by]
    else:
      moved_BT[:, :by] = x_BT[:, -by:]
    return moved_BT

  def count(characters: str) -> np.ndarray:
    of_V = np.array([sum(text.count(c) for c in characters) for text in vocabulary])
    return np.cumsum(of_V[tokens_BT], axis=1)

  # Curly marks say which side they are on; straight ones take turns, from the window's start.
  curly = count("“") > count("”")
  straight = count('"') % 2 == 1
  context = [
    shifted(is_("ends a sentence"), 1),
    shifted(is_("comma"), 1),
    shifted(is_("capital first"), -1),
    np.broadcast_to(np.arange(tokens_BT.shape[1]) < 8, tokens_BT.shape),
    curly | straight,
    count("([") > count(")]"),
  ]
  return np.concatenate([here_BTQ, np.stack(context, -1)], -1)


def areas(ranks_NM: np.ndarray, holds_NQ: np.ndarray) -> np.ndarray:
  """Area under the ROC curve of every neuron for every concept, (Q, M); 1/2 is chance.

  By the rank sum (Mann and Whitney 1947). NaN for a concept that holds at fewer than `RAREST`
  tokens, or fails at fewer.

  Args:
    ranks_NM: `scores.ranks` of the activations.
    holds_NQ: `concepts`.
  """
  positive_Q = holds_NQ.sum(0).astype(float)
  negative_Q = len(holds_NQ) - positive_Q
  above_QM = holds_NQ.T.astype(np.float64) @ ranks_NM
  above_QM -= (positive_Q * (positive_Q + 1) / 2)[:, None]
  enough_Q = np.minimum(positive_Q, negative_Q) >= RAREST
  size_Q = np.where(enough_Q, positive_Q * negative_Q, np.nan)
  return above_QM / size_Q[:, None]


def probes(chosen_on_QM: np.ndarray, measured_on_QM: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Each neuron's concept, and the area for it on other works.

  Args:
    chosen_on_QM: areas on the works on which the concept farthest from chance is chosen,
    measured_on_QM: and on those it is measured on.

  Returns:
    concept_M as an index of `NAMES` (-1: none), area_M, turned so that the concept was above chance
    where it was chosen; NaN where there is none.
  """
  off_QM = np.abs(np.nan_to_num(chosen_on_QM, nan=0.5) - 0.5)
  off_QM = np.where(np.isnan(measured_on_QM), 0, off_QM)
  concept_M = off_QM.argmax(0)
  neuron = np.arange(off_QM.shape[1])
  none_M = off_QM[concept_M, neuron] == 0
  area_M = measured_on_QM[concept_M, neuron]
  area_M = np.where(chosen_on_QM[concept_M, neuron] < 0.5, 1 - area_M, area_M)
  return np.where(none_M, -1, concept_M), np.where(none_M, np.nan, area_M)
