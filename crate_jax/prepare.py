"""Tokenises a text once, into shards that every run and every context length reads.

Reads data.train, data.validation and data.tokenizer of the config; writes OUT: manifest.json,
tokenizer.json, train/, validation/, and quarantine.jsonl if there are records that are no
documents. Uses all cores. Stopped and run again, it goes on and ends in the same bytes.
Runs then read it with --config.data.prepared=OUT.

  python -m crate_jax.prepare --config=configs/pile.py --out=data/pile
  python -m crate_jax.prepare --config=configs/base.py --config.data.train=books/ \\
    --config.data.tokenizer=gpt2/tokenizer.json --out=data/books

With --beam the same work is an Apache Beam pipeline, whose options the flag holds; OUT and the
text must then lie where every worker sees them (extra: beam).

  python -m crate_jax.prepare --config=configs/pile.py --out=/shared/pile \\
    --beam="--runner=FlinkRunner --flink_master=host:8081 --parallelism=256"
"""

import contextlib
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from crate_jax import cli

CONFIG = config_flags.DEFINE_config_file(
  "config", None, "The config file, FILE.py[:ARGUMENT]; --config.KEY=VALUE changes a key."
)
OUT = flags.DEFINE_string("out", "", "The folder to prepare, made if it is not there.")
BEAM = flags.DEFINE_string("beam", None, "Options of an Apache Beam pipeline to run as.")


def main() -> None:
  """Prepares."""
  from crate_jax import config as config_lib  # not before: --help and wrong flags answer at once
  from crate_jax import lock
  from crate_jax.data import local, preparation, shards

  config_lib.resolve(CONFIG.value, vocab_size=1)  # wrong keys are named before any text is read
  data = config_lib.data_config(CONFIG.value)
  out = Path(OUT.value).expanduser()
  with contextlib.ExitStack() as stack:
    # Held with what is under way, from before the tokenizer is made.
    if not (out.is_file() or (out / shards.MANIFEST).exists()):
      stack.enter_context(lock.held(out / preparation.PROGRESS, f"--out={out}"))
    work = preparation.Preparation(
      out,
      train=data.train,
      validation=data.validation,
      validation_fraction=data.validation_fraction,
      tokenizer=data.tokenizer,
      bpe_vocab_size=data.bpe_vocab_size,
      cache=data.cache,
    )
    if work.finished:
      print(f"{out} is prepared already:")
    if BEAM.value is None or work.finished:
      manifest = local.prepare(work)
    else:
      from crate_jax.data import beam

      manifest = beam.prepare(work, BEAM.value.split())
  _report(out, manifest)


def _report(out: Path, manifest: dict[str, Any]) -> None:
  quarantined = 0
  for split, there in manifest["splits"].items():
    quarantined += there["quarantined"]
    print(
      f"{split}: {there['tokens']:,} tokens of {there['documents']:,} documents, "
      f"{there['text_bytes']:,} bytes of text, in {len(there['shards'])} shards; left out: "
      f"{there['empty']:,} empty, {there['duplicates']:,} that stand in the validation set, "
      f"{there['quarantined']:,} that are no documents"
    )
  if quarantined:
    print(f"{out}/quarantine.jsonl lists the {quarantined:,} records that are no documents.")


if __name__ == "__main__":
  cli.run(main, required=["config", "out"])
