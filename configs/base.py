"""The paper's models: CRATE-Base and its nine relatives, with the paper's recipe.

  python -m crate_jax.main --config=configs/base.py:6L,gpt2 --workdir=runs/gpt6 \\
    --config.data.prepared=data/pile

Argument: SIZE[,ARCHITECTURE], of 1L 2L 3L 6L 12L (the paper's), 1B 7B 30B (larger ones of the same
proportions: docs/scaling.md) and the presets of crate_jax/model/presets.py:
crate, crate_complete, crate_alpha, tost, aot, gpt2 (docs/family.md); 12L,crate by default.

Hardware and time: 600,000 steps of 262,144 tokens are 157 B tokens. CRATE 12L at 1.11 GFLOP per
token takes 1.7e20 operations: an estimated 15 hours on 8 H100 at 40 % of their bf16 peak (from
the count, not measured); GPT-2 12L an estimated 12. One accelerator does not hold the
activations of a whole batch: set train.accumulation (16 or more on 80 GB).

Published loss (Bai and Ma 2025, uncopyrighted Pile, read off the figure, +-0.01 nats per token):

           1L    2L    3L    6L    12L
  CRATE   4.06  3.55  3.46  2.36  2.27
  GPT-2   3.83  3.23  3.11  2.16  2.13

It names no text: configs/pile.py and configs/c4.py name the paper's and C4, and say how to prepare
them. --config.data.train=python_stdlib trains on what every machine has, Python's own library; it
cannot reproduce those numbers.

This file holds every key there is. Overrides (--config.model.layers=4) apply after `get_config`,
so a key that depends on another is None here and resolved once, in crate_jax/config.py.
"""

from ml_collections import config_dict

from crate_jax.errors import UserError
from crate_jax.model.presets import PRESETS

# layers, width, heads, windows in a batch, TPU slice. The first five are the paper's (Bai and Ma
# 2025, table of model sizes); the others keep its proportions: heads of 64, width 64 times layers.
SIZES = {
  "1L": (1, 128, 4, 256, "v5e:4x4"),
  "2L": (2, 128, 4, 256, "v5e:4x4"),
  "3L": (3, 128, 4, 256, "v5e:4x4"),
  "6L": (6, 768, 12, 256, "v5e:8x8"),
  "12L": (12, 768, 12, 256, "v5e:8x8"),
  "1B": (32, 2048, 32, 512, "v6e:16x16"),
  "7B": (64, 4096, 64, 1024, "v5p:4x8x8"),
  "30B": (108, 6912, 108, 1024, "v5p:4x8x8"),
}


