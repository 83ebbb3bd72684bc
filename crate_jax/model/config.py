"""The frozen description of a model; everything that decides its arithmetic and its tree."""

import dataclasses

from crate_jax.errors import UserError

ARCHITECTURES = ("crate", "gpt2")
DTYPES = ("float32", "bfloat16", "float64")
REMAT_POLICIES = ("none", "dots", "full")
ATTENTION_KERNELS = ("auto", "plain")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A resolved model configuration. The keys are explained in configs/base.py."""

  architecture: str
  layers: int
  width: int
  heads: int
  context: int
  vocab_size: int
  overcompleteness: int
  ista_steps: int
  eta: float
  lam: float
  dtype: str
  attention: str
  remat: str
  unroll: bool

  def __post_init__(self) -> None:
    _one_of("architecture", self.architecture, ARCHITECTURES)
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

  @property
  def head_width(self) -> int:
    """Dimension p of one subspace (CRATE) or of one head (GPT-2)."""
    return self.width // self.heads

  @property
  def codes(self) -> int:
    """Neurons per layer: dictionary atoms (CRATE) or hidden units of the MLP (GPT-2)."""
    return self.overcompleteness * self.width


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
  if value not in choices:
    raise UserError(f"model.{name}={value!r} is not one of: {', '.join(choices)}.")
