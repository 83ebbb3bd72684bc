"""The evaluation sets, with models whose probabilities are known by hand."""

import json
import math

import numpy as np
import pytest

from crate_jax.data.tokenizer import make_tokenizer
from crate_jax.errors import UserError
from crate_jax.evaluation import tasks
from crate_jax.evaluation.likelihood import Likelihood

FILES = {
  "lambada": "lambada/lambada_test.jsonl",
  "hellaswag": "hellaswag/hellaswag_val_full.txt",
  "blimp": "blimp/some_paradigm.jsonl",
  "wikitext2": "wikitext-2/test.txt",
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  return make_tokenizer("bytes", [], [], 0, tmp_path_factory.mktemp("cache"))


def letters(tokenizer, cost, seen=None):
  """A model for which every byte costs `cost(text before it, byte)` nats; greedy below ln 2."""

  def score(requests):
    answers = []
    for request in requests:
      before = tokenizer.decode(request.context).removeprefix("<|endoftext|>")
      after = tokenizer.decode(request.continuation)
      costs = [cost(before + after[:i], character) for i, character in enumerate(after)]
      if seen is not None:
        seen.append((before, after))
      answers.append(Likelihood(-sum(costs), max(costs) < math.log(2)))
    return answers

  return score


def write(folder, task, text):
  file = folder / FILES[task]
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_text(text)
  return folder


def lines(*items):
  return "".join(json.dumps(item) + "\n" for item in items)


def test_lambada_by_hand(tokenizer, tmp_path):
  write(tmp_path, "lambada", lines({"text": "it was a cat"}, {"text": "no dog"}, {"text": "a cat"}))
  seen = []
  # " cat" is four bytes of 0.5 nats, " dog" four of 1: 2, 4, 2 nats.
  score = letters(tokenizer, lambda before, byte: 1.0 if "no" in before else 0.5, seen)
  accuracy, perplexity = tasks.evaluate("lambada", tmp_path, tokenizer, score)
  assert seen == [("it was a", " cat"), ("no", " dog"), ("a", " cat")]
  assert (accuracy.value, accuracy.chance, accuracy.items) == (pytest.approx(2 / 3), 0, 3)
  assert accuracy.stderr == pytest.approx(math.sqrt((2 / 3) * (1 / 3) / 2))
  assert perplexity.value == pytest.approx(math.exp(8 / 3))
  # Nats 2, 4, 2 have variance 4/3, so their mean has standard error 2/3.
  assert perplexity.stderr == pytest.approx(math.exp(8 / 3) * 2 / 3)
  assert perplexity.chance == pytest.approx(257**4)


def test_hellaswag_by_hand(tokenizer, tmp_path):
  first = ["He ran. he", "1", "aaaa", "bb", "a", "aaaaaa"]
  second = ["She sat. she", "2", "a", "bbbbbbb", "aaaaaaaa", "bbb"]
  write(tmp_path, "hellaswag", "\n".join(first + second) + "\n")
  cost = {" ": 1.0, "a": 0.5, "b": 0.25}
  seen = []
  score = letters(tokenizer, lambda before, byte: cost[byte], seen)
  scores = tasks.evaluate("hellaswag", tmp_path, tokenizer, score)
  # Nats, first: -3, -1.5, -1.5, -4 (of equals the first, which is right); per character -0.75,
  # -0.75, -1.5, -0.67: the fourth, wrong. Second: -1.5, -2.75, -5, -1.75: the first, wrong; per
  # character -1.5, -0.39, -0.63, -0.58: the second, wrong.
  assert seen[:2] == [("He ran. he", " aaaa"), ("He ran. he", " bb")]
  assert [(s.metric, s.value, s.chance, s.items) for s in scores] == [
    ("accuracy", 0.5, 0.25, 2),
    ("accuracy_norm", 0.0, 0.25, 2),
  ]
  assert scores[0].stderr == pytest.approx(0.5)


def test_blimp_by_hand(tokenizer, tmp_path):
  pair = {"sentence_good": "they are.", "sentence_bad": "they is."}
  worse = {"sentence_good": "one ax.", "sentence_bad": "one xx."}
  write(tmp_path, "blimp", lines(pair, pair, worse, pair))
  (tmp_path / "blimp" / "another.jsonl").write_text(lines(pair, pair))
  score = letters(tokenizer, lambda before, byte: {"i": 9.0, "x": 0.1}.get(byte, 0.5))
  whole, *parts = tasks.evaluate("blimp", tmp_path, tokenizer, score)
  assert [(p.task, p.value, p.items) for p in parts] == [
    ("blimp/another", 1.0, 2),
    ("blimp/some_paradigm", 0.75, 4),
  ]
  assert (whole.task, whole.value, whole.chance, whole.items) == ("blimp", 0.875, 0.5, 6)
  assert whole.stderr == pytest.approx(math.sqrt(0.75 * 0.25 / 3) / 2)


def test_wikitext_by_hand(tokenizer, tmp_path):
  text = " \n = One = \n \n a b , c \n \n = = Part = = \n \n d \n = Two = \n \n e f \n"
  write(tmp_path, "wikitext2", text)
  seen = []
  score = letters(tokenizer, lambda before, byte: 0.5, seen)
  word, bits = tasks.evaluate("wikitext2", tmp_path, tokenizer, score)
  assert seen == [("", " = One =\n\na b, c\n\n== Part ==\n\nd "), ("", " = Two =\n\ne f\n")]
  # The harness counts the pieces between white space, an empty one at each end included.
  words, sizes = (
    [2 + 13, 2 + 5],
    [len(" = One = \n \n a b , c \n \n = = Part = = \n \n d "), len(" = Two = \n \n e f \n")],
  )
  nats = np.array([0.5 * 32, 0.5 * 14])
  assert [len(after) for _, after in seen] == [32, 14]
  assert word.value == pytest.approx(math.exp(sum(nats) / sum(words)))
  assert bits.value == pytest.approx(sum(nats) / math.log(2) / sum(sizes))
  assert bits.chance == pytest.approx(46 * math.log2(257) / sum(sizes))
  assert word.items == 2
  residual = nats - sum(nats) / sum(sizes) * np.array(sizes)
  stderr = math.sqrt(2 * np.sum(residual**2)) / sum(sizes) / math.log(2)
  assert bits.stderr == pytest.approx(stderr)


def test_wikitext_is_put_back_together():
  assert tasks.detokenize("Jr . , and 5 @-@ @,@ 6") == "Jr., and 5-@,@ 6"
  page = 'He said " yes " ( twice ) , it \'s 1 @,@ 000 @-@ odd ; so : 3 @.@ 5 ° C . \n'
  want = 'He said "yes" (twice), it\'s 1,000-odd; so: 3.5° C.\n'
  assert tasks.detokenize(page).replace("5°C", "5° C") == want


def test_a_limit_takes_the_first_items(tokenizer, tmp_path):
  write(tmp_path, "lambada", lines({"text": "a b"}, {"text": "c d"}, {"text": "nolastword"}))
  score = letters(tokenizer, lambda before, byte: 0.5)
  accuracy, _ = tasks.evaluate("lambada", tmp_path, tokenizer, score, limit=2)
  assert accuracy.items == 2


@pytest.mark.parametrize(
  ("task", "text", "sentence"),
  [
    ("lambada", None, r"lambada_test\.jsonl is missing; docs/evaluation\.md says where"),
    ("lambada", "", r"lambada_test\.jsonl is empty"),
    ("lambada", '{"text": "a b"}\n{"txt": "c"}\n', r"jsonl, line 2 is not a JSON object with text"),
    ("lambada", "[1]\n", r"line 1 is not a JSON object with text"),
    ("lambada", '{"text": 3}\n', r"line 1: text must be text"),
    ("lambada", '{"text": "word"}\n', r"line 1 has no last word"),
    ("hellaswag", "one\n0\na\nb\nc\n", r"does not have six lines a task"),
    ("hellaswag", "one\n4\na\nb\nc\nd\n", r"line 2: not a label of 0 to 3"),
    ("blimp", None, r"blimp holds no \.jsonl file"),
    ("blimp", '{"sentence_good": "a"}\n', r"with sentence_good and sentence_bad"),
    ("wikitext2", " \n", r"test\.txt holds no article"),
  ],
)
def test_a_file_that_is_not_what_it_should_be_is_named(task, text, sentence, tokenizer, tmp_path):
  if text is not None:
    write(tmp_path, task, text)
  with pytest.raises(UserError, match=sentence):
    tasks.evaluate(task, tmp_path, tokenizer, letters(tokenizer, lambda before, byte: 1.0))


def test_the_published_sets_are_read_whole(tokenizer, shared_data):
  def uniform(requests):  # counts nothing but tokens
    return [Likelihood(-len(r.continuation) * math.log(257), False) for r in requests]

  got = {
    (s.task, s.metric): s
    for task in tasks.TASKS
    for s in tasks.evaluate(task, shared_data, tokenizer, uniform)
  }
  assert got["lambada", "accuracy"].items == 5153
  assert got["hellaswag", "accuracy"].items == 10_042
  assert got["blimp", "accuracy"].items == 50_000 and len(got) == 2 + 2 + 1 + 50 + 2
  # A uniform model stands at chance: exactly for perplexities, within the error for choices.
  for s in got.values():
    if s.metric not in ("accuracy", "accuracy_norm"):
      assert s.value == pytest.approx(s.chance, rel=1e-9)
  # Among equal endings per character the longest wins: not chance, but its own number.
  assert got["hellaswag", "accuracy"].value < 0.3
  assert got["wikitext2", "word_perplexity"].items == 62
