"""Cross-entropy of the next token from the stream, without the logits of a batch ever being whole.

The logits of 50,304 tokens are by far the largest array of a step. Here those of `CHUNK` tokens
at a time exist on a device, forward and backward.
"""

from typing import Any

import jax
import jax.numpy as jnp

from crate_jax.model import layout

CHUNK = 1024  # tokens of one device: enough that the head's products are large ones

# How the arguments lie over the devices: tokens by the batch, the head by its vocabulary.
_STREAM, _HEAD, _TOKENS = ("batch", None, None), ("vocab", None), ("batch", None)


def token_nll(x_BTD: jax.Array, head_VD: jax.Array, targets_BT: jax.Array) -> jax.Array:
  """Negative log-likelihood of every target in nats, nll_BT, float32 or wider.

  Args:
    x_BTD: the normalised stream.
    head_VD: a row for every token; the logits are their products with the stream.
    targets_BT: token ids.
  """
  function = layout.per_device(_local_nll, [_STREAM, _HEAD, _TOKENS], [_TOKENS])
  return function(x_BTD, head_VD, targets_BT)[0]


@jax.custom_vjp
def mean_nll(x_BTD: jax.Array, head_VD: jax.Array, targets_BT: jax.Array) -> jax.Array:
  """Mean of `token_nll`. Its gradient is computed beside it, so no logits are computed twice."""
  return jnp.mean(token_nll(x_BTD, head_VD, targets_BT))


def _forward(
  x_BTD: jax.Array, head_VD: jax.Array, targets_BT: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  function = layout.per_device(
    _local_gradient, [_STREAM, _HEAD, _TOKENS], [_TOKENS, _STREAM, _HEAD]
  )
  nll_BT, x_grad, head_grad = function(x_BTD, head_VD, targets_BT)
  return jnp.mean(nll_BT), (x_grad, head_grad)


def _backward(gradients: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[Any, Any, None]:
  x_grad, head_grad = gradients
  scale = g / (x_grad.shape[0] * x_grad.shape[1])
  return (scale * x_grad).astype(x_grad.dtype), (scale * head_grad).astype(head_grad.dtype), None


mean_nll.defvjp(_forward, _backward)


def _local_nll(x_BTD: jax.Array, head_VD: jax.Array, targets_BT: jax.Array) -> tuple[jax.Array]:
  def of_chunk(_: None, chunk: tuple[jax.Array, ...]) -> tuple[None, jax.Array]:
    x_CD, targets_C = chunk
    return None, _nll(x_CD, head_VD, targets_C)[0]

  _, nll_NC = jax.lax.scan(of_chunk, None, _chunks(x_BTD, targets_BT))
  return (_unchunk(nll_NC, targets_BT.shape),)


def _local_gradient(
  x_BTD: jax.Array, head_VD: jax.Array, targets_BT: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """nll_BT, and the gradients of its sum by the stream and by the head."""

  def of_chunk(
    head_grad_VD: jax.Array, chunk: tuple[jax.Array, ...]
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    x_CD, targets_C = chunk
    nll_C, probability_CV, hit_CV = _nll(x_CD, head_VD, targets_C)
    # In the type of the stream, as products are elsewhere in the backward pass.
    error_CV = (probability_CV - hit_CV).astype(x_CD.dtype)
    wide = head_grad_VD.dtype
    x_grad_CD = jnp.einsum("cv,vd->cd", error_CV, head_VD, preferred_element_type=wide)
    head_grad_VD += jnp.einsum("cv,cd->vd", error_CV, x_CD, preferred_element_type=wide)
    return head_grad_VD, (nll_C, x_grad_CD)

  wide = jnp.promote_types(x_BTD.dtype, jnp.float32)
  zero_VD = jnp.zeros(head_VD.shape, wide)
  head_grad_VD, (nll_NC, x_grad_NCD) = jax.lax.scan(of_chunk, zero_VD, _chunks(x_BTD, targets_BT))
  x_grad_BTD = _unchunk(x_grad_NCD, x_BTD.shape)
  if vocab := layout.mesh_axes("vocab"):
    x_grad_BTD = jax.lax.psum(x_grad_BTD, vocab)
  if batch := layout.mesh_axes("batch"):
    head_grad_VD = jax.lax.psum(head_grad_VD, batch)
  nll_BT = _unchunk(nll_NC, targets_BT.shape)
  return nll_BT, x_grad_BTD.astype(x_BTD.dtype), head_grad_VD.astype(head_VD.dtype)


def _nll(
  x_CD: jax.Array, head_VD: jax.Array, targets_C: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """nll_C, the softmax and the targets one-hot, of this device's rows of the head."""
  axes = layout.mesh_axes("vocab")
  wide = jnp.promote_types(x_CD.dtype, jnp.float32)
  logits_CV = jnp.einsum("cd,vd->cv", x_CD, head_VD, preferred_element_type=wide)
  first = jax.lax.axis_index(axes) * head_VD.shape[0] if axes else 0
  hit_CV = jnp.arange(head_VD.shape[0]) + first == targets_C[:, None]
  most_C = jax.lax.stop_gradient(jnp.max(logits_CV, axis=-1))
  if axes:
    most_C = jax.lax.pmax(most_C, axes)
  above_CV = jnp.exp(logits_CV - most_C[:, None])
  total_C = jnp.sum(above_CV, axis=-1)
  target_C = jnp.sum(jnp.where(hit_CV, logits_CV, 0), axis=-1)
  if axes:
    total_C, target_C = jax.lax.psum((total_C, target_C), axes)
  return jnp.log(total_C) + most_C - target_C, above_CV / total_C[:, None], hit_CV


def _chunks(x_BTD: jax.Array, targets_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Tokens in chunks, x_NCD and targets_NC, the last one filled up with zeros.

  What is made up is dropped from every result, and adds zero to the head's gradient.
  """
  count = targets_BT.size
  size = min(CHUNK, count)
  padding = -count % size

  def chunked(x: jax.Array) -> jax.Array:
    return jnp.pad(x, [(0, padding), *[(0, 0)] * (x.ndim - 1)]).reshape(-1, size, *x.shape[1:])

  return chunked(x_BTD.reshape(count, -1)), chunked(targets_BT.reshape(-1))


def _unchunk(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  rows = x.reshape(-1, *x.shape[2:])
  return rows[: shape[0] * shape[1]].reshape(shape)
