"""The text that a network is looked into with."""

import numpy as np

from crate_jax.data import sources
from crate_jax.errors import UserError
from crate_jax.run import Run


def windows(run: Run, workdir: str, data: str, tokens: int) -> tuple[np.ndarray, str, str]:
  """Reads text in whole windows of the run's context, from its start.

  Args:
    run: whose tokenizer and context are used.
    workdir: the run's folder, to name it by.
    data: a text file or folder; "" for the run's validation text.
    tokens: at most so many.

  Returns:
    windows_NT of token ids, what text it is, and its SHA-256 (`sources.digest`).

  Raises:
    UserError: there is not a window of text, or not the run's text any more.
  """
  context = run.config.model.context
  if tokens < context:
    raise UserError(
      f"--tokens={tokens} is less than one window of the context of {workdir}, {context} tokens."
    )
  documents, whole, name = _documents(run, workdir, data)
  ids = run.tokenizer.encode_documents(documents, end=whole)
  count = min(tokens, len(ids)) // context
  if not count:
    raise UserError(
      f"{name} holds {len(ids)} tokens, less than one window of the context of {workdir}, "
      f"{context} tokens: name a longer text with --data."
    )
  return ids[: count * context].reshape(count, context), name, sources.digest(documents)


def _documents(run: Run, workdir: str, data: str) -> tuple[list[str], bool, str]:
  """Documents, whether they are whole, and what text they are."""
  if data:
    return sources.read_documents(data, "--data"), True, f"--data={data}"
  c = run.config.data
  split = sources.read_split(c.train, c.validation, c.validation_fraction)
  if sources.digest(split.validation) != run.data["validation_sha256"]:
    raise UserError(
      f"data.train={c.train!r} no longer holds the validation text of the run in {workdir} "
      f"({run.data['text']}): name a text with --data."
    )
  return split.validation, split.whole, f"the validation text of {workdir}"
