"""Causal softmax attention, and the one place where a device's kernel is chosen."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from crate_jax.errors import UserError
from crate_jax.model import layout
from crate_jax.model.config import ModelConfig
from crate_jax.model.parameter import parameter

LEAST_TO_PART = 128  # tokens of a window; fewer are computed at once


def causal_attention(
  q_BTKH: jax.Array,
  k_BSKH: jax.Array,
  v_BSKH: jax.Array,
  *,
  positions_BT: jax.Array | None = None,
  kernel: str = "plain",
) -> jax.Array:
  """For every token the softmax-weighted mean of the values at its own and earlier positions.

  Scores are scaled by 1 / sqrt(H). Scores and softmax are computed in float32 or wider.

  Args:
    q_BTKH: queries.
    k_BSKH: keys; key s stands at position s.
    v_BSKH: values.
    positions_BT: position of every query, for decoding against a cache; None means that
      query t stands at position t (then S = T).
    kernel: "plain", "cudnn" or "splash", or "auto": see `choose_kernel`.

  Returns:
    Array of the shape and dtype of `q_BTKH`.
  """
  if positions_BT is not None:
    return _masked(q_BTKH, k_BSKH, v_BSKH, positions_BT)
  if kernel == "auto":
    _, T, _, H = q_BTKH.shape
    kernel = _best_kernel(jax.devices()[0], q_BTKH.dtype, H, T)
  if kernel == "cudnn":
    return jax.nn.dot_product_attention(
      q_BTKH, k_BSKH, v_BSKH, is_causal=True, implementation="cudnn"
    )
  if kernel == "splash" and q_BTKH.shape[1] % 128 == 0:
    heads = ("batch", None, "heads", None)
    return layout.per_device(_splash, [heads] * 3, [heads])(q_BTKH, k_BSKH, v_BSKH)[0]
  return _plain(q_BTKH, k_BSKH, v_BSKH)


def choose_kernel(device: jax.Device, config: ModelConfig) -> str:
  """Name of the kernel that a model is trained with on a device.

  "auto" takes cuDNN's on NVIDIA GPUs, the splash kernel on TPUs, where the model fits them, and
  else the plain one. cuDNN's takes half precision, on GPUs of compute capability 8.0 (Ampere) or
  newer, with heads of a multiple of 8 up to 128; splash takes contexts of a multiple of 128.
  Neither is given a mask: both are told that the attention is causal.

  Raises:
    UserError: the kernel asked for is another kind of device's.
  """
  wanted = {"cudnn": "gpu", "splash": "tpu"}.get(config.attention, device.platform)
  if wanted != device.platform:
    raise UserError(
      f"model.attention={config.attention!r} runs on a {wanted}, not on a {device.platform}."
    )
  if config.attention != "auto":
    return config.attention
  return _best_kernel(device, jnp.dtype(config.dtype), config.head_width, config.context)


def _best_kernel(device: jax.Device, dtype: jnp.dtype, head_width: int, context: int) -> str:
  if device.platform == "tpu" and context % 128 == 0 and dtype != jnp.float64:
    return "splash"
  half = dtype in (jnp.bfloat16, jnp.float16)
  fits = half and head_width % 8 == 0 and head_width <= 128
  capability = str(getattr(device, "compute_capability", ""))  # "9.0"; "gfx942" on AMD
  major = capability.partition(".")[0]
  ampere = device.platform == "gpu" and major.isdigit() and int(major) >= 8
  return "cudnn" if ampere and fits else "plain"


def _splash(q_BTKH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> tuple[jax.Array]:
  """JAX's own TPU kernel, on one device's rows and heads."""
  from jax.experimental.pallas.ops.tpu import splash_attention as splash  # only where it is used

  _, T, K, H = q_BTKH.shape
  block = next(size for size in (512, 256, 128) if T % size == 0)
  sizes = splash.BlockSizes(
    block_q=block,
    block_kv=block,
    block_q_dkv=block,
    block_kv_dkv=block,
    block_q_dq=block,
    block_kv_dq=block,
  )
  attend = splash.make_splash_mha_single_device(
    splash.MultiHeadMask([splash.CausalMask((T, T))] * K),
    block_sizes=sizes,
  )
  heads_first = (jnp.swapaxes(x, 1, 2) for x in (q_BTKH * H**-0.5, k_BTKH, v_BTKH))
  return (jnp.swapaxes(jax.vmap(attend)(*heads_first), 1, 2),)


def _plain(q_BTKH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> jax.Array:
  """The reference path: each quarter of the queries against the keys up to its end.

  So three eighths of all scores are never computed. More parts would be smaller products, for
  less to gain.
  """
  T = q_BTKH.shape[1]
  parts = 4 if T >= LEAST_TO_PART else 1
  ends = [T * (part + 1) // parts for part in range(parts)]
  sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
  # Split and put together, not sliced: the gradient of a slice is an array of the whole.
  q, k, v = (jax.lax.split(x, sizes, axis=1) for x in (q_BTKH, k_BTKH, v_BTKH))
  y_BTKH = []
  for part, end in enumerate(ends):
    seen_k, seen_v = (jnp.concatenate(x[: part + 1], axis=1) for x in (k, v))
    query_BT = jnp.arange(end - sizes[part], end)[None]
    y_BTKH.append(_masked(q[part], seen_k, seen_v, query_BT))
  return jnp.concatenate(y_BTKH, axis=1)


def _masked(
  q_BTKH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, query_BT: jax.Array
) -> jax.Array:
  """Computes every score of queries at some positions, and masks their future."""
  S, H = k_BSKH.shape[1], q_BTKH.shape[-1]
  wide = jnp.promote_types(q_BTKH.dtype, jnp.float32)
  score_BKTS = jnp.einsum("btkh,bskh->bkts", q_BTKH, k_BSKH, preferred_element_type=wide)
  visible_B1TS = (jnp.arange(S) <= query_BT[..., None])[:, None]
  score_BKTS = jnp.where(visible_B1TS, score_BKTS / H**0.5, -jnp.inf)
  weight_BKTS = jax.nn.softmax(score_BKTS, axis=-1).astype(v_BSKH.dtype)
  return jnp.einsum("bkts,bskh->btkh", weight_BKTS, v_BSKH)


def subspaces(module: nn.Module, config: ModelConfig) -> jax.Array:
  """The projection of a mixing step onto its heads, subspaces_DKH; a parameter of the module."""
  heads = {"heads": config.heads, "head_width": config.head_width}
  axes = {"embed": config.width} | heads
  return parameter(module, "subspaces", nn.initializers.normal(0.02), axes, config.dtype)


def output(module: nn.Module, config: ModelConfig) -> jax.Array:
  """Its projection back to the stream, output_KHD; its init is GPT-2's, narrower with depth."""
  heads = {"heads": config.heads, "head_width": config.head_width}
  init = nn.initializers.normal(0.02 / (2 * config.layers) ** 0.5)
  return parameter(module, "output", init, heads | {"embed": config.width}, config.dtype)


def to_stream(
  module: nn.Module, y_BTKH: jax.Array, output_KHD: jax.Array, *, use_bias: bool
) -> jax.Array:
  """What a mixing step adds to the stream: all heads, projected, and the module's bias if any."""
  y_BTD = jnp.einsum("btkh,khd->btd", y_BTKH, output_KHD)
  if not use_bias:
    return y_BTD
  axes = {"embed": output_KHD.shape[-1]}
  bias_D = parameter(module, "output_bias", nn.initializers.zeros, axes, y_BTD.dtype)
  return y_BTD + bias_D


def cached(
  module: nn.Module, name: str, new_BTKH: jax.Array, positions_BT: jax.Array, context: int
) -> jax.Array:
  """Writes `new_BTKH` at its positions into the module's cache `name` and returns all of it.

  The cache is a variable of the collection "cache", (B, context, K, H). Positions that were
  never written, or were written by padding, lie after every query that is not padding
  itself, so the causal mask hides them until they are overwritten.
  """
  B, _, K, H = new_BTKH.shape
  variable = module.variable("cache", name, jnp.zeros, (B, context, K, H), new_BTKH.dtype)
  variable.value = variable.value.at[jnp.arange(B)[:, None], positions_BT].set(new_BTKH)
  return variable.value
