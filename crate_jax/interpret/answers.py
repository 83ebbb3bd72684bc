"""Answers that people gave on a sheet of `interpret.sheet`: read, scored, compared."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crate_jax.errors import UserError
from crate_jax.interpret.sheet import CHOICES
from crate_jax.page import Paragraph, Table

DRAWS = 2000


def read(path: Path, questions: int) -> list[str]:
  """A person's answers in the order of the questions; "-" where there is none.

  Raises:
    UserError: the file is missing, or a line is no answer to a question of the sheet.
  """
  if not path.exists():
    raise UserError(f"--answers: {path} is missing.")
  found = ["-"] * questions
  with path.open(newline="", encoding="utf-8") as file:
    for number, row in enumerate(csv.DictReader(file), 2):
      question, answer = row.get("question") or "", (row.get("answer") or "-").strip().upper()
      if not question.strip().isdigit() or not 1 <= int(question) <= questions:
        raise UserError(
          f"{path}, line {number}: {question!r} is no question from 1 to {questions}."
        )
      if answer not in (*CHOICES, "-"):
        raise UserError(f"{path}, line {number}: {answer!r} is none of {', '.join(CHOICES)} and -.")
      found[int(question) - 1] = answer
  return found


def report(key: Sequence[dict], answers: dict[str, list[str]]) -> list[Paragraph | Table]:
  """The table, and the agreement in words."""
  right_RQ = np.array(
    [[answer == k["right"] for answer, k in zip(of, key, strict=True)] for of in answers.values()]
  )
  models = list(dict.fromkeys(k["model"] for k in key))
  rows = []
  for model in models:
    of = np.array([k["model"] == model for k in key])
    for name, right_Q in (*zip(answers, right_RQ, strict=True), ("all", right_RQ.mean(0))):
      low, high = interval(right_Q[of])
      rows.append(
        (model, name, f"{of.sum()}", f"{right_Q[of].mean():.1%}", f"{low:.1%}, {high:.1%}")
      )
  kappa = fleiss(list(answers.values()))
  agreed = "with one person there is no agreement" if np.isnan(kappa) else f"kappa {kappa:.2f}"
  return [
    Table(("model", "person", "neurons", "right", "95 %"), rows),
    Paragraph(f"Chance is {1 / len(CHOICES):.0%}. Agreement: {agreed}."),
  ]


def interval(right_Q: np.ndarray) -> tuple[float, float]:
  """95 % of the mean over neurons, drawn again."""
  rng = np.random.default_rng(0)
  drawn = right_Q[rng.integers(len(right_Q), size=(DRAWS, len(right_Q)))].mean(1)
  low, high = np.quantile(drawn, [0.025, 0.975])
  return float(low), float(high)


def fleiss(answers: Sequence[Sequence[str]]) -> float:
  """Fleiss' kappa (1971) of what several people answered; NaN for one person."""
  n = len(answers)
  if n < 2:
    return float("nan")
  counts = [Counter(of_question) for of_question in zip(*answers, strict=True)]
  agreeing = np.mean([(sum(c * c for c in count.values()) - n) / (n * (n - 1)) for count in counts])
  shares = np.array([sum(count[a] for count in counts) for a in (*CHOICES, "-")])
  chance = np.sum((shares / shares.sum()) ** 2)
  return float((agreeing - chance) / (1 - chance)) if chance < 1 else 1.0
