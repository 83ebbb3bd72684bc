"""The paper's models on the paper's text, the uncopyrighted part of the Pile.

  huggingface-cli download monology/pile-uncopyrighted --repo-type=dataset --local-dir=data/pile-raw
  python -m crate_jax.prepare --config=configs/pile.py --out=data/pile
  python -m crate_jax.main --config=configs/pile.py --workdir=runs/pile

Argument: SIZE[,ARCHITECTURE] as of configs/base.py, whose docstring holds the published losses and
the hours of training. data.tokenizer is a folder with GPT-2's encoder.json and vocab.bpe.

Bytes and hours, none of them measured on the whole: the Pile's 1,254 GiB with its repeats, less the
313 GiB of the five parts that are left out (Gao et al. 2020, table 1), are about 1 TB of text. At
the 1.5 MB/s a core of benchmarks/data/prepare.md that is 185 core hours, 2 hours on 96 cores; at
its 4.3 bytes a token some 240 billion tokens, 480 GB of shards.
"""

from ml_collections import config_dict

from configs import base


def get_config(argument: str = "12L,crate") -> config_dict.ConfigDict:
  """configs/base.py on the prepared Pile."""
  c = base.get_config(argument)
  c.data.prepared = "data/pile"
  c.data.train = "data/pile-raw/train"
  c.data.validation = "data/pile-raw/val.jsonl.zst"
  c.data.tokenizer = "data/gpt2"
  return c
