"""What each part of CRATE does for its loss: one part changed at a time, GPT-2 beside.

  python -m crate_jax.scaling.sweep --config=configs/ablations.py --workdir=runs/ablations \\
    --config.data.train=data/books.txt
  python -m crate_jax.scaling.ablations --workdir=runs/ablations --out=benchmarks/ablations

The best four at three times the tokens, with crate and gpt2 beside them:

  python -m crate_jax.scaling.sweep --workdir=runs/ablations_long \\
    --config=configs/ablations.py:long=residual+separate+query+crate_alpha \\
    --config.data.train=data/books.txt
  python -m crate_jax.scaling.ablations --workdir=runs/ablations --long=runs/ablations_long \\
    --out=benchmarks/ablations

Argument: nothing, or long=NAME+NAME+... of `VARIANTS`.

2 layers of width 128, 4 heads, context 256, 4 windows a step, 819,200 tokens; text and recipe of
configs/plateau.py; three seeds, three rates each. Half the length is trained too, as a branch of
the same trunk: there the rates are tried, and it gives the slope by which crate is compared at
another variant's FLOPs. 82,560 updates of 1,024 tokens: 4.0 hours at the 5,870 tokens/s of
docs/family.md (two CPU cores that did other work). The second stage, with four variants as above:
61,920 updates, 3.0 hours. There is no published number to compare with.
"""

from ml_collections import config_dict

from configs import plateau
from crate_jax.errors import UserError

# crate has t = 2, lambda = 0.1, n = 4, a tied decoder, no residual, codes by ReLU, q = k = v.
CRATE = "architecture=crate"
# Of a sparse MLP nobody knows beforehand which weight or k has crate's share of non-zero neurons:
# of those named l1_* (and gpt2, whose weight is 0) and topk_* the analysis takes the nearest.
VARIANTS = {
  "crate": CRATE,
  "gpt2": "architecture=gpt2",
  "crate_alpha": "architecture=crate_alpha",  # separate decoder and residual
  "t1": f"{CRATE},ista_steps=1",
  "t4": f"{CRATE},ista_steps=4",
  "lambda_quarter": f"{CRATE},lam=0.025",
  "lambda_half": f"{CRATE},lam=0.05",
  "lambda_double": f"{CRATE},lam=0.2",
  "lambda_fourfold": f"{CRATE},lam=0.4",
  "n1": f"{CRATE},overcompleteness=1",
  "n2": f"{CRATE},overcompleteness=2",
  "n8": f"{CRATE},overcompleteness=8",
  "separate": f"{CRATE},decoder=separate",
  "residual": f"{CRATE},residual=true",
  "soft": f"{CRATE},nonnegative=false",  # codes of both signs
  "query": f"{CRATE},mixing=mssa_query",  # a query of its own
  "mha": f"{CRATE},mixing=mha",  # GPT-2's attention in place of MSSA
  "mlp": f"{CRATE},features=mlp,decoder=separate",  # GPT-2's MLP in place of ISTA
  "l1_1e-5": "architecture=gpt2,l1=1e-5",
  "l1_3e-5": "architecture=gpt2,l1=3e-5",
  "l1_1e-4": "architecture=gpt2,l1=1e-4",
  "topk_96": "architecture=gpt2,features=topk,topk=96",  # of 512
  "topk_144": "architecture=gpt2,features=topk,topk=144",
  "topk_208": "architecture=gpt2,features=topk,topk=208",
}
BESIDE = ("crate", "gpt2")  # in every sweep
STEPS = 800
LONGER = 3  # times the steps, in the second stage


def get_config(argument: str = "") -> config_dict.ConfigDict:
  """configs/plateau.py, as a sweep over `VARIANTS`."""
  chosen, steps = _chosen(argument), STEPS * (LONGER if argument else 1)
  c = plateau.get_config()
  c.train.steps = steps
  c.optimizer.warmup_steps = 20  # 5 % of the shortest length
  c.evaluation.every_steps = 200
  c.sweep.variants = config_dict.ConfigDict({name: VARIANTS[name] for name in chosen})
  c.sweep.shapes = ("2x128x4",)
  c.sweep.steps = (steps // 2, steps)
  c.sweep.seeds = (0, 1, 2)
  c.sweep.rates = (7.5e-4, 1.5e-3, 3e-3)
  c.sweep.trials = (f"2x128x4@{steps // 2}",)
  c.sweep.interior = False  # three rates each, and the analysis says whose best is the outermost
  c.sweep.checks = ()
  return c


def _chosen(argument: str) -> tuple[str, ...]:
  if not argument:
    return tuple(VARIANTS)
  stage, _, names = argument.partition("=")
  chosen = [name for name in names.split("+") if name]
  if stage != "long" or not chosen:
    raise UserError(f"The config's argument {argument!r} is not long=NAME+NAME+...")
  for name in chosen:
    if name not in VARIANTS:
      raise UserError(f"Unknown variant {name!r} in the config's argument: see VARIANTS in it.")
  return tuple(dict.fromkeys((*BESIDE, *chosen)))
