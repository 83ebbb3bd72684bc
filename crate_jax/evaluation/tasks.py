"""Evaluation sets from local files: LAMBADA, HellaSwag, BLiMP, WikiText-2.

Scored as EleutherAI's lm-evaluation-harness does (its tasks lambada_openai, hellaswag, blimp and
wikitext): everything is a log-likelihood of a continuation given a context. A text without a
context follows an end-of-text token. Standard errors are over items; chance is what a uniform
guess reaches. docs/evaluation.md says where the files come from and what differs.
"""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from crate_jax.data.tokenizer import Tokenizer
from crate_jax.errors import UserError
from crate_jax.evaluation.likelihood import Likelihood, Request

# Requests -> for each the log-likelihood in nats and whether greedy decoding gives it.
ScoreFn: TypeAlias = Callable[[Sequence[Request]], Sequence[Likelihood]]


@dataclasses.dataclass(frozen=True)
class Score:
  """One number of a task.

  Attributes:
    task: name of the task, or of its part.
    metric: what is measured: accuracy and accuracy_norm (shares), perplexity (of the answer,
      LAMBADA), word_perplexity and bits_per_byte (WikiText-2).
    value: the number.
    stderr: its standard error.
    chance: what a uniform guess over the choices, or over the vocabulary, reaches.
    items: how many items, or pages, it is over.
  """

  task: str
  metric: str
  value: float
  stderr: float
  chance: float
  items: int


def evaluate(
  task: str, folder: Path, tokenizer: Tokenizer, score: ScoreFn, limit: int | None = None
) -> list[Score]:
  """Scores one task of `TASKS`.

  Args:
    task: its name.
    folder: the folder that holds the tasks' folders.
    tokenizer: the model's.
    score: the model (`Run.likelihoods`).
    limit: items of each file to score, the first ones; None for all.

  Raises:
    UserError: its file is missing or not what it should be.
  """
  return TASKS[task](folder, tokenizer, score, limit)


def _lambada(folder: Path, tokenizer: Tokenizer, score: ScoreFn, limit: int | None) -> list[Score]:
  """Accuracy of greedy decoding on the last word, and its perplexity (Paperno et al. 2016)."""
  requests = []
  for text, where in _json_lines(folder / "lambada" / "lambada_test.jsonl", ("text",), limit):
    context, space, word = text.rpartition(" ")
    if not (context and word):
      raise UserError(f"{where} has no last word to predict.")
    requests.append(encode_pair(tokenizer, context, space + word))
  answers = score(requests)
  nats = np.array([-answer.nats for answer in answers])
  uniform = np.mean([len(r.continuation) for r in requests]) * math.log(tokenizer.vocab_size)
  perplexity = _exp(float(nats.mean()))
  return [
    _share("lambada", "accuracy", [answer.greedy for answer in answers], chance=0.0),
    Score(
      "lambada",
      "perplexity",
      perplexity,
      perplexity * _stderr(nats),
      _exp(float(uniform)),
      len(nats),
    ),
  ]


def _hellaswag(
  folder: Path, tokenizer: Tokenizer, score: ScoreFn, limit: int | None
) -> list[Score]:
  """Which of four endings is likeliest, as it is and per character (Zellers et al. 2019)."""
  path = folder / "hellaswag" / "hellaswag_val_full.txt"
  lines = _read(path).splitlines()
  if not lines or len(lines) % 6:
    raise UserError(f"{path} does not have six lines a task: context, label, four endings.")
  requests, labels, lengths = [], [], []
  for first in range(0, len(lines), 6)[:limit]:
    context, label, *endings = (line.strip() for line in lines[first : first + 6])
    if label not in ("0", "1", "2", "3") or not all(endings):
      raise UserError(f"{path}, line {first + 2}: not a label of 0 to 3 and four endings.")
    requests += [encode_pair(tokenizer, context, " " + ending) for ending in endings]
    labels.append(int(label))
    lengths.append([len(ending) for ending in endings])
  nats_N4 = np.array([answer.nats for answer in score(requests)]).reshape(-1, 4)
  scores = {"accuracy": nats_N4, "accuracy_norm": nats_N4 / np.array(lengths)}
  return [
    _share("hellaswag", metric, np.argmax(value_N4, axis=1) == np.array(labels), chance=0.25)
    for metric, value_N4 in scores.items()
  ]


def _blimp(folder: Path, tokenizer: Tokenizer, score: ScoreFn, limit: int | None) -> list[Score]:
  """Whether the good sentence of a minimal pair is likelier (Warstadt et al. 2020).

  The first score is the mean over paradigms, each counted the same; its standard error takes the
  paradigms as given and their items as drawn.
  """
  paths = sorted((folder / "blimp").glob("*.jsonl"))
  if not paths:
    raise UserError(f"{folder / 'blimp'} holds no .jsonl file.")
  parts = []
  for path in paths:
    requests = []
    for *pair, _ in _json_lines(path, ("sentence_good", "sentence_bad"), limit):
      # The harness puts a space before each, as before any continuation.
      requests += [encode_pair(tokenizer, "", " " + sentence) for sentence in pair]
    nats_N2 = np.array([answer.nats for answer in score(requests)]).reshape(-1, 2)
    parts.append(_share(f"blimp/{path.stem}", "accuracy", nats_N2[:, 0] > nats_N2[:, 1], 0.5))
  whole = Score(
    task="blimp",
    metric="accuracy",
    value=float(np.mean([part.value for part in parts])),
    stderr=math.sqrt(sum(part.stderr**2 for part in parts)) / len(parts),
    chance=0.5,
    items=sum(part.items for part in parts),
  )
  return [whole, *parts]


