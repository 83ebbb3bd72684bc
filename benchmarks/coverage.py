"""Whether the intervals of a sweep's report hold what they say: simulated studies, known truths.

Every study has the lengths, the seeds and the noise of a sweep (--workdir, the folder of its
table), or of the flags. Its runs are drawn round a truth, its noise is estimated as the report
estimates it, and the report's own functions fit it and say how sure they are. Truths are laws like
published ones and gaps of two kinds, g + k D^-gamma and differences of two laws, which never close
or which close at 3, 10 or 100 times the longest run.

With --csv, studies are what `crate_jax.scaling.curves` is for: 240 runs of the law of Besiroglu et
al. (2024), and eight runs of a law of length, each from one seed, with noise of 0.5 % and 0.3 %.

Prints the tables; with --out writes OUT/coverage.md and .json, or coverage_csv.md and .json. 200
studies of each truth take minutes on one core.

  python benchmarks/coverage.py --workdir=benchmarks/plateau --out=benchmarks/plateau
  python benchmarks/coverage.py --tokens=3e5,6e5,1.2e6,2.5e6,4.9e6 --seeds=3 --degrees=16
  python benchmarks/coverage.py --csv
"""

import dataclasses
import itertools
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks.coverage_truths import Design, Truth, law, simulated, truths
from crate_jax import cli
from crate_jax.errors import UserError
from crate_jax.scaling import fit, uncertainty
from crate_jax.scaling.uncertainty import Noise

WORKDIR = flags.DEFINE_string(
  "workdir", "", "Folder of a sweep's table; the flags' numbers if not."
)
CRATE = flags.DEFINE_string("crate", "crate", "The one variant of the pair, in the table.")
GPT2 = flags.DEFINE_string("gpt2", "gpt2", "The other.")
OUT = flags.DEFINE_string("out", "", "Folder of coverage.md and coverage.json.")
CSV = flags.DEFINE_boolean("csv", False, "Studies of a CSV, and not of a sweep.")
STUDIES = flags.DEFINE_integer("studies", 200, "Of each truth.", lower_bound=1)
DRAWS = flags.DEFINE_integer("draws", 400, "Of each bootstrap.", lower_bound=20)
TOKENS = flags.DEFINE_list("tokens", ["3e5", "6e5", "1.2e6", "2.5e6", "4.9e6"], "Lengths.")
SEEDS = flags.DEFINE_integer("seeds", 3, "At every length.", lower_bound=2)
DEGREES = flags.DEFINE_integer("degrees", 16, "Of freedom that the noise is estimated from.", 2)
LOSS = flags.DEFINE_list("loss_noise", ["0.012", "0.008"], "Nats: of a loss' trunk and branch.")
GAP = flags.DEFINE_list("gap_noise", ["0.010", "0.010"], "Nats: of the gap's trunk and branch.")

OUTSIDE = uncertainty.OUTSIDE


@dataclasses.dataclass(frozen=True)
class Covered:
  """Share of the studies whose 90 % interval holds the truth, and the interval's median width."""

  truth: str
  number: str
  value: float
  share: float
  width: float


def of_laws(
  design: Design, E: float, excess: float, beta: float, studies: int, draws: int
) -> list[Covered]:
  """Coverage of E and beta of nine laws: GPT-2's, and with either a little less or more."""
  found = []
  floors = (max(E - 0.4, 0.2), E, E + 0.4)
  known = itertools.product(floors, (beta - 0.1, beta, beta + 0.1))
  for k, (floor, exponent) in enumerate(known):
    rng = np.random.default_rng([2, k])
    curve = law(floor, excess, exponent)
    truth = Truth("", curve, curve, float("inf"))
    intervals: dict[str, list[tuple[float, float]]] = {"E": [], "beta": []}
    for _ in range(studies):
      loss_SD, _, _, noise = simulated(truth, design, rng)
      fitted = fit.fit_lengths(design.tokens_D, loss_SD.mean(0))
      drawn = uncertainty.law_draws(fitted, design.tokens_D, design.seeds, noise, draws, rng)
      for name, those in intervals.items():
        those.append(uncertainty.interval(getattr(drawn, name)))
    name = f"E = {floor:.2f}, beta = {exponent:.2f}"
    found += [_covered(name, "E", floor, intervals["E"])]
    found += [_covered(name, "beta", exponent, intervals["beta"])]
  return found


@dataclasses.dataclass(frozen=True)
class Judged:
  """What studies of a pair say of its crossing.

  Attributes:
    truth: the pair.
    crosses: at how many times the longest run; infinite: never.
    chance: median over studies of P(crossing before ten times the longest run).
    likely: share of the studies in which it is above 1/2.
    sure: above 0.9.
    unlikely: below 0.1.
  """

  truth: str
  crosses: float
  chance: float
  likely: float
  sure: float
  unlikely: float


