"""Loss of a trained model on a text.

Reads a run's work directory and a text, by default the validation text of the run; prints the
loss; writes nothing. Every token of the text but the first is scored once, in windows of the
model's context that stand one after the other (stride = window); end-of-text tokens are scored
and count as no bytes.

  python -m crate_jax.evaluate --workdir=runs/tiny
  python -m crate_jax.evaluate --workdir=runs/tiny --data=book.txt
"""

from absl import flags

from crate_jax import cli

WORKDIR = flags.DEFINE_string("workdir", "", "The run's folder.")
STEP = flags.DEFINE_integer("step", None, "One of its checkpoints; the newest by default.")
DATA = flags.DEFINE_string("data", "", "A text file or folder, plain, .gz or .xz.")


def main() -> None:
  """Prints the loss."""
  from crate_jax.data import sources  # not before: --help and wrong flags answer at once
  from crate_jax.errors import UserError
  from crate_jax.run import load

  run = load(WORKDIR.value, STEP.value)
  data = run.config.data
  if DATA.value:
    documents, whole = sources.read_documents(DATA.value, "--data"), True
  else:
    split = sources.read_split(data.train, data.validation, data.validation_fraction)
    documents, whole = split.validation, split.whole
    if sources.digest(documents) != run.data["validation_sha256"]:
      raise UserError(
        f"data.train={data.train!r} no longer holds the validation text of the run in "
        f"{WORKDIR.value} ({run.data['text']}): name a text with --data."
      )
  tokens = run.tokenizer.encode_documents(documents, end=whole)
  loss = run.loss(tokens)
  print(
    f"step {run.step:,}: {loss.nats:.4f} nats per token, {loss.bits_per_byte:.4f} bits per byte, "
    f"{loss.tokens:,} tokens, {loss.bytes:,} bytes"
  )


if __name__ == "__main__":
  cli.run(main, required=["workdir"])
