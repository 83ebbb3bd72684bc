"""Whether each layer of a network does what it was derived to do: compress, then sparsify."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.errors import UserError
from crate_jax.interpret.coding_rate import coding_rate, gram
from crate_jax.model import activations, lm
from crate_jax.model.config import ModelConfig
from crate_jax.model.features.ista import eta_sigma2, step_sizes
from crate_jax.model.norm import layer_norm
from crate_jax.run import Run


@dataclasses.dataclass(frozen=True)
class Spread:
  """Mean and standard deviation (of a population) over windows of text."""

  mean: float
  std: float


@dataclasses.dataclass(frozen=True)
class Layer:
  """What was measured of one layer, over all windows; None where the layer has no such part.

  "Before" is the stream that enters the block, "after" that stream with the mixing step added; both
  go through the layer's first norm, LN1, so that the mixing step alone lies between them.

  Attributes:
    R_before: coding rate of the tokens LN1(x), each brought to length 1, in nats. A window of m
      tokens gives one value.
    R_after: the same after the mixing step.
    Rc_before: coding rate in the layer's subspaces: over heads, the sum of the rates of w = U^T
      LN1(x), each token's vector in each head brought to length 1. U is what MSSA and TSSA project
      with; for multi-head attention the value projection W_V.
    Rc_after: the same after the mixing step; compression is Rc_after < Rc_before.
    compressed_windows: share of the windows in which it is.
    objective: of ISTA, 1/2 ||z - a D||^2 + lambda ||a||_1 with z = LN2(x + mixing), mean over
      tokens, at the codes that ISTA starts from (zeros, or z with warm_start) and after each step.
    eta: ISTA's step size.
    lam: its lambda.
    eta_sigma2: eta * sigma_max(D)^2; a step lowers the objective for certain up to 1, except from z
      where z is negative and codes may not be.
    nonzero: share of the neurons that are not zero, mean over tokens.
    dead: share of the neurons that are zero at every token measured.
    leaving: share of the block's output, in squared length, that is orthogonal to the stream x that
      entered: 1 - cos^2 of the angle between the two, mean over tokens. Small where a block without
      a residual hands its input on, or one with a residual adds little to it.
  """

  R_before: Spread
  R_after: Spread
  Rc_before: Spread
  Rc_after: Spread
  compressed_windows: float
  objective: list[float] | None
  eta: float | None
  lam: float | None
  eta_sigma2: float | None
  nonzero: float | None
  dead: float | None
  leaving: float

  @property
  def compresses(self) -> bool:
    """Whether the mixing step lowers R^c, in the mean over windows."""
    return self.Rc_after.mean < self.Rc_before.mean

  @property
  def descends(self) -> bool | None:
    """Whether every step of ISTA lowers its objective; None without ISTA."""
    if self.objective is None:
      return None
    return all(b < a for a, b in zip(self.objective, self.objective[1:], strict=False))


def measure(model: lm.LM, params: lm.Params, windows_NT: np.ndarray) -> list[Layer]:
  """Measures every layer on windows of text, one after the other.

  At any time the activations of a single window are held, of all layers. The network computes in
  its own dtype, the gauges in float32 or wider from what it has computed.

  Args:
    model: the network.
    params: its parameters.
    windows_NT: N windows of T token ids, which is m of the coding rates.
  """
  m, R, Rc = windows_NT.shape[1], [], []
  seen: list[dict[str, np.ndarray]] = []
  for tokens_T in windows_NT:
    window = jax.device_get(_window(model, params, tokens_T[None]))
    R.append(coding_rate(window.pop("stream_grams"), m)[..., 0])
    Rc.append(coding_rate(window.pop("head_grams"), m).sum(-1))
    seen.append(window)
  rates = {"R": np.stack(R), "Rc": np.stack(Rc)}  # (windows, layers, before and after)
  means = {name: np.mean([w[name] for w in seen], axis=0) for name in seen[0] if name != "fired"}
  if model.config.codes:
    means["dead"] = 1 - np.any([w["fired"] for w in seen], axis=0).mean(-1)
  means |= _of_parameters(model.config, params)
  return [_of_layer(layer, rates, means) for layer in range(model.config.layers)]


def _of_layer(l: int, rates: dict[str, np.ndarray], means: dict[str, np.ndarray]) -> Layer:
  """Gathers what was measured of layer l."""

  def number(name: str) -> float | None:
    return float(means[name][l]) if name in means else None

  before_N, after_N = rates["Rc"][:, l].T
  return Layer(
    R_before=_spread(rates["R"][:, l, 0]),
    R_after=_spread(rates["R"][:, l, 1]),
    Rc_before=_spread(before_N),
    Rc_after=_spread(after_N),
    compressed_windows=float(np.mean(after_N < before_N)),
    objective=means["objective"][l].tolist() if "objective" in means else None,
    eta=number("eta"),
    lam=number("lam"),
    eta_sigma2=number("eta_sigma2"),
    nonzero=number("nonzero"),
    dead=number("dead"),
    leaving=float(means["leaving"][l]),
  )


def _of_parameters(config: ModelConfig, params: lm.Params) -> dict[str, np.ndarray]:
  """What ISTA's parameters alone decide, (L,) each; nothing without ISTA."""
  if config.features != "ista":
    return {}
  features = params["blocks"]["features"]
  eta_L, lam_L = step_sizes(features, config)
  sigma2_L = jax.jit(eta_sigma2)(features["dictionary"], eta_L)
  return jax.device_get({"eta": eta_L, "lam": lam_L, "eta_sigma2": sigma2_L})


