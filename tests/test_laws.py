"""Laws that do not fit, and lengths of unequal seeds."""

import dataclasses

import numpy as np
import pytest
import studies

from crate_jax.scaling import fit, uncertainty
from crate_jax.scaling.report import laws as laws_lib
from crate_jax.scaling.report.analysis import Choice, analyse
from crate_jax.scaling.report.cells import Size

SIZE = Size(2, 128, 4, "2L x 128")
FEW = Choice(draws=40)


@pytest.fixture(scope="module")
def rows():
  return studies.study(sizes=((1, 128), (2, 128), (2, 64)), seeds=(0, 1, 2, 3, 4))


def test_a_law_that_misses_the_means_gives_no_interval(rows):
  def bent(row):
    return dataclasses.replace(row, loss=row.loss + 0.1 * (row.steps in (600, 2400)))

  a = analyse([bent(row) if row.variant == "crate" else row for row in rows], FEW)
  curve = a.curve("crate", SIZE)
  assert curve.missing.startswith("no interval: the law does not fit") and curve.law.E.low is None
  assert a.curve("gpt2", SIZE).law.E.low is not None
  assert all(gap.law.used == [] and gap.law.before[10] is None for gap in a.gaps)
  assert {v.code for v in a.verdicts} == {"no law"}


def test_lengths_of_fewer_seeds_weigh_less_and_may_miss_more(rows):
  """The seeds of one length are cut to one, which is off: laws and their checks allow for it."""
  few = [r for r in rows if r.steps != 600 or r.seed == 0]
  few = [dataclasses.replace(r, loss=r.loss + 0.012) if r.steps == 600 else r for r in few]
  a = analyse(few, FEW)
  curve, noise = a.curve("crate", SIZE), a.noise
  weights = np.array(curve.seeds) / 5
  assert list(curve.seeds) == [5, 1, 5, 5, 5]
  loss = np.array([a.curve(v, SIZE).loss for v in ("crate", "gpt2")])
  expected = fit.fit_shared(np.array(curve.tokens, float), loss[:, None], weights)
  (shared,) = [of for of in a.shared if of.size == SIZE]
  np.testing.assert_allclose(shared.E, expected.E[0, 0])
  assert laws_lib.misfit(2.9 * noise.branch, noise, 1) == ""
  assert laws_lib.misfit(2.9 * noise.branch, noise, 5)
  equal = fit.fit_shared(np.array(curve.tokens, float), loss[:, None])
  assert abs(float(equal.E[0, 0]) - shared.E) > 1e-3
  cells = [c for c in a.cells if c.variant == "crate"]
  runs = [[c.rows[0].parameters, c.tokens, c.loss, len(c.rows) / 5] for c in cells]
  law = fit.fit_sizes(*np.array(runs).T)
  found = next(of for of in a.sizes if of.variant == "crate").numbers
  for name in ("alpha", "beta"):
    np.testing.assert_allclose(found[name].value, getattr(law, name))
  assert abs(found["beta"].value - fit.fit_sizes(*np.array(runs).T[:3]).beta) > 1e-4


def test_a_variant_whose_seeds_spread_more_has_noise_of_its_own(rows):
  """CRATE's seeds at one size spread ten times as much, which its own intervals say."""
  calm = analyse(rows, FEW)
  assert not calm.unlike

  def wild(row):
    of_it = row.variant == "crate" and (row.layers, row.width) == (2, 128)
    return dataclasses.replace(row, loss=row.loss + of_it * 0.1 * (row.seed - 2))

  a = analyse([wild(row) for row in rows], FEW)
  assert list(a.unlike) == [("crate", SIZE)]
  own, gap = a.noise_at("crate", SIZE), a.noise_of_gap_at(SIZE)
  # Of 0.1 x -2, -1, 0, 1, 2 the standard deviation is 0.158, and the pool of six groups has less.
  assert own.trunk == pytest.approx(0.158, rel=0.1)
  assert own.trunk > 2 * a.noise.trunk and a.noise_at("gpt2", SIZE) == a.noise
  assert (own.known, gap.known, a.noise.known) == (4, 4, None)  # five seeds, less one
  assert gap.trunk == pytest.approx(
    max(np.hypot(own.trunk, a.noise_of_gap.trunk / 2**0.5), a.noise_of_gap.trunk)
  )
  assert a.noise_of_gap_at(Size(1, 128, 4, "1L x 128")) == a.noise_of_gap
  widths = {}
  for name in ("crate", "gpt2"):
    ten = a.curve(name, SIZE).law.E
    widths[name] = ten.high - ten.low
  assert widths["crate"] > 1.5 * widths["gpt2"]


def test_more_seeds_of_one_group_hide_no_other_that_spreads():
  rng = np.random.default_rng(0)
  scale = (0.2, *[0.01] * 5)
  seeds = (3, 3, 3, 3, 3, 4)  # each seed's part, and each cell's own
  groups = {
    ("crate", i): rng.normal(0, scale[i], (seeds[i], 1)) + rng.normal(0, 0.003, (seeds[i], 4))
    for i in range(6)
  }
  noise = laws_lib.pooled(list(groups.values()))
  assert [*laws_lib.unlike(groups, noise)] == [("crate", 0)]


@pytest.mark.parametrize(
  ("times", "found", "holds"), [(2, 0.13, 0.73), (4, 0.55, 0.75), (10, 0.90, 0.87)]
)
def test_the_interval_of_a_group_that_spreads_more_holds_as_documented(times, found, holds):
  """Ten times as much: with the pool's degrees of freedom for its own noise it holds in 77 %."""
  rng, kept, seen = np.random.default_rng(0), [], 0
  for _ in range(500):
    groups = {
      ("crate", i): (times if i == 0 else 1) * 0.01 * rng.normal(size=(3, 1))
      + 0.003 * rng.normal(size=(3, 5))
      for i in range(6)
    }
    noise = laws_lib.pooled(list(groups.values()))
    unlike = laws_lib.unlike(groups, noise)
    seen += ("crate", 0) in unlike
    noise = unlike.get(("crate", 0), noise)
    error = np.hypot(noise.trunk, noise.branch) / 3**0.5
    draws = rng.normal(size=400) * error * noise.doubt(400, rng)[:, 0]
    low, high = uncertainty.interval(draws)
    kept.append(low <= groups["crate", 0][:, -1].mean() <= high)
  # Three standard errors of 500 studies.
  assert abs(np.mean(kept) - holds) < 3 * (holds * (1 - holds) / 500) ** 0.5
  assert abs(seen / 500 - found) < 3 * (found * (1 - found) / 500) ** 0.5
