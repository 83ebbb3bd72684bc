"""Writes a trained model as a folder that Hugging Face transformers loads.

Reads a run's work directory; writes OUT, which must not hold anything yet: config.json and the two
Python files of the model, model.safetensors, the tokenizer, generation_config.json, and README.md,
the model card. PyTorch is not needed to write it.

  python -m crate_jax.hf.export --workdir=runs/tiny --out=exported/tiny

Then, in Python with torch and transformers:

  AutoModelForCausalLM.from_pretrained("exported/tiny", trust_remote_code=True)
"""

from pathlib import Path

from absl import flags

from crate_jax import cli

WORKDIR = flags.DEFINE_string("workdir", "", "The run's folder.")
STEP = flags.DEFINE_integer("step", None, "One of its checkpoints; the newest by default.")
OUT = flags.DEFINE_string("out", "", "The folder to write; it must not hold anything yet.")


def main() -> None:
  """Exports."""
  from crate_jax.hf import exported, folder  # not before: --help and wrong flags answer at once
  from crate_jax.run import load

  workdir, out = Path(WORKDIR.value).expanduser(), Path(OUT.value).expanduser()
  folder.require_new(out, "out")
  run = load(workdir, STEP.value)
  exported.write(run, workdir, out)
  files = ", ".join(sorted(path.name for path in out.iterdir()))
  print(f"step {run.step:,} of {workdir}, written to {out}: {files}")


if __name__ == "__main__":
  cli.run(main, required=["workdir", "out"])
