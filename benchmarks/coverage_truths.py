"""Simulated studies: truths, and the runs that a sweep would have drawn round them."""

import dataclasses
from collections.abc import Callable

import numpy as np

from crate_jax.scaling import uncertainty
from crate_jax.scaling.uncertainty import Noise

Curve = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Design:
  """What a study is: lengths, seeds at each, and the noise that its runs have."""

  tokens_D: np.ndarray
  seeds: int
  degrees: int
  loss: Noise
  gap: Noise

  @property
  def longest(self) -> float:
    return float(self.tokens_D.max())


@dataclasses.dataclass(frozen=True)
class Truth:
  """Two curves, of x = tokens over the longest run, and what is known of their gap.

  Attributes:
    name: for the table.
    crate: loss.
    gpt2: loss.
    crosses: at how many times the longest run the gap closes; infinite: never.
  """

  name: str
  crate: Curve
  gpt2: Curve
  crosses: float


def law(E: float, excess: float, beta: float) -> Curve:
  """E + excess x^-beta."""
  return lambda x: E + excess * np.asarray(x, float) ** -beta


def truths(gap: float, E: float, excess: float, beta: float) -> list[Truth]:
  """Pairs of curves, by the kind of their gap and by where it closes.

  Args:
    gap: at the longest run.
    E: GPT-2's irreducible loss.
    excess: its loss above that at the longest run.
    beta: its exponent.
  """
  gpt2, never = law(E, excess, beta), float("inf")

  def direct(g: float, gamma: float, crosses: float) -> Truth:
    curve = law(g, gap - g, gamma)
    name = f"g + k D^-gamma, g = {g:.3f}, gamma = {gamma:g}"
    return Truth(name, lambda x: gpt2(x) + curve(x), gpt2, crosses)

  def laws(more: float, steeper: float, crosses: float) -> Truth:
    name = f"two laws, E apart by {more:.3f}, exponents by {steeper:+.3f}"
    return Truth(name, law(E + more, excess + gap - more, beta + steeper), gpt2, crosses)

  found = [direct(gap / 3, 0.3, never), direct(gap / 5, 0.15, never), direct(gap / 1.5, 0.6, never)]
  found += [laws(gap / 2, 0.0, never), laws(0.0, -gap / 7, never), laws(gap / 3, gap / 5, never)]
  for times in (3.0, 10.0, 100.0):
    power = times**-0.3
    found.append(direct(-gap * power / (1 - power), 0.3, times))
    found.append(laws(0.0, float(np.log1p(gap / excess) / np.log(times)), times))
  return found


def simulated(
  truth: Truth, design: Design, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, Noise, Noise]:
  """Losses of both, (S, D) each, and the noise of the gap and of the losses as it is estimated.

  Groups beyond the study's own are of other shapes: pure noise will do for these.
  """
  groups = max(1, round(design.degrees / (design.seeds - 1)))
  shape = (groups, design.seeds)
  off = _cells(design.gap, shape, len(design.tokens_D), rng)
  mean = _cells(uncertainty.of_mean(design.loss, design.gap), shape, len(design.tokens_D), rng)
  x_D = design.tokens_D / design.longest
  crate_GSD, gpt2_GSD = truth.crate(x_D) + mean + off / 2, truth.gpt2(x_D) + mean - off / 2
  of_gap = uncertainty.noise(list(crate_GSD - gpt2_GSD))
  return crate_GSD[0], gpt2_GSD[0], of_gap, uncertainty.noise([*crate_GSD, *gpt2_GSD])


def _cells(
  noise: Noise, shape: tuple[int, int], lengths: int, rng: np.random.Generator
) -> np.ndarray:
  trunk = noise.trunk * rng.standard_normal((*shape, 1))
  cells: np.ndarray = trunk + noise.branch * rng.standard_normal((*shape, lengths))
  return cells
