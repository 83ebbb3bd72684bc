"""load(workdir): the one door through which everything reads a trained model."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from crate_jax import config as config_lib
from crate_jax.config import Config
from crate_jax.data.tokenizer import Tokenizer
from crate_jax.evaluation import loss as loss_lib
from crate_jax.model import lm, sampling
from crate_jax.training import checkpoint
from crate_jax.training import workdir as files


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

  def logits(self, tokens_BT: np.ndarray) -> jax.Array:
    """Logits of the next token at every position, (B, T, vocabulary), float32."""
    return _logits(self.model, self.params, tokens_BT)

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

  def generate(
    self, prompt: str, length: int = 200, *, temperature: float = 0.8, top_k: int = 0, seed: int = 0
  ) -> str:
    """The prompt and a continuation of `length` tokens; see `model.sampling.sample`.

    An empty prompt starts a document, as after an end-of-text token.
    """
    ids = self.tokenizer.encode(prompt)
    if not len(ids):
      ids = np.array([self.tokenizer.end_of_text], np.int32)
    tokens = sampling.sample(
      self.model,
      self.params,
      ids,
      length,
      jax.random.key(seed),
      temperature=temperature,
      top_k=top_k,
      vocab_size=self.tokenizer.vocab_size,
    )
    return prompt + self.tokenizer.decode(tokens[len(ids) :])


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


_logits = jax.jit(
  lambda model, params, tokens_BT: model.apply({"params": params}, tokens_BT), static_argnums=0
)
