"""The effects of a sweep's variants, from tables in which they are planted."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from crate_jax.errors import UserError
from crate_jax.scaling import cell as cell_lib
from crate_jax.scaling import effects
from crate_jax.scaling.grid import Cell, Shape
from crate_jax.scaling.paired import Estimate
from crate_jax.scaling.table import Row

TOKENS_A_STEP = 1024
WORKS = 12
# loss above crate's, share of active neurons by layer, FLOPs of crate's
PLANTED = {
  "crate": (0.0, [0.4, 0.2], 1.0),
  "gpt2": (-0.2, [0.4, 0.1], 0.8),
  "residual": (-0.1, [0.3, 0.2], 1.0),
  "t1": (0.1, [0.5, 0.3], 0.75),
  "t4": (0.001, [0.2, 0.1], 1.5),
  "l1_1e-3": (-0.15, [0.2, 0.1], 0.8),
  "l1_1e-4": (-0.19, [0.32, 0.3], 0.8),
  "topk_96": (-0.1, [0.19, 0.19], 0.8),
  "topk_144": (-0.12, [0.28, 0.28], 0.8),
}
NOISE = {"crate": (0.01, -0.02, 0.005), "t4": (0.02, -0.03, 0.02)}  # by seed
WOBBLE = (0.001, -0.0005, 0.002)  # of all others, on top of crate's, in another order for each


LEAN = np.random.default_rng(0).normal(0, 0.01, WORKS)  # of works to crate, in nats per token


def curve(tokens):
  """Crate's loss: a power law, a line in logarithms."""
  return 9.0 * tokens**-0.04


def row(variant="crate", steps=800, seed=0, **changes):
  above, nonzero, flops = PLANTED[variant]
  tokens = steps * TOKENS_A_STEP
  loss = curve(tokens) + above + NOISE["crate"][seed]
  if variant != "crate":
    loss += NOISE.get(variant, np.roll(WOBBLE, list(PLANTED).index(variant)))[seed]
  work_tokens = [100 + 10 * w for w in range(WORKS)]
  lean = np.zeros(WORKS) if variant == "crate" else LEAN
  kinds = {str: "", int: 0, float: 0.0}
  values = {field.name: kinds.get(field.type, []) for field in dataclasses.fields(Row)}
  values |= {
    "cell": f"{variant}-2x128x4-{steps}-seed{seed}",
    "variant": variant,
    **{"layers": 2, "width": 128, "heads": 4},
    **{"steps": steps, "seed": seed, "tokens": tokens, "kind": "grid", "schedule": "wsd"},
    "learning_rate": 3e-3,
    "parameters": 460_288,
    "flops_per_token": round(6e6 * flops),
    "loss": loss,
    "nonzero": nonzero,
    "work_nats": list((loss + lean) * work_tokens),
    "work_tokens": work_tokens,
    **{"text": "ab" * 32, "commit": "c" * 40},
  }
  return Row(**(values | changes))


def sweep(variants=PLANTED, steps=(400, 800), seeds=(0, 1, 2)):
  """A whole table, with the trials of three rates."""
  rates = [(variant, rate) for variant in variants for rate in (1.5e-3, 3e-3, 6e-3)]
  trials = [row(v, steps[0], kind="trial", learning_rate=rate) for v, rate in rates]
  return trials + [row(v, s, seed) for v in variants for s in steps for seed in seeds]


def test_every_planted_difference_is_found_with_its_t_interval():
  (study,) = effects.studies(sweep())
  assert (study.layers, study.width, study.steps, study.tokens) == (2, 128, 800, 819_200)
  assert study.seeds == (0, 1, 2) and study.missing == ()
  base = study.of("crate")
  assert base.difference is None and base.loss == pytest.approx(np.mean([*base.losses.values()]))
  for name, (above, nonzero, _) in PLANTED.items():
    effect = study.of(name)
    assert effect.nonzero == pytest.approx(nonzero) and not effect.outermost
    if name == "crate":
      continue
    own = [effect.losses[seed] for seed in (0, 1, 2)]
    want = stats.ttest_rel(own, [base.losses[seed] for seed in (0, 1, 2)])
    interval = want.confidence_interval(0.95)
    found = effect.difference
    np.testing.assert_allclose(
      [found.low, found.high, found.p], [interval.low, interval.high, want.pvalue], rtol=1e-6
    )
    assert found.low < above + 0.001 < found.high
  order = [effect.variant for effect in study.effects]
  values = [e.difference.value if e.difference else 0 for e in study.effects]
  assert values == sorted(values) and order[0] == "gpt2" and order[-1] == "t1"


