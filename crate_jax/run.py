"""load(workdir): the one door through which everything reads a trained model."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax import config as config_lib
from crate_jax.config import Config
from crate_jax.data import pipeline, sources, splits
from crate_jax.data.tokenizer import Tokenizer
from crate_jax.errors import UserError
from crate_jax.evaluation import likelihood
from crate_jax.evaluation import loss as loss_lib
from crate_jax.evaluation.likelihood import Likelihood, Request
from crate_jax.model import activations, lm, sampling
from crate_jax.model.activations import Edit
from crate_jax.training import checkpoint
from crate_jax.training import workdir as files

__all__ = ["Edit", "Run", "load"]

Prompt = TypeVar("Prompt", str, list[str])


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

  def logits(self, tokens_BT: np.ndarray, *, edits: Sequence[Edit] = ()) -> jax.Array:
    """Logits of the next token at every position, logits_BTV, float32.

    Args:
      tokens_BT: token ids, at most the context of them in a row.
      edits: what to change inside the model, at every token (`model.activations.Edit`).

    Raises:
      UserError: there is no such activation, or the tokens do not fit the model.
    """
    return _apply(self.model, self._variables(edits), self._checked(tokens_BT), ())[0]

  def activations(
    self, tokens_BT: np.ndarray, names: Sequence[str], *, edits: Sequence[Edit] = ()
  ) -> dict[str, jax.Array]:
    """Activations by name, (layers, B, T, units) each, float32; "logits" are (B, T, V).

    Args:
      tokens_BT: as in `logits`.
      names: of those that `model.activations` lists.
      edits: as in `logits`; what is returned is what the model went on with.

    Raises:
      UserError: there is no such activation, or the tokens do not fit the model.
    """
    activations.require(self.config.model, names)
    variables = self._variables(edits)
    return _apply(self.model, variables, self._checked(tokens_BT), tuple(names))[1]

  @property
  def neurons(self) -> str:
    """Name of the activation that holds the neurons: "A2" for CRATE, "A1" for GPT-2.

    Raises:
      UserError: the model has no feature step, and so no neurons.
    """
    return activations.neurons(self.config.model)

  def codes(self, tokens_BT: np.ndarray) -> jax.Array:
    """The neurons, codes_LBTC: what each layer's feature step decodes, float32.

    For CRATE the codes of ISTA, for GPT-2 the MLP's hidden units after the ReLU.
    """
    return self.activations(tokens_BT, [self.neurons])[self.neurons]

  def text_tokens(self, workdir: str, data: str = "") -> tuple[np.ndarray, str, str]:
    """Token ids of a text, by default of the validation text that the run was trained beside.

    Args:
      workdir: the run's folder, to name it by.
      data: a text: see `sources.source`.

    Returns:
      tokens, what text it is, and its digest.

    Raises:
      UserError: the text cannot be read, or is not the run's any more.
    """
    if data:
      documents = sources.read_documents(data, "--data")
      tokens = self.tokenizer.encode_documents(documents)
      return tokens, f"--data={data}", splits.digest(documents)
    c = self.config.data
    tokens, digest = pipeline.validation(
      prepared=c.prepared,
      train=c.train,
      validation=c.validation,
      validation_fraction=c.validation_fraction,
      tokenizer=self.tokenizer,
    )
    if digest != self.data["validation_sha256"]:
      raise UserError(
        f"{'data.prepared' if c.prepared else 'data.train'}={c.prepared or c.train!r} no longer "
        f"holds the validation text of the run in {workdir} ({self.data['text']}): name a text "
        "with --data."
      )
    return tokens, f"the validation text of {workdir}", digest

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
    prompt: Prompt,
    length: int = 200,
    *,
    temperature: float = 0.8,
    top_k: int = 0,
    seed: int = 0,
    edits: Sequence[Edit] = (),
  ) -> Prompt:
    """The prompt and a continuation of `length` tokens; see `model.sampling.sample`.

    An empty prompt starts a document, as after an end-of-text token. A list of prompts is continued
    side by side, and comes back as a list. `edits` as in `logits`.
    """
    prompts = [prompt] if isinstance(prompt, str) else prompt
    start = np.array([self.tokenizer.end_of_text], np.int32)
    ids = [tokens if len(tokens := self.tokenizer.encode(text)) else start for text in prompts]
    samples = sampling.sample(
      self.model,
      self._variables(edits),
      ids,
      length,
      jax.random.key(seed),
      temperature=temperature,
      top_k=top_k,
      vocab_size=self.tokenizer.vocab_size,
    )
    written = [
      text + self.tokenizer.decode(tokens[len(first) :])
      for text, first, tokens in zip(prompts, ids, samples, strict=True)
    ]
    return written[0] if isinstance(prompt, str) else written

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

  def _variables(self, edits: Sequence[Edit]) -> lm.Params:
    """What `apply` is given: the parameters, and the edits if there are any."""
    return {"params": self.params, **activations.collection(self.config.model, edits)}


def load(workdir: str | Path, step: int | None = None) -> Run:
  """Reads a trained model.

  Args:
    workdir: a run's work directory.
    step: one of its checkpoints; the newest by default.

  Raises:
    UserError: there is no such checkpoint, or the tokenizer beside it is not its own.
  """
  workdir = Path(workdir).expanduser()

  def read(store: checkpoint.Checkpoints, step: int) -> tuple[dict[str, Any], Config, lm.Params]:
    meta = store.meta(step)
    config = config_lib.from_dict(meta["config"])
    return meta, config, store.restore_params(step, lm.abstract_params(lm.LM(config.model)))

  _, (meta, config, params) = checkpoint.read_newest(workdir, read, step)
  tokenizer = files.read_tokenizer(workdir, meta["data"])
  return Run(lm.LM(config.model), params, tokenizer, config, meta["step"], meta["data"])


@functools.partial(jax.jit, static_argnums=(0, 3))
def _apply(
  model: lm.LM, variables: lm.Params, tokens_BT: jax.Array, record: tuple[str, ...]
) -> tuple[jax.Array, dict[str, jax.Array]]:
  logits_BTV, seen = activations.apply(model, variables, tokens_BT, record)
  return logits_BTV, {name: x.astype(jnp.float32) for name, x in seen.items()}
