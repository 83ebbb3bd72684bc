"""Continues prompts with a trained model.

Reads a run's work directory; prints each prompt and its continuation; writes nothing.

  python -m crate_jax.generate --workdir=runs/tiny --prompt="def main("
  python -m crate_jax.generate --workdir=runs/tiny --prompt="def main(" --set=1:7=2.0
"""

import re

from absl import flags

from crate_jax import cli

WORKDIR = flags.DEFINE_string("workdir", "", "The run's folder.")
STEP = flags.DEFINE_integer("step", None, "One of its checkpoints; the newest by default.")
PROMPT = flags.DEFINE_multi_string(
  "prompt", [""], "Text to continue, none starts a document; may be given more than once."
)
LENGTH = flags.DEFINE_integer("length", 200, "Tokens to add.", lower_bound=1)
TEMPERATURE = flags.DEFINE_float("temperature", 0.8, "0 takes the most likely.", lower_bound=0)
TOP_K = flags.DEFINE_integer("top_k", 0, "Draw from so many tokens; 0: all.", lower_bound=0)
SEED = flags.DEFINE_integer("seed", 0, "Of the random choices.")
SET = flags.DEFINE_multi_string(
  "set", [], "LAYER:UNIT=VALUE holds a neuron at a value; may be given more than once."
)


def main() -> None:
  """Prints samples."""
  wanted = [_parse(text) for text in SET.value]
  from crate_jax.run import Edit, load  # not before: --help and wrong flags answer at once

  run = load(WORKDIR.value, STEP.value)
  edits = [Edit(run.neurons, layer, unit, add=value) for layer, unit, value in wanted]
  samples = run.generate(
    PROMPT.value,
    LENGTH.value,
    temperature=TEMPERATURE.value,
    top_k=TOP_K.value,
    seed=SEED.value,
    edits=edits,
  )
  print(f"\n{'-' * 80}\n".join(samples))


def _parse(text: str) -> tuple[int, int, float]:
  """Layer, unit and value of one --set."""
  number = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
  match = re.fullmatch(rf"(\d+):(\d+)=({number})", text)
  if not match:
    raise flags.Error(f"--set={text} is not LAYER:UNIT=VALUE, as in --set=1:7=2.0.")
  return int(match[1]), int(match[2]), float(match[3])


if __name__ == "__main__":
  cli.run(main, required=["workdir"])
