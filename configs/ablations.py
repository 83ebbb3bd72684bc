"""What each part of CRATE does for its loss: one part changed at a time, GPT-2 beside.

  python -m crate_jax.scaling.sweep --config=configs/ablations.py --workdir=runs/ablations \\
    --jobs=2 --config.data.train=books.txt.xz
  python -m crate_jax.scaling.ablations --workdir=runs/ablations --out=runs/ablations/report

The best four on to three times the tokens, with crate and gpt2 beside them, in the same folder:

  python -m crate_jax.scaling.sweep --workdir=runs/ablations --jobs=2 \\
    --config=configs/ablations.py:long=crate_alpha+separate+mlp+query \\
    --config.data.train=books.txt.xz

Argument: nothing, or long=NAME+NAME+... of `VARIANTS`.

2 layers of width 128, 4 heads, context 256, 4 windows a step, 819,200 tokens; text and recipe of
configs/plateau.py; three seeds, three rates each. Half the length is trained too, as a branch of
the same trunk: there the rates are tried, and it gives the slope by which crate is compared at
another variant's FLOPs. 82,560 updates of 1,024 tokens, and 31,680 more for the best four: they
took 2.0 and 0.5 hours of two CPU cores at 8,700 tokens/s each, a third of the first beside training
(192 cells are compiled and scored). There is no published number to compare with.
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
STEPS = (400, 800)
LONGER = 3  # times the longest, for the best


def get_config(argument: str = "") -> config_dict.ConfigDict:
  """configs/plateau.py, as a sweep over `VARIANTS`."""
  chosen = _chosen(argument)
  c = plateau.get_config()
  c.optimizer.warmup_steps = 20  # 5 % of the shortest length
  c.evaluation.every_steps = 200
  c.sweep.variants = config_dict.ConfigDict({name: VARIANTS[name] for name in chosen})
  c.sweep.shapes = ("2x128x4",)
  c.sweep.steps = (*STEPS, LONGER * STEPS[-1]) if argument else STEPS
  c.sweep.seeds = (0, 1, 2)
  c.sweep.rates = (7.5e-4, 1.5e-3, 3e-3)
  c.sweep.trials = (f"2x128x4@{STEPS[0]}",)
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
