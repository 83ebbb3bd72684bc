"""Makes a work directory of weights from PyTorch, for crate_jax to read and to start from.

--from is either a folder that `crate_jax.hf.export` or transformers' save_pretrained wrote, or an
official CRATE-LM checkpoint: CRATE or its GPT-2 baseline, a .safetensors file or one of torch.save.
No code in them is run. A checkpoint has no tokenizer with it: name its tokenizer.json. Its number
of heads is read where it stands there, and else that of the published sizes.

Everything is checked before --workdir is written, which must not hold anything yet.

  python -m crate_jax.hf.load --from=exported/tiny --workdir=runs/loaded
  python -m crate_jax.hf.load --from=ckpt.pt --tokenizer=tokenizer.json --workdir=runs/official
  python -m crate_jax.main --config=configs/base.py --workdir=runs/more \\
    --config.init_from=runs/official
"""

from pathlib import Path

from absl import flags

from crate_jax import cli

FROM = flags.DEFINE_string("from", "", "An exported folder, or an official checkpoint's file.")
WORKDIR = flags.DEFINE_string("workdir", "", "The folder to write; it must not hold anything yet.")
TOKENIZER = flags.DEFINE_string("tokenizer", "", "A tokenizer.json; a folder's own by default.")
HEADS = flags.DEFINE_integer("heads", None, "Of an official checkpoint; known by default.", 1)


def main() -> None:
  """Loads."""
  from crate_jax.hf import folder, imported, source  # not before: wrong flags answer at once
  from crate_jax.model import lm

  where, workdir = Path(FROM.value).expanduser(), Path(WORKDIR.value).expanduser()
  folder.require_new(workdir, "workdir")
  tokenizer = Path(TOKENIZER.value).expanduser() if TOKENIZER.value else None
  found = source.read(where, tokenizer, HEADS.value)
  imported.write(found, workdir)
  c = found.model
  print(
    f"{c.architecture}, {c.layers} layers of width {c.width}, {c.heads} heads, "
    f"{lm.count_parameters(c)['total']:,} parameters, written to {workdir}"
  )


if __name__ == "__main__":
  cli.run(main, required=["from", "workdir"])
