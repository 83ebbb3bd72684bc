"""The frozen description of a model; everything that decides its arithmetic and its tree."""

import dataclasses

from crate_jax.errors import UserError
from crate_jax.model.presets import PRESETS

MIXINGS = ("mssa", "mssa_query", "mha", "tssa")
FEATURES = ("ista", "mlp", "topk", "none")
DECODERS = ("tied", "separate", "none")
DTYPES = ("float32", "bfloat16", "float64")
REMAT_POLICIES = ("none", "dots", "full")
ATTENTION_KERNELS = ("auto", "plain", "cudnn", "splash")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A resolved model configuration. The keys are explained in configs/base.py."""

  architecture: str
  layers: int
  width: int
  heads: int
  context: int
  vocab_size: int
  mixing: str
  query_rank: int
  bias: bool
  features: str
  residual: bool
  decoder: str
  overcompleteness: int
  ista_steps: int
  warm_start: bool
  nonnegative: bool
  eta: float
  lam: float
  learned_eta: bool
  learned_lam: bool
  l1: float
  topk: int
  dtype: str
  attention: str
  remat: str
  unroll: bool | None

  def __post_init__(self) -> None:
    _one_of("architecture", self.architecture, tuple(PRESETS))
    _one_of("mixing", self.mixing, MIXINGS)
    _one_of("features", self.features, FEATURES)
    _one_of("decoder", self.decoder, DECODERS)
    _one_of("dtype", self.dtype, DTYPES)
    _one_of("remat", self.remat, REMAT_POLICIES)
    _one_of("attention", self.attention, ATTENTION_KERNELS)
    for name in ("layers", "width", "heads", "vocab_size", "overcompleteness"):
      if getattr(self, name) < 1:
        raise UserError(f"model.{name}={getattr(self, name)} must be at least 1.")
    if self.context < 2:
      raise UserError(f"model.context={self.context} must be at least 2.")
    if self.ista_steps < 1:
      raise UserError(f"model.ista_steps={self.ista_steps} must be at least 1.")
    if self.eta <= 0 or self.lam < 0:
      raise UserError(
        f"model.eta={self.eta} must be positive and model.lam={self.lam} not negative."
      )
    if self.width % self.heads:
      raise UserError(f"model.heads={self.heads} does not divide model.width={self.width}.")
    self._check_parts()

  def _check_parts(self) -> None:
    """Refuses options that contradict each other, or that the chosen parts do not have."""
    ista, mlp = self.features == "ista", self.features in ("mlp", "topk")
    complete = self.overcompleteness == 1
    for wrong, key, reason in [
      (self.query_rank and self.mixing != "mssa_query", "query_rank", 'model.mixing="mssa_query"'),
      (self.warm_start and not ista, "warm_start", 'model.features="ista"'),
      (not self.nonnegative and not ista, "nonnegative", 'model.features="ista"'),
      (self.learned_eta and not ista, "learned_eta", 'model.features="ista"'),
      (self.learned_lam and not ista, "learned_lam", 'model.features="ista"'),
      (self.l1 and self.features != "mlp", "l1", 'model.features="mlp"'),
      (self.topk and self.features != "topk", "topk", 'model.features="topk"'),
    ]:
      if wrong:
        raise UserError(f"model.{key}={getattr(self, key)!r} only goes with {reason}.")
    for wrong, sentence in [
      (
        not 0 <= self.query_rank < self.width,
        f"model.query_rank={self.query_rank} is not from 0 (a full query) to model.width - 1.",
      ),
      (self.l1 < 0, f"model.l1={self.l1} must not be negative."),
      (
        self.features == "topk" and not 1 <= self.topk <= self.codes,
        f"model.topk={self.topk} is not from 1 to the {self.codes} neurons of a layer.",
      ),
      (
        mlp and self.decoder != "separate",
        f"model.decoder={self.decoder!r} contradicts model.features={self.features!r}: an MLP's "
        'decoder is "separate".',
      ),
      (
        self.features == "none" and (self.decoder != "none" or not self.residual),
        'model.features="none" has nothing to decode and keeps the stream: model.decoder="none" '
        "and model.residual=True.",
      ),
      (
        self.warm_start and not complete,
        f"model.warm_start=True starts from the tokens, which are codes only in a complete "
        f"dictionary: model.overcompleteness=1, not {self.overcompleteness}.",
      ),
      (
        ista and self.decoder == "none" and not complete,
        f'model.decoder="none" makes the codes the stream, which only fits a complete dictionary: '
        f"model.overcompleteness=1, not {self.overcompleteness}.",
      ),
      (
        self.attention == "splash" and self.context % 128 > 0,
        f'model.attention="splash" needs a model.context of a multiple of 128, not {self.context}.',
      ),
      (
        self.learned_lam and self.lam == 0,
        "model.learned_lam=True keeps lambda positive: model.lam=0 is no place to start from.",
      ),
    ]:
      if wrong:
        raise UserError(sentence)

  @property
  def head_width(self) -> int:
    """Dimension p of one subspace (CRATE) or of one head (GPT-2)."""
    return self.width // self.heads

  @property
  def codes(self) -> int:
    """Neurons per layer: dictionary atoms (ISTA), hidden units (MLP), or none."""
    return 0 if self.features == "none" else self.overcompleteness * self.width

  @property
  def code_steps(self) -> int:
    """How many codes in a row a feature step computes: A1 to A(this), the last its neurons."""
    return {"ista": self.ista_steps, "mlp": 1, "topk": 1, "none": 0}[self.features]


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
  if value not in choices:
    raise UserError(f"model.{name}={value!r} is not one of: {', '.join(choices)}.")
