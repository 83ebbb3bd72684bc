"""load(workdir): the one door through which everything reads a trained model."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax import config as config_lib
from crate_jax.config import Config
from crate_jax.data.tokenizer import Tokenizer
from crate_jax.errors import UserError
from crate_jax.evaluation import likelihood
from crate_jax.evaluation import loss as loss_lib
from crate_jax.evaluation.likelihood import Likelihood, Request
from crate_jax.model import lm, sampling
from crate_jax.training import checkpoint
from crate_jax.training import workdir as files

Steering: TypeAlias = Mapping[tuple[int, int], float]


@dataclasses.dataclass(frozen=True, repr=False)
class Run:
  """A trained model and what belongs to it.

  Attributes:
    model: the Linen module.
    params: its parameters, float32.
    tokenizer: text to tokens and back.
    config: the resolved config that it was trained with.
    step: updates done.
    data: what its text was: description, digests, counts (data.json).
  """

  model: lm.LM
  params: lm.Params
  tokenizer: Tokenizer
  config: Config
  step: int
  data: dict[str, Any]

  def __repr__(self) -> str:
    c = self.config.model
    return f"<{c.architecture}, {c.layers} layers of width {c.width}, trained {self.step} steps>"

  def logits(self, tokens_BT: np.ndarray, *, steering: Steering | None = None) -> jax.Array:
    """Logits of the next token at every position, logits_BTV, float32.

    Args:
      tokens_BT: token ids, at most the context of them in a row.
      steering: neurons to overwrite at every token, {(layer, neuron): value}, counted from 0.

    Raises:
      UserError: there is no such neuron, or the tokens do not fit the model.
    """
    return _logits(self.model, self._variables(steering), self._checked(tokens_BT))

  def codes(self, tokens_BT: np.ndarray) -> jax.Array:
    """The neurons, codes_LBTC: what each layer's feature step decodes, float32.

    For CRATE the codes of ISTA, for GPT-2 the MLP's hidden units after the ReLU; none is negative.
    """
    return _codes(self.model, self.params, self._checked(tokens_BT))

  def loss(self, tokens: np.ndarray, batch_size: int = 8) -> loss_lib.Loss:
    """Loss on a text's tokens; see `evaluation.loss.text_loss` for what is scored."""
    return loss_lib.text_loss(
      self.model,
      self.params,
      tokens=tokens,
      byte_lengths=self.tokenizer.byte_lengths(),
      context=self.config.model.context,
      batch_size=batch_size,
    )

  def likelihoods(self, requests: Sequence[Request]) -> list[Likelihood]:
    """How likely continuations are; see `evaluation.likelihood.likelihoods`."""
    return likelihood.likelihoods(self.model, self.params, requests, self.tokenizer.vocab_size)

  def generate(
    self,
    prompt: str,
    length: int = 200,
    *,
    temperature: float = 0.8,
    top_k: int = 0,
    seed: int = 0,
    steering: Steering | None = None,
  ) -> str:
    """The prompt and a continuation of `length` tokens; see `model.sampling.sample`.

    An empty prompt starts a document, as after an end-of-text token. `steering` as in `logits`.
    """
    ids = self.tokenizer.encode(prompt)
    if not len(ids):
      ids = np.array([self.tokenizer.end_of_text], np.int32)
    tokens = sampling.sample(
      self.model,
      self._variables(steering),
      ids,
      length,
      jax.random.key(seed),
      temperature=temperature,
      top_k=top_k,
      vocab_size=self.tokenizer.vocab_size,
    )
    return prompt + self.tokenizer.decode(tokens[len(ids) :])

  def _checked(self, tokens_BT: np.ndarray) -> np.ndarray:
    """The tokens as int32, if they fit the model."""
    tokens_BT, c = np.asarray(tokens_BT), self.config.model
    if tokens_BT.ndim != 2 or not 1 <= tokens_BT.shape[1] <= c.context:
      raise UserError(
        f"Tokens of shape {tokens_BT.shape} must be (batch, 1 to {c.context} tokens): "
        "write tokens[None] for a single text."
      )
    if tokens_BT.size and not 0 <= tokens_BT.min() <= tokens_BT.max() < c.vocab_size:
      raise UserError(f"Token ids must be from 0 to {c.vocab_size - 1}.")
    return tokens_BT.astype(np.int32)

  def _variables(self, steering: Steering | None) -> lm.Params:
    """What `apply` is given: the parameters, and the neurons to overwrite if there are any."""
    if not steering:
      return {"params": self.params}
    c = self.config.model
    value_LC = np.full((c.layers, c.codes), np.nan, np.float32)
    for (layer, neuron), value in steering.items():
      if not (0 <= layer < c.layers and 0 <= neuron < c.codes):
        raise UserError(
          f"There is no neuron {neuron} in layer {layer}: the model has {c.layers} layers of "
          f"{c.codes} neurons, both counted from 0."
        )
      value_LC[layer, neuron] = value
    return {"params": self.params, "steering": lm.steering(jnp.asarray(value_LC))}


def load(workdir: str | Path, step: int | None = None) -> Run:
  """Reads a trained model.

  Args:
    workdir: a run's work directory.
    step: one of its checkpoints; the newest by default.

  Raises:
    UserError: there is no such checkpoint, or the tokenizer beside it is not its own.
  """
  workdir = Path(workdir).expanduser()
  meta = files.read_meta(workdir, step)
  config = config_lib.from_dict(meta["config"])
  tokenizer = files.read_tokenizer(workdir, meta["data"])
  model = lm.LM(config.model)
  with checkpoint.Checkpoints(workdir) as store:
    params = store.restore_params(meta["step"], lm.abstract_params(model))
  return Run(model, params, tokenizer, config, meta["step"], meta["data"])


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: lm.LM, variables: lm.Params, tokens_BT: jax.Array) -> jax.Array:
  return model.apply(variables, tokens_BT)  # type: ignore[return-value]


@functools.partial(jax.jit, static_argnums=0)
def _codes(model: lm.LM, params: lm.Params, tokens_BT: jax.Array) -> jax.Array:
  _, seen = model.apply({"params": params}, tokens_BT, mutable=["codes"])
  return lm.codes(seen).astype(jnp.float32)
