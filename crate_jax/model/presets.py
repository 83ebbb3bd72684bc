"""The published models of the family: which parts each is made of.

A preset gives the keys of `ModelConfig` that set its architecture apart. In a config those keys are
None, which takes the preset's value, so that any one part can be swapped by setting its key.
"""

from collections.abc import Callable
from typing import Any

Parts = dict[str, Any]


def crate() -> Parts:
  """CRATE for language (Bai and Ma 2025, arXiv 2410.16443, section 3).

  x <- x + MSSA(LN(x)); x <- D A2, with A2 two ISTA steps from zero on LN(x) in an overcomplete
  dictionary D of n = 4, which decodes as well; no residual round it.
  """
  return _parts(mixing="mssa", features="ista", residual=False, decoder="tied", bias=True)


def crate_complete() -> Parts:
  """CRATE for vision (Yu et al. 2023, arXiv 2306.01129, eq. 17), made causal.

  x <- x + MSSA(LN(x)); x <- ReLU(y - eta D^T (D y - y) - eta lambda) with y = LN(x): one ISTA step
  that starts from the tokens themselves in a complete (d x d) dictionary. The codes are the stream.
  """
  return _parts(
    mixing="mssa",
    features="ista",
    residual=False,
    decoder="none",
    bias=True,
    overcompleteness=1,
    ista_steps=1,
    warm_start=True,
  )


def crate_alpha() -> Parts:
  """CRATE-alpha (Yang et al. 2024, arXiv 2405.20299, section 3), made causal.

  The overcomplete ISTA of two steps, decoded by a dictionary of its own and added to the stream:
  x <- x + D1 A2.
  """
  return _parts(mixing="mssa", features="ista", residual=True, decoder="separate", bias=True)


def tost() -> Parts:
  """The token statistics transformer (Wu et al. 2024, arXiv 2412.17810, causal TSSA).

  x <- x + TSSA(LN(x)); x <- x + MLP(LN(x)). Attention in linear time. Two differences from the
  released language model: its MLP has a GELU, ours the paper's ReLU; and it adds a learned bias for
  each head and position to the logits of the membership, which the equation does not have.
  """
  return _parts(mixing="tssa", features="mlp", residual=True, decoder="separate", bias=False)


def aot() -> Parts:
  """The attention-only transformer (Wang et al. 2025, arXiv 2506.03790): x <- x + MSSA(LN(x))."""
  return _parts(mixing="mssa", features="none", residual=True, decoder="none", bias=True)


def gpt2() -> Parts:
  """The baseline of Bai and Ma 2025: GPT-2 (Radford et al. 2019) with a ReLU and no biases.

  x <- x + MHA(LN(x)); x <- x + MLP(LN(x)).
  """
  return _parts(mixing="mha", features="mlp", residual=True, decoder="separate", bias=False)


def _parts(
  *, overcompleteness: int = 4, ista_steps: int = 2, warm_start: bool = False, **parts: Any
) -> Parts:
  return {
    "overcompleteness": overcompleteness,
    "ista_steps": ista_steps,
    "warm_start": warm_start,
    **parts,
  }


PRESETS: dict[str, Callable[[], Parts]] = {
  preset.__name__: preset for preset in (crate, crate_complete, crate_alpha, tost, aot, gpt2)
}