def test_a_run_that_diverged_is_of_no_text():
  """Its row as a sweep writes it: all that training would have said is missing."""
  cell = Cell("residual", Shape(2, 128, 4), 400, 0, 0.1)
  facts = dict.fromkeys(("digest", "device", "jax", "commit"), "") | {"cores": 1}
  lost = cell_lib.row(
    cell_lib._described(cell, facts) | dict.fromkeys(cell_lib.LOSSES, math.inf), "trial"
  )
  (study,), (without,) = effects.studies([*sweep(), lost]), effects.studies(sweep())
  assert study.of("residual").tried[-1] == 0.1
  assert study.of("residual").difference == without.of("residual").difference
  assert study.texts == without.texts


def test_p_is_corrected_for_all_variants():
  (study,) = effects.studies(sweep())
  tested = [e for e in study.effects if e.difference]
  assert len(tested) == len(PLANTED) - 1
  least = min(tested, key=lambda e: e.difference.p)
  assert least.holm == pytest.approx(min(1, len(tested) * least.difference.p))
  largest = max(tested, key=lambda e: e.difference.p)
  assert largest.variant == "t4" and largest.holm > 0.05
  for e in tested:  # adjusted p: the largest of p times those not below, up to this one
    below = [o.difference.p for o in tested if o.difference.p <= e.difference.p]
    steps = [p * sum(o.difference.p >= p for o in tested) for p in below]
    assert e.holm == pytest.approx(min(1, max(steps)))
  # t4's seeds spread unlike the others', which share a deviation: 7 times 2 degrees of freedom.
  assert study.of("t4").pooled is study.of("t4").pooled_holm is None
  pooled = study.of("residual").pooled
  loss = np.array([[e.losses[s] for s in range(3)] for e in study.effects if e.variant != "t4"])
  rest = loss - loss.mean(0) - loss.mean(1)[:, None] + loss.mean()
  error = math.sqrt(2 * (rest**2).sum() / 14 / 3)
  half = stats.t.ppf(0.975, 14) * error
  np.testing.assert_allclose(pooled.high - pooled.value, half, rtol=1e-9)
  assert study.of("residual").pooled_holm < study.of("residual").holm


def test_a_variant_without_all_seeds_is_not_pooled_and_moves_no_other():
  full = effects.studies([r for r in sweep() if r.variant != "t1"])[0]
  (study,) = effects.studies([r for r in sweep() if (r.variant, r.seed) != ("t1", 1)])
  assert study.of("t1").difference and study.of("t1").pooled is study.of("t1").pooled_holm is None
  assert study.of("residual").pooled == full.of("residual").pooled


def test_the_pooled_test_errs_in_no_more_tables_than_it_says():
  """No variant differs, and all share the runs of the base."""
  rng, tables, wrong = np.random.default_rng(4), 600, 0
  names = ["crate", *(f"v{i}" for i in range(8))]
  for _ in range(tables):
    loss = 5 + rng.normal(0, 0.02, 3) + rng.normal(0, 0.01, (9, 3))
    found = effects._pooled(
      [
        effects.Effect(name, 0.0, dict(enumerate(own)), 0.0, (), (), 0, 0)
        for name, own in zip(names, loss.tolist(), strict=True)
      ]
    )
    assert len(found) in (0, 7, 8)  # one in a hundred is taken for a wild one
    wrong += min(effects.paired.holm([e.p for e in found.values()]), default=1) < effects.SURE
  assert wrong / tables < 0.05


def test_the_share_of_the_gap():
  (study,) = effects.studies(sweep())
  residual, worse = study.of("residual").closed, study.of("t1").closed
  assert residual.value == pytest.approx(0.5, abs=0.01) and residual.low < 0.5 < residual.high
  assert worse.value == pytest.approx(-0.5, abs=0.02) and study.of("gpt2").closed is None
  assert study.of("residual").white_box and not study.of("l1_1e-4").white_box


def test_at_equal_flops_crate_is_on_its_own_curve():
  (study,) = effects.studies(sweep())
  for name, (*_, flops) in PLANTED.items():
    if name == "crate":
      continue
    effect = study.of(name)
    assert effect.equal_tokens == pytest.approx(819_200 * flops)
    more = curve(819_200) - curve(819_200 * flops)  # what crate gains by the other FLOPs
    assert effect.equal_flops.value == pytest.approx(effect.difference.value + more, abs=2e-4), name
    assert effect.continued == (flops > 1)
  (short,) = effects.studies(sweep(steps=(800,)))  # one length has no slope
  assert short.of("t1").equal_flops is None and short.of("t1").equal_tokens == 819_200 * 0.75
  with_long, _ = effects.studies([*sweep(steps=(800,)), *sweep(("crate",), steps=(1200, 2400))])
  effect = with_long.of("t4")
  assert not effect.continued and effect.equal_flops.low < effect.equal_flops.high
  assert with_long.of("t1").continued
  far = [dataclasses.replace(r, flops_per_token=r.flops_per_token * 9) if r.variant == "t4" else r
         for r in sweep()]  # fmt: skip
  assert effects.studies(far)[0].of("t4").equal_flops is None


