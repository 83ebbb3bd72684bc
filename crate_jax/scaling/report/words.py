"""Which words the numbers of a sweep allow: the rules by which the report's answer is chosen.

Of each size, the first that holds, for the gap at the longest length (CRATE's loss less GPT-2's):

  no pair   no length is trained, with the same seed, in both and within the epochs that are fitted
  few       a single seed: nothing says how sure the gap is
  crossed   the gap's interval lies below zero
  level     the gap's interval has zero in it
  no law    too few lengths, or too little known of the noise, to go beyond the longest
  closes    the probability that it closes before ten times the longest is at least `SURE`
  stays     that probability is at most 1 - SURE
  open      neither
"""

import dataclasses
from collections.abc import Iterable, Sequence

from crate_jax.scaling.report.cells import Estimate
from crate_jax.scaling.report.gap import SizeGap

SURE = 0.95
FLAT = 0.01  # nats per doubling: a fall certainly below it is called a plateau
DECIDED = ("crossed", "closes", "stays")
NAMES = {"crate": "CRATE", "crate_alpha": "CRATE-alpha", "gpt2": "GPT-2"}


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What a size comes to.

  Attributes:
    code: one of those that the module explains.
    words: the same in a few words.
    trend: of the gap, "narrows", "widens", or "unclear" where its interval has zero in it.
  """

  code: str
  words: str
  trend: str


def name(variant: str) -> str:
  """As people write it."""
  return NAMES.get(variant, variant)


def count(number: float) -> str:
  """1,200, 4.92 M, 157 B: for tokens."""
  for unit, letter in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e4, " k")):
    if number >= unit:
      return f"{number / (1e3 if letter == ' k' else unit):.3g}{letter}"
  return f"{number:,.0f}"


def percent(share: float) -> str:
  """90 %."""
  return f"{100 * share:.0f} %"


def number(value: float, digits: int = 3) -> str:
  """A decimal, never a negative zero."""
  return f"{round(value, digits) + 0.0:.{digits}f}"


def between(e: Estimate, digits: int = 3) -> str:
  """0.123 (0.110 to 0.136), or the number alone if nothing says how sure it is."""
  if e.low is None or e.high is None:
    return f"{number(e.value, digits)} (no interval)"
  return f"{number(e.value, digits)} ({number(e.low, digits)} to {number(e.high, digits)})"


def listed(items: Iterable[object]) -> str:
  """a, b and c."""
  *first, last = map(str, items)
  return f"{', '.join(first)} and {last}" if first else last


def probability(p: float | None) -> str:
  """0.03, with its ends left open: a bootstrap cannot say never or always."""
  if p is None:
    return "-"
  return "< 0.01" if p < 0.01 else "> 0.99" if p > 0.99 else f"{p:.2f}"


def verdict(gap: SizeGap) -> Verdict:
  """Chooses the words for one size; the module says by which rules."""
  fitted = gap.fitted
  trend = {-1: "narrows", 0: "unclear", 1: "widens"}[gap.slope.sign if gap.slope else 0]
  if not fitted:
    return Verdict("no pair", "cannot tell: no length that may be fitted is in both", trend)
  last = fitted[-1].gap
  chance = gap.law.before[10] if gap.law else None
  if last.low is None:
    return Verdict("few", "cannot tell: a single seed", trend)
  if last.sign < 0:
    return Verdict("crossed", "has caught up within these runs", trend)
  if last.sign == 0:
    return Verdict("level", "cannot tell which is lower at the longest run", trend)
  if chance is None:
    return Verdict("no law", "cannot tell beyond the longest run", trend)
  if chance >= SURE:
    return Verdict("closes", "catches up before 10 x the longest run", trend)
  if chance <= 1 - SURE:
    words = {
      "narrows": "the gap narrows, and does not close before 10 x the longest run",
      "unclear": "the gap does not close before 10 x the longest run",
      "widens": "the gap widens",
    }
    return Verdict("stays", words[trend], trend)
  narrows = "the gap narrows, but " if trend == "narrows" else ""
  return Verdict("open", f"{narrows}cannot tell whether it closes before 10 x the longest", trend)


def headline(verdicts: Sequence[Verdict], sizes: Sequence[object], crate: str, gpt2: str) -> str:
  """The answer in one sentence, or in one and what holds where."""
  a, b = name(crate), name(gpt2)
  codes = {v.code for v in verdicts}
  if codes == {"crossed"}:
    return f"**Yes: {a} has caught up with {b} within these runs.**"
  if codes == {"closes"}:
    return (
      f"**Probably yes: if the fitted law of the gap holds, more training lets {a} catch up with "
      f"{b} before ten times the longest run.**"
    )
  if codes == {"stays"}:
    return (
      f"**No: if the fitted law of the gap holds, {a} does not catch up with {b} before ten times "
      f"the longest run.**"
    )
  if codes and codes <= set(DECIDED):
    start = f"**Whether more training lets {a} catch up with {b} depends on the size.**"
  else:
    start = f"**These runs cannot tell whether more training would let {a} catch up with {b}.**"
    if not codes:
      return f"{start} There is no size, length and seed at which both were trained."
    if len(codes) > 1 and codes & set(DECIDED):
      start = f"**These runs cannot tell for every size whether {a} would catch up with {b}.**"
  groups: dict[str, list[object]] = {}
  for v, size in zip(verdicts, sizes, strict=True):
    groups.setdefault(v.words, []).append(size)
  lines = [f"{_where(of, len(sizes))}: {words}." for words, of in groups.items()]
  return " ".join([start, *lines])


def _where(sizes: Sequence[object], of: int) -> str:
  return "At every size" if len(sizes) == of > 1 else f"At {listed(sizes)}"


def plateau(ends: Sequence[tuple[object, Estimate | None]], crate: str) -> str:
  """Whether CRATE itself still gains: from the slopes between its two longest lengths.

  Args:
    ends: size and nats per doubling, negative where the loss falls; None with one length.
    crate: the variant's name.
  """
  a = name(crate)
  groups: dict[str, list[tuple[object, Estimate]]] = {}
  for size, end in ends:
    if end:
      groups.setdefault(_end(end), []).append((size, end))
  if not groups:
    return f"Whether {a} has plateaued these runs cannot tell: it takes two lengths."
  said = {
    "falls": "{a} has not plateaued{at}: its loss still falls, by {by} nats per doubling of "
    "the tokens at the longest run.",
    "flat": "{a} has plateaued{at}: its loss changes by {by} nats per doubling of the "
    f"tokens at the longest run, and certainly by less than {FLAT}.",
    "rises": "{a}'s loss rises{at}, by {by} nats per doubling at the longest run.",
    "unclear": "Whether {a} has plateaued{at} these runs cannot tell: its loss changes by "
    "{by} nats per doubling at the longest run, and the interval has zero in it.",
    "alone": "Whether {a} has plateaued{at} these runs cannot tell: its loss changes by "
    "{by} nats per doubling at the longest run, and one seed says nothing of how sure that is.",
  }
  parts = []
  for code, of in groups.items():
    by = _range([abs(e.value) if code == "falls" else e.value for _, e in of])
    where = _where([size for size, _ in of], sum(map(len, groups.values())))
    at = where.replace("At", " at").replace("every", "any" if code == "falls" else "every")
    parts.append(said[code].format(a=a, at=at, by=by))
  return " ".join(parts)


def _end(end: Estimate) -> str:
  if end.low is None or end.high is None:
    return "alone"
  if max(-end.low, end.high) < FLAT:
    return "flat"
  return {-1: "falls", 0: "unclear", 1: "rises"}[end.sign]


def _range(values: Sequence[float]) -> str:
  low, high = number(min(values)), number(max(values))
  return low if low == high else f"{low} to {high} (from size to size)"