def get_config(argument: str = "12L,crate") -> config_dict.ConfigDict:
  """Every key, with the paper's values, for SIZE[,ARCHITECTURE]."""
  size, _, architecture = argument.partition(",")
  architecture = architecture or "crate"
  if size not in SIZES:
    raise UserError(f"Unknown size {size!r} in the config's argument: one of {', '.join(SIZES)}.")
  if architecture not in PRESETS:
    raise UserError(
      f"Unknown architecture {architecture!r} in the config's argument: "
      f"one of {', '.join(PRESETS)}."
    )
  layers, width, heads, batch_size, topology = SIZES[size]
  large = size.endswith("B")  # the state is split over all devices, activations are recomputed

  c = config_dict.ConfigDict()
  c.seed = 0  # of the initial parameters and of the order of the data
  c.init_from = ""  # "WORKDIR[@STEP]" of a run whose weights and tokenizer to start from

  c.model = m = config_dict.ConfigDict()
  m.architecture = architecture  # a preset: gives the keys of `m` that are None here
  m.layers = layers  # blocks
  m.width = width  # d, dimension of the stream
  m.heads = heads  # subspaces (CRATE) or heads (GPT-2); must divide the width
  m.context = 1024  # tokens in a window, the most the model sees
  m.vocab_size = config_dict.placeholder(int)  # rows of the embedding; None: the tokenizer's
  m.vocab_size = 50304  # GPT-2's 50,257 padded to a multiple of 128
  m.mixing = config_dict.placeholder(str)  # "mssa" (q = k = v), "mssa_query", "mha", "tssa" (ToST)
  m.query_rank = 0  # rank of the query of "mssa_query"; 0 for a full one
  m.bias = config_dict.placeholder(bool)  # shifts in LayerNorms and the mixing's output projection
  m.features = config_dict.placeholder(str)  # "ista", "mlp" (ReLU), "topk" (sparse MLP), "none"
  m.residual = config_dict.placeholder(bool)  # add the feature step to the stream, or replace it
  m.decoder = config_dict.placeholder(str)  # "tied", "separate", "none" (the codes go on; n = 1)
  m.overcompleteness = config_dict.placeholder(int)  # n: atoms or hidden units per unit of width
  m.ista_steps = config_dict.placeholder(int)  # t, proximal steps of ISTA
  m.warm_start = config_dict.placeholder(bool)  # ISTA from the tokens, not from zero; n = 1 only
  m.nonnegative = True  # ISTA's codes by ReLU; False for the signed soft threshold
  m.eta = 0.1  # step size of ISTA
  m.lam = 0.1  # lambda, weight of ISTA's sparsity term; a step's threshold is eta * lam
  m.learned_eta = False  # learn eta, one for each layer, starting from `eta`
  m.learned_lam = False  # likewise lambda
  m.l1 = 0.0  # weight of the L1 penalty on an "mlp"'s neurons in the training loss
  m.topk = 0  # neurons of "topk" that a token keeps
  m.dtype = "bfloat16"  # of the computation: float32, bfloat16, float64; parameters stay float32
  m.attention = "auto"  # kernel: the device's best of "plain", "cudnn" (GPU), "splash" (TPU)
  m.remat = "full" if large else "none"  # recomputed backward: "none", "dots" (no products), "full"
  m.unroll = config_dict.placeholder(bool)  # each layer compiled by itself; None: if faster there

  c.data = d = config_dict.ConfigDict()
  d.prepared = ""  # folders of `crate_jax.prepare`, DIR or DIR=WEIGHT,...; "": read `train` instead
  d.train = ""  # "python_stdlib", "tfds:NAME:SPLIT:FEATURE", or a file or folder (text, .jsonl)
  d.validation = ""  # likewise; "" sets documents of `train` aside
  d.validation_fraction = 0.1  # share of the text set aside when `validation` is ""
  d.tokenizer = "bpe"  # trained here; "characters"; "bytes"; a tokenizer.json; GPT-2's folder
  d.bpe_vocab_size = 50257  # tokens of a "bpe" tokenizer, at most
  d.cache_dir = ""  # where trained tokenizers are kept; "" is ~/.cache/crate_jax

  c.optimizer = o = config_dict.ConfigDict()
  o.learning_rate = 6e-4  # peak rate of AdamW
  o.final_learning_rate = config_dict.placeholder(float)  # None: a tenth of the peak
  o.schedule = "cosine"  # after the warm-up: "cosine", or "wsd" (constant, then 1 - sqrt decay)
  o.warmup_steps = 2000  # steps of linear warm-up
  o.decay_fraction = 0.2  # last part of the steps in which "wsd" decays; 0 keeps the rate constant
  o.beta1 = 0.9  # decay of AdamW's first moment
  o.beta2 = 0.95  # decay of AdamW's second moment
  o.weight_decay = 0.1  # on tensors of two or more dimensions per layer
  o.clip_norm = 1.0  # global norm of the gradient at most; 0 does not clip

  c.train = t = config_dict.ConfigDict()
  t.steps = 600_000  # updates of the parameters
  t.batch_size = batch_size  # windows in one update, over all devices
  t.accumulation = 1  # parts in which an update's batch is computed, one after the other
  t.log_every_steps = 100  # between lines of metrics.jsonl
  t.max_refused = 10  # updates in a row that are not finite, before the run goes back
  t.stall_minutes = 30.0  # without the end of a step, save, batch or compilation: it ends; 0: never

  c.evaluation = e = config_dict.ConfigDict()
  e.every_steps = 2000  # between evaluations; the end of a run always has one
  e.tokens = 4_000_000  # tokens scored, the first of the validation text; 0 scores them all

  c.checkpoint = k = config_dict.ConfigDict()
  k.every_steps = 10_000  # between checkpoints; 0 for none by steps
  k.every_minutes = 30.0  # likewise by time; 0 for none by time. The end of a run always saves
  k.keep = 3  # newest checkpoints that are kept

  c.mesh = h = config_dict.ConfigDict()
  h.data = 1 if large else -1  # devices along which the batch is split; -1 takes those left
  h.fsdp = -1 if large else 1  # devices along which the batch and the parameters are split
  h.tensor = 1  # devices along which heads, codes and vocabulary are split
  h.topology = topology  # TPU slice that this is sized for; only `main --compile_only` reads it

  c.sweep = s = config_dict.ConfigDict()  # the grid of `crate_jax.scaling.sweep` alone
  s.variants = config_dict.ConfigDict()  # NAME = "KEY=VALUE,..." of keys of `model`
  s.shapes = ()  # "LAYERSxWIDTHxHEADS", in the order in which they are trained
  s.steps = ()  # lengths, in updates: each ends with the decay of the rate
  s.seeds = ()  # of every cell; the rates are tried with the first
  s.rates = ()  # peak rates tried, of every variant as many; (): optimizer.learning_rate for all
  s.interior = True  # try more rates until no variant's best is the lowest or the highest
  s.trials = ()  # "SHAPE@STEPS", where they are tried: the smallest cell and the largest
  s.checks = ()  # "VARIANT@SHAPE@STEPS", trained by the cosine schedule as well
  s.works = 64  # reserved documents that are scored, spread evenly over all: half choose rates
  s.tokens_per_work = 2049  # of each of these, from its middle; one more than are scored
  return c