def of_gaps(
  design: Design, pairs: list[Truth], studies: int, draws: int
) -> tuple[list[Covered], list[Judged]]:
  """Coverage of the gap at ten times the longest run, and what is said of the crossing."""
  covered, judged = [], []
  far = OUTSIDE * design.longest
  for k, truth in enumerate(pairs):
    rng = np.random.default_rng([1, k])
    intervals, chances = [], []
    for _ in range(studies):
      crate_SD, gpt2_SD, of_gap, of_loss = simulated(truth, design, rng)
      drawn = uncertainty.gap_draws(design.tokens_D, crate_SD, gpt2_SD, of_gap, draws, rng, of_loss)
      intervals.append(uncertainty.interval(drawn.at(far)))
      chances.append(uncertainty.crossing_probability(drawn, far, design.longest))
    value = float(truth.crate(np.array(OUTSIDE)) - truth.gpt2(np.array(OUTSIDE)))
    covered.append(_covered(truth.name, "gap", value, intervals))
    chance = np.array(chances, float)
    shares = [float(share.mean()) for share in (chance > 0.5, chance > 0.9, chance < 0.1)]
    middle = float(np.median(chance))
    judged.append(Judged(truth.name, truth.crosses, middle, shares[0], shares[1], shares[2]))
  return covered, judged


def _covered(
  truth: str, number: str, value: float, intervals: list[tuple[float, float]]
) -> Covered:
  low, high = np.array(intervals).T
  share = float(((low <= value) & (value <= high)).mean())
  return Covered(truth, number, value, share, float(np.median(high - low)))


def of_csv(studies: int, draws: int) -> list[Covered]:
  """Coverage of the numbers that `crate_jax.scaling.curves` gives."""
  from crate_jax.scaling import curves_fit
  from crate_jax.scaling.curves_read import Runs

  N, D = map(np.ravel, np.meshgrid(np.geomspace(4.4e7, 1.6e10, 24), np.geomspace(2e9, 5e11, 10)))
  published = {"E": 1.8172, "A": 482.01, "alpha": 0.3478, "B": 2085.43, "beta": 0.3658}
  sizes = fit.SizeLaw(**{name: np.array(value) for name, value in published.items()})
  lengths = {"E": 2.2, "B": 1.6 * 4e7**0.3, "beta": 0.3}
  eight = np.geomspace(3e5, 4e7, 8)
  length = fit.Law(**{name: np.array(value) for name, value in lengths.items()})
  found = []
  for k, (name, truth, params, tokens, loss, noise) in enumerate(
    [
      ("L(N, D), 240 runs", published, N, D, sizes.loss(N, D), 0.005),
      ("L(D), 8 runs", lengths, None, eight, length.loss(eight), 0.003),
    ]
  ):
    rng, each = np.random.default_rng([3, k]), np.arange(len(tokens))
    intervals: dict[str, list[tuple[float, float]]] = {number: [] for number in truth}
    for _ in range(studies):
      drawn = loss * np.exp(noise * rng.standard_normal(len(loss)))
      (one,) = curves_fit.fits(Runs(tokens, drawn, params, each, ""), draws, rng)
      for number, those in intervals.items():
        low, high = one.numbers[number].low, one.numbers[number].high
        assert low is not None and high is not None
        those.append((low, high))
    found += [_covered(name, number, truth[number], intervals[number]) for number in truth]
  return found


def main() -> None:
  """Simulates, prints and writes."""
  start = time.monotonic()
  sizes: dict[str, Any] = {"studies": STUDIES.value, "draws": DRAWS.value}
  if CSV.value:
    csv = of_csv(STUDIES.value, DRAWS.value)
    lines = [f"{STUDIES.value} studies of each truth, {DRAWS.value} draws in each.", ""]
    _write("coverage_csv", [*lines, *_coverage(csv, "")], sizes | {"laws": csv}, start)
    return
  design, gap, E, excess, beta = _from_table() if WORKDIR.value else _from_flags()
  laws = of_laws(design, E, excess, beta, STUDIES.value, DRAWS.value)
  gaps, crossings = of_gaps(design, truths(gap, E, excess, beta), STUDIES.value, DRAWS.value)
  numbers = dataclasses.asdict(design) | {"tokens_D": design.tokens_D.tolist()}
  measured = {"design": numbers, **sizes, "laws": laws, "gaps": gaps, "crossings": crossings}
  _write("coverage", _tables(design, laws, gaps, crossings), measured, start)


def _write(stem: str, lines: list[str], measured: dict[str, Any], start: float) -> None:
  from crate_jax.training import report
  from crate_jax.training import workdir as files

  facts = {
    "command": " ".join(["python", *sys.argv]),
    "seconds": round(time.monotonic() - start),
    **report.environment(),
  }
  lines = [*lines, "", *(f"{key}: {value}  " for key, value in facts.items())]
  print("\n".join(lines))
  if OUT.value:
    out = Path(OUT.value).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    title = "# Coverage of the intervals"
    (out / f"{stem}.md").write_text("\n".join([title, "", *lines, ""]))
    plain = {
      name: [dataclasses.asdict(row) for row in value] if isinstance(value, list) else value
      for name, value in measured.items()
    }
    files.write_json(out / f"{stem}.json", report.finite({**plain, **facts}))


