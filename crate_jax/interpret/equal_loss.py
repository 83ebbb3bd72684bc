"""Kinds of networks compared where their losses are equal."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from crate_jax.errors import UserError
from crate_jax.interpret import record as record_lib
from crate_jax.interpret import statistics
from crate_jax.interpret.neurons_report import DRAWS
from crate_jax.interpret.record import OWN_TOP, TRAINED, Record
from crate_jax.interpret.statistics import Scored

LOSSES = 3  # at which kinds are compared, equally far apart in what both reach


@dataclasses.dataclass(frozen=True)
class Point:
  """A network at a checkpoint.

  Attributes:
    record: what was measured.
    kind: what its runs share, see `record.kinds`.
    score: mean over the neurons whose score is defined,
    interval: of it,
    drawn_D: and its draws.
    top: the same of each neuron's own top 1 %,
    top_interval: and its interval.
    active: mean share of a token's neurons that are not zero.
  """

  record: Record
  kind: str
  score: float
  interval: tuple[float, float]
  drawn_D: np.ndarray
  top: float
  top_interval: tuple[float, float]
  active: float

  @property
  def loss(self) -> float:
    """Nats per token on the scoring windows."""
    return self.record.states[TRAINED].loss

  @property
  def ended(self) -> bool:
    """Whether it is the end of its run."""
    return self.record.ended


@dataclasses.dataclass(frozen=True)
class Equal:
  """Two kinds at one loss.

  Attributes:
    a: a kind,
    b: and that which is subtracted.
    ended: of runs that ended there; or on their way, at a rate that has not decayed.
    loss: nats per token.
    value: a's score minus b's, each read off between the two points next to the loss.
    interval: of it.
    matched: the same with each pair of these points' neurons matched by firing rate,
    matched_interval: its interval,
    shares: and the smallest shares of their neurons that could be.
  """

  a: str
  b: str
  ended: bool
  loss: float
  value: float
  interval: tuple[float, float]
  matched: float
  matched_interval: tuple[float, float]
  shares: tuple[float, float]


def points(records: Sequence[Record], seed: int, draws: int = DRAWS) -> list[Point]:
  """Summarises every network, once if runs have a checkpoint in common.

  Raises:
    UserError: they were not measured on the same windows, or models that differ are called the
      same.
  """
  records = list({(r.facts["weights_sha256"], r.facts["step"]): r for r in records}.values())
  kinds = record_lib.kinds(records)
  first = records[0]
  for other in records[1:]:
    if other.facts["windows_sha256"] != first.facts["windows_sha256"]:
      raise UserError(
        f"{first.facts['run']} and {other.facts['run']} were not measured on the same tokens: "
        "name one text for all with --data."
      )
  works = len(first.tokens_W)
  counts_DW = statistics.draw_works(works, draws, np.random.default_rng([seed, works]))
  found = []
  for kind, record in zip(kinds, records, strict=True):
    # Checkpoints of one network have the same neurons, which are drawn alike.
    rng = np.random.default_rng([seed, kinds.index(kind), record.facts["train_seed"]])
    trained, drawn_D2 = statistics.summarise([record.scored(TRAINED, None)], counts_DW, rng)
    top, _ = statistics.summarise([record.scored(OWN_TOP, None)], counts_DW, rng)
    active = float(record.states[TRAINED].columns["firing_rate"].mean())
    found.append(
      Point(
        record,
        kind,
        trained.mean,
        trained.interval,
        drawn_D2[:, 0],
        top.mean,
        top.interval,
        active,
      )
    )
  return found


def base(points: Sequence[Point]) -> str:
  """The kind that others are held against: of the first model's rates, that with most points."""
  model = points[0].record.facts["kind"]
  kinds = [p.kind for p in points if p.record.facts["kind"] == model]
  return max(kinds, key=kinds.count)


def at_equal_loss(points: Sequence[Point], seed: int, draws: int = DRAWS) -> list[Equal]:
  """Every kind against the base, at losses that both reach: ends with ends, ways with ways.

  A decay of the rate lowers the loss and changes the codes, so that a run that has ended is not
  held against one that is on its way.
  """
  against = base(points)
  others = [kind for kind in dict.fromkeys(p.kind for p in points) if kind != against]
  found = []
  for other, ended in itertools.product(others, (True, False)):
    a, b = ([p for p in points if p.kind == kind and p.ended == ended] for kind in (other, against))
    if not a or not b:
      continue
    low = max(min(p.loss for p in side) for side in (a, b))
    high = min(max(p.loss for p in side) for side in (a, b))
    if low >= high:
      continue  # one is better than the other at its best: nothing is equal
    for loss in np.linspace(low, high, LOSSES + 2)[1:-1]:
      sides = _between(a, loss), _between(b, loss)
      value, *drawn_SD = (
        sum(share * of(p) for p, share in sides[0]) - sum(share * of(p) for p, share in sides[1])
        for of in (lambda p: p.score, lambda p: p.drawn_D)
      )
      matched, interval, shares = _matched(*sides, seed, draws)
      found.append(
        Equal(
          other,
          against,
          ended,
          float(loss),
          float(value),
          statistics.interval(drawn_SD[0]),
          matched,
          interval,
          shares,
        )
      )
  return found


def _between(side: Sequence[Point], loss: float) -> list[tuple[Point, float]]:
  """The two points next to a loss, and what each counts there."""
  above = min((p for p in side if p.loss >= loss), key=lambda p: p.loss)
  below = max((p for p in side if p.loss <= loss), key=lambda p: p.loss)
  if above.loss == below.loss:
    return [(above, 1.0)]
  share = (loss - below.loss) / (above.loss - below.loss)
  return [(below, 1 - share), (above, share)]


def _matched(
  a: Sequence[tuple[Point, float]], b: Sequence[tuple[Point, float]], seed: int, draws: int
) -> tuple[float, tuple[float, float], tuple[float, float]]:
  """The difference between the points with neurons matched by firing rate, pair by pair."""
  works = len(a[0][0].record.tokens_W)
  counts_DW = statistics.draw_works(works, draws, np.random.default_rng([seed, works]))
  value, off_D, shares = 0.0, np.zeros(draws), []
  for (p, of_p), (q, of_q) in itertools.product(a, b):
    rates = [x.record.states[TRAINED].columns["firing_rate"] for x in (p, q)]
    match = statistics.match(*rates)
    sides = []
    for i, (point, weight_M) in enumerate(((p, match.weight_a_M), (q, match.weight_b_M))):
      plain: Scored = point.record.scored(TRAINED, None)
      weighted = dataclasses.replace(plain, weight_M=weight_M)
      rng = np.random.default_rng([seed, 1000 + i])
      sides.append(statistics.summarise([weighted], counts_DW, rng))
    value += of_p * of_q * (sides[0][0].mean - sides[1][0].mean)
    off_D += of_p * of_q * (sides[0][1][:, 0] - sides[1][1][:, 0])
    shares.append((match.share_a, match.share_b))
  of_a, of_b = zip(*shares, strict=True)
  return value, statistics.interval(off_D), (min(of_a), min(of_b))
