"""A blinded sheet on which people say which excerpt belongs to a neuron.

sheet.html       what is handed out: for each neuron four excerpts in which it fires, shaded, and
                 four without shade, one of which is its own too; answers leave it as CSV
sheet_key.json   which that is, and whose neuron it is; not handed out
"""

import html
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from crate_jax.data import atomic
from crate_jax.page import STYLE

SHEET = "sheet.html"
KEY = "sheet_key.json"
NEURONS = 60  # of all models together
SHOWN = 4  # excerpts in which the neuron is seen to fire
CHOICES = "ABCD"


def write(out: Path, models: Sequence[tuple[str, Path]], seed: int) -> int:
  """Draws the neurons, as many of each model as can be, and writes both files.

  Args:
    out: the folder.
    models: names, and the files with their pages.
    seed: of the draw, and of where the right answer stands.

  Returns:
    how many neurons there are on the sheet; those that fire in too few excerpts are not.
  """
  rng = np.random.default_rng([seed, NEURONS])
  drawn = []
  each = -(-NEURONS // len(models))
  for name, path in models:
    pages = json.loads(path.read_text("utf-8"))
    usable = [q for neuron in pages["neurons"] if (q := _question(neuron, pages["tokens"], rng))]
    drawn += [(name, question) for question in usable[:each]]
  order = rng.permutation(len(drawn))[:NEURONS]
  questions = [drawn[i] for i in order]
  key = [
    {"question": i + 1, "model": name, **question["key"]}
    for i, (name, question) in enumerate(questions)
  ]
  asset = resources.files("crate_jax.interpret") / "page"
  body = "\n".join(_html(i + 1, question) for i, (_, question) in enumerate(questions))
  text = (asset / "sheet.html").read_text("utf-8")
  for mark, value in (("STYLE", STYLE), ("COUNT", str(len(questions))), ("QUESTIONS", body)):
    text = text.replace(f"{{{{{mark}}}}}", value)
  atomic.write(out / SHEET, text)
  atomic.write(out / KEY, json.dumps(key, indent=2) + "\n")
  return len(questions)


def _question(
  neuron: dict[str, Any], tokens: dict[str, str], rng: np.random.Generator
) -> dict[str, Any] | None:
  """What is asked of a neuron; None if it has not enough excerpts of either kind."""
  largest = neuron["numbers"]["largest"] or 0
  tops = [e for e in neuron["excerpts"] if e["group"] == "top" and max(e["values"]) > 0]
  others = [e for e in neuron["excerpts"] if e["group"].startswith("random")]
  # An excerpt of its own must not be the very text of one that is shown, or of a foil.
  seen = [e["tokens"] for e in tops[:SHOWN]]
  own = next((e for e in tops[SHOWN:] if e["tokens"] not in seen), None)
  others = [e for e in others if own is None or e["tokens"] != own["tokens"]]
  foils = sorted(others, key=lambda e: max(e["values"]))[: len(CHOICES) - 1]
  if own is None or len(foils) < len(CHOICES) - 1 or not largest:
    return None
  right = int(rng.integers(len(CHOICES)))
  choices = [*foils[:right], own, *foils[right:]]
  return {
    "shown": [_shaded(e, tokens, largest) for e in tops[:SHOWN]],
    "choices": ["".join(tokens[str(t)] for t in e["tokens"]) for e in choices],
    "key": {
      "right": CHOICES[right],
      "layer": neuron["layer"],
      "unit": neuron["unit"],
      # How strongly it fires in the strongest foil, as a share: near 1 nobody can tell.
      "foil": round(max(max(e["values"]) for e in foils) / largest, 3),
    },
  }


def _shaded(excerpt: dict[str, Any], tokens: dict[str, str], largest: float) -> str:
  parts = []
  for token, value in zip(excerpt["tokens"], excerpt["values"], strict=True):
    text = html.escape(tokens[str(token)])
    share = max(0.0, min(1.0, value / largest))
    shade = f' style="background:rgba(0,114,178,{0.1 + 0.6 * share:.2f})"' if share else ""
    parts.append(f"<span{shade}>{text}</span>")
  return "".join(parts)


def _html(number: int, question: dict[str, Any]) -> str:
  shown = "".join(f'<div class="excerpt">{e}</div>' for e in question["shown"])
  choices = "".join(
    f'<label class="excerpt"><input type="radio" name="q{number}" value="{letter}"> {letter}: '
    f"{html.escape(text)}</label>"
    for letter, text in zip(CHOICES, question["choices"], strict=True)
  )
  return (
    f"<fieldset><legend>{number}. It fires here, more the bluer:</legend>{shown}"
    f"<p>In which of these does it fire as well?</p>{choices}"
    f'<label><input type="radio" name="q{number}" value="-"> cannot tell</label></fieldset>'
  )