def _spread(values_N: np.ndarray) -> Spread:
  return Spread(float(values_N.mean()), float(values_N.std()))


@functools.partial(jax.jit, static_argnums=0)
def _window(model: lm.LM, params: lm.Params, tokens_1T: jax.Array) -> dict[str, jax.Array]:
  """What `_layer` gives of every layer, stacked, on one window."""
  c = model.config
  names = [name for name in activations.widths(c) if name not in ("u", activations.LOGITS)]
  _, seen = activations.apply(model, {"params": params}, tokens_1T, names)
  wide = jnp.promote_types(c.dtype, jnp.float32)
  seen = {name: x_L1TU[:, 0].astype(wide) for name, x_L1TU in seen.items()}
  blocks = params["blocks"]
  lam_L = step_sizes(blocks["features"], c)[1] if c.features == "ista" else jnp.zeros(c.layers)
  return jax.vmap(functools.partial(_layer, c))(blocks, seen, lam_L)


def _layer(
  config: ModelConfig, block: Any, seen: dict[str, jax.Array], lam: jax.Array
) -> dict[str, jax.Array]:
  """One layer on one window: Gram matrices, and means over tokens."""
  x_TD = seen["stream"]
  mixed_TD = x_TD + seen["attention"]
  found = {}
  tokens = [_norm(block["norm_1"], y_TD) for y_TD in (x_TD, mixed_TD)]
  found["stream_grams"] = jnp.stack([gram(z_TD[:, None]) for z_TD in tokens])
  U_DKH = block["mixing"]["qkv"][2] if config.mixing == "mha" else block["mixing"]["subspaces"]
  found["head_grams"] = jnp.stack(
    [gram(jnp.einsum("td,dkh->tkh", z_TD, U_DKH, precision="highest")) for z_TD in tokens]
  )
  if config.features == "ista":
    z_TD = _norm(block["norm_2"], mixed_TD)
    found["objective"] = _objectives(config, block["features"]["dictionary"], seen, z_TD, lam)
  if config.codes:
    active_TC = seen[activations.neurons(config)] != 0
    found |= {"nonzero": jnp.mean(active_TC), "fired": jnp.any(active_TC, axis=0)}
  kept_TD = mixed_TD if config.residual else jnp.zeros_like(mixed_TD)
  found["leaving"] = jnp.mean(leaving(x_TD, kept_TD + seen.get("decoded", 0)))
  return found


def leaving(x_TD: jax.Array, y_TD: jax.Array) -> jax.Array:
  """Share of each token's y, in squared length, orthogonal to its x: 1 - cos^2, leaving_T.

  It is 1 where x or y is zero.
  """
  tiny = jnp.finfo(x_TD.dtype).tiny

  def unit(v_TD: jax.Array) -> jax.Array:
    return v_TD / jnp.maximum(jnp.linalg.norm(v_TD, axis=-1, keepdims=True), tiny)

  return 1 - jnp.square(jnp.sum(unit(x_TD) * unit(y_TD), axis=-1))


def _objectives(
  config: ModelConfig,
  dict_CD: jax.Array,
  seen: dict[str, jax.Array],
  z_TD: jax.Array,
  lam: jax.Array,
) -> jax.Array:
  """The lasso's objective at the first codes and after each step, mean over tokens."""
  start_TC = z_TD if config.warm_start else jnp.zeros((len(z_TD), config.codes), z_TD.dtype)

  def objective(a_TC: jax.Array) -> jax.Array:
    rest_TD = z_TD - jnp.einsum("tc,cd->td", a_TC, dict_CD, precision="highest")
    size_T = 0.5 * jnp.sum(jnp.square(rest_TD), axis=-1) + lam * jnp.sum(jnp.abs(a_TC), axis=-1)
    return jnp.mean(size_T)

  steps = [seen[f"A{t}"] for t in range(1, config.ista_steps + 1)]
  return jnp.stack([objective(a_TC) for a_TC in (start_TC, *steps)])


def _norm(parameters: dict[str, jax.Array], x_TD: jax.Array) -> jax.Array:
  return layer_norm(x_TD, parameters["scale"], parameters.get("bias"))


def windows(run: Run, workdir: str, data: str, most: int) -> tuple[np.ndarray, str, str]:
  """The start of a text in whole windows of the run's context.

  Args:
    run: whose tokenizer and context are used.
    workdir: the run's folder, to name it by.
    data: a text file or folder; "" for the run's validation text.
    most: tokens.

  Returns:
    windows_NT of token ids, what text it is, and its SHA-256; see `Run.text_tokens`.

  Raises:
    UserError: there is not a window of text, or not the run's text any more.
  """
  context = run.config.model.context
  if most < context:
    raise UserError(
      f"--tokens={most} is less than one window of the context of {workdir}, {context} tokens."
    )
  ids, name, sha256 = run.text_tokens(workdir, data)
  count = min(most, len(ids)) // context
  if not count:
    raise UserError(
      f"{name} holds {len(ids)} tokens, less than one window of the context of {workdir}, "
      f"{context} tokens: name a longer text with --data."
    )
  return ids[: count * context].reshape(count, context), name, sha256