def _from_flags() -> tuple[Design, float, float, float, float]:
  """The design; gap, E, excess and beta as small models have them."""

  def numbers(flag: Any) -> list[float]:
    try:
      return [float(value) for value in flag.value]
    except ValueError as error:
      raise flags.Error(f"--{flag.name}: {error}.") from error

  tokens_D = np.array(sorted(numbers(TOKENS)))
  if len(set(tokens_D)) < fit.LENGTHS or tokens_D[0] <= 0:
    raise flags.Error(f"--tokens needs {fit.LENGTHS} lengths or more, all positive.")
  if len(LOSS.value) != 2 or len(GAP.value) != 2:
    raise flags.Error("--loss_noise and --gap_noise are two numbers each: trunk,branch.")
  (trunk, branch), (gap_trunk, gap_branch) = numbers(LOSS), numbers(GAP)
  loss = Noise(trunk, branch, DEGREES.value)
  gap = Noise(gap_trunk, gap_branch, DEGREES.value)
  return Design(tokens_D, SEEDS.value, DEGREES.value, loss, gap), 0.15, 2.2, 1.6, 0.3


def _from_table() -> tuple[Design, float, float, float, float]:
  """The same of the size with the most lengths, as the report reads the table."""
  from crate_jax.scaling import table
  from crate_jax.scaling.report import analysis

  folder = Path(WORKDIR.value).expanduser()
  choice = analysis.Choice(CRATE.value, GPT2.value, draws=20)
  a = analysis.analyse(table.read(folder), choice)
  pairs = [(a.curve(CRATE.value, gap.size), a.curve(GPT2.value, gap.size)) for gap in a.gaps]
  both = [(c, g, g.law) for c, g in pairs if c and g and c.law and g.law and c.tokens == g.tokens]
  if not both or a.noise is None or a.noise_of_gap is None:
    raise UserError(
      f"{folder / table.PARQUET} has no size at which {CRATE.value} and {GPT2.value} share "
      f"{fit.LENGTHS} lengths and two seeds: give numbers by flags, without --workdir."
    )
  crate, gpt2, fitted = max(both, key=lambda pair: len(pair[0].tokens))
  loss, gap = gpt2.loss[-1], crate.loss[-1] - gpt2.loss[-1]
  beta = float(np.clip(fitted.beta.value, 0.2, 0.4))
  E = float(np.clip(fitted.E.value, 1.0, loss - 0.8))
  design = Design(
    np.array(gpt2.tokens, float),
    min(crate.seeds + gpt2.seeds),
    a.noise_of_gap.degrees,
    a.noise,
    a.noise_of_gap,
  )
  return design, gap if gap > 0.03 else 0.15, E, loss - E, beta


def _described(d: Design) -> str:
  lengths = ", ".join(f"{tokens:,.0f}" for tokens in d.tokens_D)
  return (
    f"{STUDIES.value} studies of each truth, {DRAWS.value} draws in each. Lengths in tokens: "
    f"{lengths}; {d.seeds} seeds at each; standard deviations in nats, of a trunk and of a branch: "
    f"of a loss {d.loss.trunk:.4f}, {d.loss.branch:.4f}, of the gap {d.gap.trunk:.4f}, "
    f"{d.gap.branch:.4f}; estimated anew in each study from about {d.degrees} degrees of freedom."
  )


def _coverage(rows: list[Covered], gap: str) -> list[str]:
  lines = [
    "Share of the studies whose 90 % interval holds the truth:",
    "",
    "| truth | of | its value | coverage | median width |",
    "|---|---|---|---|---|",
  ]
  for row in rows:
    what = gap if row.number == "gap" else row.number
    lines.append(f"| {row.truth} | {what} | {row.value:.4g} | {row.share:.0%} | {row.width:.3g} |")
  return lines


def _tables(
  design: Design, laws: list[Covered], gaps: list[Covered], crossings: list[Judged]
) -> list[str]:
  never = [row for row in crossings if np.isinf(row.crosses)]
  wrong = float(np.mean([row.likely for row in never]))
  lines = [
    _described(design),
    "",
    f"Of pairs that never cross, {wrong:.1%} get a probability above one half to have crossed by "
    f"ten times the longest run; of the worst kind of them {max(r.likely for r in never):.1%}.",
    "",
    *_coverage([*laws, *gaps], f"gap at {OUTSIDE * design.longest:,.0f} tokens"),
  ]
  lines += [
    "",
    "What is said of the crossing: P, the probability that it is by ten times the longest run. A "
    "crossing at 100 times is outside the data, and nothing is said of it; P should be low.",
    "",
    "| truth | crosses at | median P | P > 0.5 | P > 0.9 | P < 0.1 |",
    "|---|---|---|---|---|---|",
  ]
  for judged in crossings:
    at = "never" if np.isinf(judged.crosses) else f"{judged.crosses:g} times the longest run"
    at += ", outside the data" if judged.crosses > OUTSIDE and at != "never" else ""
    lines.append(
      f"| {judged.truth} | {at} | {judged.chance:.2f} | {judged.likely:.0%} | {judged.sure:.0%} | "
      f"{judged.unlikely:.0%} |"
    )
  return lines


if __name__ == "__main__":
  cli.run(main, required=[])
