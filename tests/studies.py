"""Tables of sweeps that nobody trained: known laws, known noise."""

import base64
import dataclasses
import html.parser

import numpy as np
from matplotlib.figure import Figure

from crate_jax.scaling.table import Row

TOKENS_PER_STEP = 1024
STEPS = (300, 600, 1200, 2400, 4800)
WORKS = (900, 1500, 700, 1100, 400, 1300, 800, 600)
LAWS = {"crate": (3.2, 60.0, 0.28), "gpt2": (3.0, 60.0, 0.28)}


def law(numbers, tokens):
  """E + B D^-beta."""
  E, B, beta = numbers
  return E + B * tokens**-beta


def row(variant, layers, width, steps, seed, loss, **changed):
  """A cell of the grid with this loss; anything else by keyword."""
  tokens = steps * TOKENS_PER_STEP
  rng = np.random.default_rng([len(variant), layers, width, steps, seed])
  works = np.array(WORKS)
  nats = works * (loss + np.linspace(-0.3, 0.3, len(works)) + 0.002 * rng.normal(size=len(works)))
  way = np.linspace(tokens / 8, tokens, 8)
  per_block = {"crate": 6, "gpt2": 12}.get(variant, 8) * width**2
  values = {
    "cell": f"{variant}-{layers}x{width}x4-{steps}-seed{seed}",
    "variant": variant,
    "layers": layers,
    "width": width,
    "steps": steps,
    "seed": seed,
    "schedule": "wsd",
    "learning_rate": 0.004,
    "kind": "grid",
    "heads": 4,
    "tokens": tokens,
    "epochs": tokens / 2.5e6,
    "parameters": 4096 * width + layers * per_block,
    "block_parameters": layers * per_block,
    "flops_per_token": {"crate": 40, "gpt2": 30}.get(variant, 35) * 1000 * (100 + layers * width),
    "loss": loss,
    "bits_per_byte": loss / 3 / np.log(2),
    "loss_of_rates": loss + 0.02,
    "train_loss": loss - 0.1,
    "nonzero": [0.2] * layers if variant == "crate" else [0.4] * layers,
    "work_nats": [float(n) for n in nats * (loss * works.sum() / nats.sum())],
    "work_tokens": [int(n) for n in works],
    "curve_tokens": [int(n) for n in way],
    "curve_loss": [float(0.15 + loss * (tokens / n) ** 0.05) for n in way],
    "seconds": steps * {"crate": 0.02, "gpt2": 0.015}.get(variant, 0.017) * layers,
    "tokens_per_second": 50_000.0,
    "text": "ab" * 32,
    "digest": "0" * 16,
    "device": "1 x cpu (x86_64, 2 cores)",
    "jax": "0.10.2",
    "commit": "f" * 40,
    "weights": "0" * 16,
  }
  kinds = {str: "", int: 0, float: 0.0}
  others = {field.name: kinds.get(field.type, []) for field in dataclasses.fields(Row)}
  return Row(**{**others, **values, **changed})


def study(
  laws=None, sizes=((2, 128),), steps=STEPS, seeds=(0, 1, 2), trunk=0.004, branch=0.002, random=0
):
  """The rows of a grid.

  Args:
    laws: E, B, beta of every variant; bigger sizes have a lower E.
    sizes: layers and width.
    steps: lengths.
    seeds: of every cell; variants share half of a trunk's noise.
    trunk: standard deviation of what the lengths of a seed share.
    branch: of every cell.
    random: seed of the noise.
  """
  rng = np.random.default_rng(random)
  rows = []
  for layers, width in sizes:
    for seed in seeds:
      both = rng.normal() * trunk
      for variant, numbers in (laws or LAWS).items():
        own = 0.7 * both + 0.7 * rng.normal() * trunk
        for count in steps:
          E, B, beta = numbers
          E -= 0.1 * np.log2(layers * width / 256)
          loss = law((E, B, beta), count * TOKENS_PER_STEP) + own + rng.normal() * branch
          rows.append(row(variant, layers, width, count, seed, float(loss)))
  return rows


def trials(variant="crate", losses=((0.002, 4.1), (0.004, 4.0), (0.008, 4.2)), steps=300):
  """Rates that were tried at 2 x 128."""
  return [
    dataclasses.replace(
      row(variant, 2, 128, steps, 0, 4.0, kind="trial", learning_rate=rate),
      loss=loss, loss_of_rates=loss, cell=f"{variant}-2x128x4-{steps}-seed0-{rate:g}",
    )
    for rate, loss in losses
  ]  # fmt: skip


PIXEL = base64.b64decode(
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)


def drawn_as_a_pixel(monkeypatch):
  """Pictures are made, and a file is written for each; what takes long is to render them."""

  def save(figure, path, **how):
    path.write_bytes(PIXEL)

  monkeypatch.setattr(Figure, "savefig", save)


def checks(rows, steps=1200, off=0.003):
  """The cosine schedule beside the rows of seed 0 and this length."""
  return [
    dataclasses.replace(
      r, kind="check", schedule="cosine", loss=r.loss + off, cell=f"{r.cell}-cosine"
    )
    for r in rows
    if r.steps == steps and r.seed == 0
  ]


class Reader(html.parser.HTMLParser):
  """Sees that every tag is closed in its turn, and notes what the page would fetch."""

  VOID = frozenset({"meta", "img"})

  def __init__(self):
    super().__init__()
    self.open, self.asked, self.cells = [], [], []

  def handle_starttag(self, tag, attrs):
    self.asked += [v for name, v in attrs if name in ("src", "href", "data", "action", "srcset")]
    assert tag not in ("link", "script", "iframe", "object")
    if tag == "tr":
      self.cells.append(0)
    if tag in ("td", "th"):
      self.cells[-1] += 1
    if tag == "table":
      self.cells.append(None)
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag
