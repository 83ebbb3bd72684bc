"""The pure functions of training: state, loss, one update."""

from collections.abc import Callable

import einops
import flax.struct
import jax
import jax.numpy as jnp
import optax

from crate_jax.data.pipeline import batch_hash
from crate_jax.model.lm import LM, Params


@flax.struct.dataclass
class TrainState:
  """Everything that an update reads and writes."""

  step: jax.Array  # updates done, int32 scalar
  params: Params
  opt_state: optax.OptState


Metrics = dict[str, jax.Array]
UpdateFn = Callable[[TrainState, jax.Array], tuple[TrainState, Metrics]]


def objective(model: LM, params: Params, tokens_BT1: jax.Array) -> tuple[jax.Array, jax.Array]:
  """What training minimises, and the cross-entropy of the next token in it, in nats per token.

  They are the same, cross-entropy being the only term, unless `config.l1` is positive: then it
  times the sum over layers of the mean over tokens of the sum of a layer's neurons is added.
  """
  if not model.config.l1:
    nll = model.apply({"params": params}, tokens_BT1, method="mean_nll")
    return nll, nll  # type: ignore[return-value]
  nll, made = model.apply({"params": params}, tokens_BT1, mutable=["losses"], method="mean_nll")
  (l1_L,) = made["losses"]["blocks"]["features"]["l1"]
  return nll + model.config.l1 * jnp.sum(l1_L), nll


def make_update(
  model: LM, optimizer: optax.GradientTransformation, schedule: optax.Schedule, accumulation: int
) -> UpdateFn:
  """One update of the parameters: (state, tokens_BT1) -> (state, metrics).

  The gradient is that of the `objective` over the batch, computed in `accumulation` equal parts
  one after the other. Where the loss or the gradient is not finite, the state stays what it was,
  its step too. Metrics are of the parameters before the update: loss (nats per token), grad_norm
  (before clipping), learning_rate, batch_hash (`pipeline.batch_hash`), applied (whether it was).
  """

  def of_part(params: Params, tokens_BT1: jax.Array) -> tuple[jax.Array, Params]:
    differentiate = jax.value_and_grad(objective, argnums=1, has_aux=True)
    (_, loss), gradient = differentiate(model, params, tokens_BT1)
    return loss, gradient

  def loss_and_gradient(params: Params, tokens_BT1: jax.Array) -> tuple[jax.Array, Params]:
    if accumulation == 1:
      return of_part(params, tokens_BT1)

    def add(total: tuple[jax.Array, Params], part: jax.Array) -> tuple:
      return jax.tree.map(jnp.add, total, of_part(params, part)), None

    # Neighbouring rows go to different parts, so that every part lies on all devices.
    parts = einops.rearrange(tokens_BT1, "(b a) t -> a b t", a=accumulation)
    shapes = jax.eval_shape(of_part, params, parts[0])
    zero = jax.tree.map(jnp.zeros_like, shapes)
    total, _ = jax.lax.scan(add, zero, parts)
    return jax.tree.map(lambda x: x / accumulation, total)

  def update(state: TrainState, tokens_BT1: jax.Array) -> tuple[TrainState, Metrics]:
    loss, gradient = loss_and_gradient(state.params, tokens_BT1)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    grad_norm = optax.tree.norm(gradient)
    applied = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    metrics = {
      "loss": loss,
      "grad_norm": grad_norm,
      "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
      "batch_hash": jnp.stack(batch_hash(tokens_BT1)),
      "applied": applied,
    }
    params = optax.apply_updates(state.params, updates)
    new = TrainState(state.step + 1, params, opt_state)
    return jax.tree.map(
      lambda after, before: jnp.where(applied, after, before), new, state
    ), metrics

  return update