def test_the_interval_over_works_is_of_the_mean_over_seeds():
  (study,) = effects.studies(sweep())
  effect, tokens_W = study.of("residual"), np.array(row().work_tokens)
  leant = effect.difference.value + np.average(LEAN, weights=tokens_W)
  assert effect.by_work.low < effect.by_work.value < effect.by_work.high
  assert effect.by_work.value == pytest.approx(leant, abs=1e-9)
  # Works lean by 0.01 nats to one side or the other: more than seeds differ by, and what it shows.
  half = (effect.by_work.high - effect.by_work.low) / 2
  assert half == pytest.approx(stats.t.ppf(0.975, WORKS - 1) * 0.01 / math.sqrt(WORKS), rel=0.4)
  other = [dataclasses.replace(r, work_tokens=[9] * WORKS) if r.variant == "residual" else r
           for r in sweep()]  # fmt: skip
  assert effects.studies(other)[0].of("residual").by_work is None
  few = [dataclasses.replace(r, work_tokens=[9, 9], work_nats=[9.0, 8.0]) for r in sweep()]
  assert effects.studies(few)[0].of("residual").by_work == Estimate(0.0)


def test_the_matched_sparse_mlp_is_the_nearest_in_active_neurons():
  (study,) = effects.studies(sweep())  # crate 0.30, l1 0.15 and 0.31, gpt2 0.25, topk 0.19 and 0.28
  assert study.matched == {"l1_": "l1_1e-4", "topk_": "topk_144"}
  rest = [name for name in PLANTED if name not in ("l1_1e-4", "topk_144")]
  (study,) = effects.studies(sweep(rest))
  assert study.matched == {"l1_": "gpt2", "topk_": "topk_96"}  # a weight of zero is one as well
  (study,) = effects.studies(sweep(["crate", "gpt2"]))
  assert study.matched == {}


def test_a_table_in_the_making_says_what_it_lacks():
  rows = [r for r in sweep() if not (r.variant == "t1" and r.kind == "grid")]
  rows = [r for r in rows if not (r.variant == "residual" and r.seed == 1)]
  rows = [
    dataclasses.replace(r, loss=math.nan) if (r.variant, r.seed, r.steps) == ("t4", 2, 800) else r
    for r in rows
  ]
  (study,) = effects.studies(rows)
  assert study.missing == (
    "t1 has no cell of 800 steps",
    "residual lacks seed 1",
    "t4 lacks seed 2",
    "t4-2x128x4-800-seed2 has no finite loss and is left out",
  )
  two = study.of("residual")
  base = study.of("crate").losses
  assert two.difference.p == pytest.approx(
    stats.ttest_rel([two.losses[0], two.losses[2]], [base[0], base[2]]).pvalue
  )
  (single,) = effects.studies(sweep(seeds=(0,)))
  assert "there is one seed, so no difference has an interval over seeds" in single.missing
  effect = single.of("residual")
  assert effect.difference.low is effect.holm is effect.pooled is effect.closed.low is None
  (alone,) = effects.studies(sweep(["gpt2", "residual"]))
  assert alone.missing == ("crate has no cell of 800 steps, so nothing is compared with it",)
  assert all(effect.difference is None for effect in alone.effects)


def test_a_rate_at_the_end_of_those_tried_is_marked():
  rows = [dataclasses.replace(r, learning_rate=6e-3) if r.kind == "grid" else r for r in sweep()]
  assert all(effect.outermost for effect in effects.studies(rows)[0].effects)


def test_shapes_are_studied_apart():
  wide = [dataclasses.replace(r, width=256) for r in sweep(["crate", "t1"])]
  narrow, wider = effects.studies([*sweep(), *wide])
  assert (narrow.width, wider.width, len(wider.effects)) == (128, 256, 2)


def test_what_does_not_compare_is_refused():
  with pytest.raises(UserError, match="nothing to report yet"):
    effects.studies([r for r in sweep() if r.kind == "trial"])
  with pytest.raises(UserError, match="2 different texts"):
    effects.studies([row(), row("t1", text="0")])
  with pytest.raises(UserError, match="the same cell trained twice"):
    effects.studies([row(), row()])