def _wikitext2(
  folder: Path, tokenizer: Tokenizer, score: ScoreFn, limit: int | None
) -> list[Score]:
  """Perplexity per word and bits per byte of the pages of the test set (Merity et al. 2016).

  Words and bytes are those of the file, while the model reads the text put back together.
  """
  path = folder / "wikitext-2" / "test.txt"
  pages = _wikitext_pages(_read(path))[:limit]
  if not pages:
    raise UserError(f"{path} holds no article.")
  requests = [encode_pair(tokenizer, "", detokenize(page)) for page in pages]
  nats = -np.array([answer.nats for answer in score(requests)])
  uniform = sum(len(r.continuation) for r in requests) * math.log(tokenizer.vocab_size)
  words = np.array([len(re.split(r"\s+", page)) for page in pages])
  sizes = np.array([len(page.encode()) for page in pages])
  perplexity = _exp(float(nats.sum() / words.sum()))
  bits = nats.sum() / sizes.sum() / math.log(2)
  return [
    Score(
      task="wikitext2",
      metric="word_perplexity",
      value=perplexity,
      stderr=perplexity * _ratio_stderr(nats, words),
      chance=_exp(uniform / words.sum()),
      items=len(pages),
    ),
    Score(
      task="wikitext2",
      metric="bits_per_byte",
      value=bits,
      stderr=_ratio_stderr(nats, sizes) / math.log(2),
      chance=uniform / sizes.sum() / math.log(2),
      items=len(pages),
    ),
  ]


TASKS = {
  "lambada": _lambada,
  "hellaswag": _hellaswag,
  "blimp": _blimp,
  "wikitext2": _wikitext2,
}


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> Request:
  """Tokens of a context and of what follows it, cut where the context's own tokens end."""
  if not context:
    start = np.array([tokenizer.end_of_text], np.int32)
    return Request(start, tokenizer.encode(continuation))
  whole, start = tokenizer.encode(context + continuation), tokenizer.encode(context)
  return Request(start, whole[len(start) :])


# WikiText-2 comes in words; these put the text back together, in this order, as the harness does.
_DETOKENIZE = [
  (r"s '", "s'"),
  *[(rf" @{re.escape(sign)}@ ", sign) for sign in "-,."],
  *[(rf" {re.escape(sign)} ", f"{sign} ") for sign in ":;.!?,"],  # one after the other: " . , "
  (r"\(\s*([^)]*?)\s*\)", r"(\1)"),
  (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
  (r"{\s*([^}]*?)\s*}", r"{\1}"),
  (r"\"\s*([^\"]*?)\s*\"", r'"\1"'),
  (r"'\s*([^']*?)\s*'", r"'\1'"),
  (r"= = = =", "===="),
  (r"= = =", "==="),
  (r"= =", "=="),
  (r" ° ", "°"),
  (r" \n", "\n"),
  (r"\n ", "\n"),
  (r" N ", " 1 "),
  (r" 's", "'s"),
]


def detokenize(page: str) -> str:
  """A page of WikiText-2 as it would be written: no spaces before commas, "@-@" a hyphen."""
  for pattern, written in _DETOKENIZE:
    page = re.sub(pattern, written, page)
  return page


def _wikitext_pages(text: str) -> list[str]:
  """The articles; each starts with a line " = Title = ", while sections have two signs or more."""
  pages: list[list[str]] = [[]]
  for line in text.split("\n"):
    if re.fullmatch(r"= [^=].* =", line.strip()):
      pages.append([])
    pages[-1].append(line)
  joined = ["\n".join(page) for page in pages]
  return [page for page in joined if page.strip()]


def _read(path: Path) -> str:
  try:
    return path.read_text("utf-8")
  except FileNotFoundError as error:
    raise UserError(f"{path} is missing; docs/evaluation.md says where it comes from.") from error
  except UnicodeDecodeError as error:
    raise UserError(f"{path} is not UTF-8 text.") from error


def _json_lines(path: Path, keys: tuple[str, ...], limit: int | None) -> Iterator[tuple[str, ...]]:
  """The values of the keys on each line, and where that line is."""
  lines = _read(path).splitlines()[:limit]
  if not lines:
    raise UserError(f"{path} is empty.")
  for number, line in enumerate(lines, start=1):
    where = f"{path}, line {number}"
    try:
      item: Any = json.loads(line)
      values = [item[key] for key in keys]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
      raise UserError(f"{where} is not a JSON object with {' and '.join(keys)}.") from error
    if not all(isinstance(value, str) and value for value in values):
      raise UserError(f"{where}: {' and '.join(keys)} must be text.")
    yield (*values, where)


def _share(task: str, metric: str, right: Sequence[bool] | np.ndarray, chance: float) -> Score:
  """A share of items that are right."""
  right = np.asarray(right, np.float64)
  return Score(task, metric, float(right.mean()), _stderr(right), chance, len(right))


def _stderr(values: np.ndarray) -> float:
  """Standard error of a mean; NaN for a single value."""
  return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def _ratio_stderr(numerator: np.ndarray, denominator: np.ndarray) -> float:
  """Standard error of sum(numerator) / sum(denominator), by linearising the ratio."""
  n, ratio = len(numerator), numerator.sum() / denominator.sum()
  if n < 2:
    return math.nan
  residual = numerator - ratio * denominator
  return float(math.sqrt(n / (n - 1) * np.square(residual).sum()) / denominator.sum())


def _exp(value: float) -> float:
  return math.exp(value) if value < 700 else math.inf
