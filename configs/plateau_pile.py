"""The plateau's sweep at the paper's sizes, on the paper's text, for a pod. Not run here.

  python -m crate_jax.scaling.sweep --config=configs/plateau_pile.py --workdir=runs/plateau_pile
  python -m crate_jax.scaling.plateau --workdir=runs/plateau_pile --out=benchmarks/plateau_pile

Argument: SIZE+SIZE+... of 1L 2L 3L 6L 12L, all by default: a pod can be given one of them.

Costs, by `python -m crate_jax.scaling.cost --config=configs/plateau_pile.py --mfu=128:0.1,768:0.4`:
v5e chips at an assumed 10 % of their peak for width 128 and 40 % for width 768 (the compiler's
bounds are 21 % and 65 to 76 %, docs/scaling.md); operations exact, evaluations not counted. Lengths
share their trunk, which saves two updates of five: "alone" is without that. "saved" counts
checkpoints, of 12 bytes a parameter. Rates that the sweep adds in search of an interior best come
on top.

      shape  variant   parameters     updates       alone     FLOPs  chip-hours  saved     GB
    1x128x4    crate    6,538,112   2,186,250   3,581,250  2.41e+19         339     55    4.4
    1x128x4     gpt2    6,635,904   2,186,250   3,581,250  2.37e+19         334     55    4.5
    2x128x4    crate    6,637,056   2,381,250   3,806,250  2.83e+19         399     63    5.1
    2x128x4     gpt2    6,832,768   2,381,250   3,806,250  2.76e+19         389     63    5.3
    3x128x4    crate    6,736,000   2,186,250   3,581,250  2.79e+19         393     55    4.5
    3x128x4     gpt2    7,029,632   2,186,250   3,581,250  2.69e+19         379     55    4.7
   6x768x12    crate   59,891,712   2,186,250   3,581,250  3.84e+20       1,355     55   40.0
   6x768x12     gpt2   81,110,784   2,186,250   3,581,250  3.11e+20       1,097     55   54.1
  12x768x12    crate   81,148,416   2,381,250   3,806,250  6.93e+20       2,441     63   61.9
  12x768x12     gpt2  123,587,328   2,381,250   3,806,250  5.34e+20       1,881     63   94.0
        all                        22,642,500  36,712,500  2.08e+21       9,008    582  278.6

A v5e-256 would take 35 hours, were it as well used as that. On 64 chips the checkpoints that are
saved every two hours, in case the pod is taken away, are 70 more, of 58 GB.

configs/pile.py says how to prepare the text and what that costs.
"""

from ml_collections import config_dict

from configs import base, pile
from crate_jax.errors import UserError

SIZES = ("1L", "2L", "3L", "6L", "12L")
LENGTHS = (18_750, 37_500, 75_000, 150_000, 300_000, 600_000)  # the last is the paper's
# Where the rates are tried: at every size the shortest, at two the longer, to see the rate move.
TRIED_LONGER = ("2L", "12L")


def get_config(argument: str = "") -> config_dict.ConfigDict:
  """configs/pile.py, as a sweep over sizes and lengths."""
  sizes = tuple(argument.split("+")) if argument else SIZES
  for size in sizes:
    if size not in SIZES:
      raise UserError(f"Unknown size {size!r} in the config's argument: of {', '.join(SIZES)}.")
  shapes = {size: "x".join(map(str, base.SIZES[size][:3])) for size in sizes}
  c = pile.get_config(f"{sizes[-1]},crate")
  c.optimizer.schedule = "wsd"
  c.optimizer.warmup_steps = 900  # the paper's 2,000 are more than 5 % of the shortest length
  c.optimizer.final_learning_rate = 0.0
  c.checkpoint.every_minutes = 120.0  # all are kept, by time and where lengths leave their trunk
  c.train.steps = LENGTHS[-1]
  c.sweep.works = 2048  # a window of each: documents of the Pile are short
  c.sweep.tokens_per_work = 1025
  c.sweep.variants = config_dict.ConfigDict(
    {"crate": "architecture=crate", "gpt2": "architecture=gpt2"}
  )
  c.sweep.shapes = tuple(shapes.values())
  c.sweep.steps = LENGTHS
  c.sweep.seeds = (0, 1, 2)
  c.sweep.rates = (3e-4, 6e-4, 1.2e-3)
  longer = [size for size in TRIED_LONGER if size in shapes]
  c.sweep.trials = (
    *(f"{shape}@{LENGTHS[0]}" for shape in shapes.values()),
    *(f"{shapes[size]}@{LENGTHS[2]}" for size in longer),
  )
  c.sweep.checks = tuple(
    f"{name}@{shapes[size]}@{LENGTHS[2]}" for name in ("crate", "gpt2") for size in longer
  )
  return c
