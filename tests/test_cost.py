"""What a sweep costs, against sums by hand; and what configs say that they cost."""

import re

import pytest

from configs import ablations, plateau_pile
from crate_jax.errors import UserError
from crate_jax.scaling import cost
from crate_jax.training import hardware

V5E = dict(hardware.PEAKS)["TPU v5 lite"].flops
MFU = {128: 0.1, 768: 0.4}


def flops_per_token(layers, d, V=50304, T=1024):
  """Of training CRATE: 36 d^2 and the scores a block, and the head, three times."""
  return 3 * (layers * (36 * d * d + 4 * T * d) + 2 * d * V)


def test_a_trunk_is_trained_once_and_every_decay_for_itself():
  c = plateau_pile.get_config("12L")
  crate, gpt2 = cost.costs(c)
  assert (crate.shape, crate.variant, gpt2.variant) == ("12x768x12", "crate", "gpt2")
  lengths, seeds = c.sweep.steps, 3
  grid = seeds * (0.8 * max(lengths) + 0.2 * sum(lengths))
  # The middle rate's trials, seed 0, are cells of the grid; the others share a trunk of their own.
  trials = 2 * (0.8 * 75_000 + 0.2 * (18_750 + 75_000))
  check = 75_000  # by the cosine schedule, from its start
  assert crate.updates == gpt2.updates == grid + trials + check
  assert crate.alone == seeds * sum(lengths) + 2 * (18_750 + 75_000) + check
  assert crate.flops_per_token == flops_per_token(12, 768)
  assert crate.flops == pytest.approx(crate.updates * 262_144 * flops_per_token(12, 768))
  hours = crate.updates * 262_144 * flops_per_token(12, 768) / (0.4 * 197e12) / 3600
  assert cost.chip_hours(crate, V5E, MFU) == pytest.approx(hours)
  # Where it leaves its trunk (the first of a trunk leaves none), where the next does, and its end.
  assert crate.checkpoints == 3 * (18 + 4 + 1) - (3 + 2 + 1)
  assert crate.checkpoint_bytes == crate.checkpoints * 12 * (81_148_416 + 1024 * 768)


def test_the_config_of_the_pile_says_what_it_costs():
  c, text = plateau_pile.get_config(), plateau_pile.__doc__
  table = [f"  {line}" for line in cost.table(c, "TPU v5 lite", MFU)]
  assert "\n".join(table) in text
  found = cost.costs(c)
  hours = [cost.chip_hours(one, V5E, MFU) for one in found]
  assert f"A v5e-256 would take {sum(hours) / 256:.0f} hours" in text
  timed = [h / 64 / (c.checkpoint.every_minutes / 60) for h in hours]
  size = sum(n * x.checkpoint_bytes / x.checkpoints for n, x in zip(timed, found, strict=True))
  assert f"are {sum(timed):.0f} more, of {size / 1e9:.0f} GB" in " ".join(text.split())
  updates, alone = (sum(getattr(one, name) for one in found) for name in ("updates", "alone"))
  assert 1 - updates / alone == pytest.approx(2 / 5, abs=0.05)  # "two updates of five"
  assert "--mfu=128:0.1,768:0.4" in text and cost.shares("128:0.1,768:0.4") == MFU


def test_the_config_of_the_ablations_says_what_it_costs():
  text = " ".join(ablations.__doc__.split())
  second = re.search(r"ablations.py:(long=\S+)", text)[1]
  first, both = cost.costs(ablations.get_config()), cost.costs(ablations.get_config(second))
  # The second goes on from the first's trunks and repeats none of its trials.
  there = {one.variant: one.updates for one in first}
  more = sum(one.updates - there[one.variant] for one in both)
  updates = sum(there.values())
  assert f"{updates:,} updates of 1,024 tokens, and {more:,} more for the best four" in text
  hours = re.search(r"they took ([\d.]+) and ([\d.]+) hours .* at ([\d,]+) tokens/s each", text)
  training = [n * 1024 / 2 / int(hours[3].replace(",", "")) / 3600 for n in (updates, more)]
  assert float(hours[1]) * 2 / 3 == pytest.approx(training[0], abs=0.05)
  assert float(hours[2]) == pytest.approx(training[1], abs=0.05)


def test_shares_and_chips_that_are_none_are_refused():
  assert cost.shares("0.5") == {0: 0.5}
  for wrong in ("x", "128:", "0", "128:2", ""):
    with pytest.raises(UserError, match=f"--mfu={wrong}"):
      cost.shares(wrong)
  c = plateau_pile.get_config("1L")
  with pytest.raises(UserError, match="--chip=abacus is not one of: TPU v4, "):
    cost.table(c, "abacus", {0: 0.4})
  with pytest.raises(UserError, match="names no share for the width 128"):
    cost.table(c, "TPU v4", {768: 0.4})
