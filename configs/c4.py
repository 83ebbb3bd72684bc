"""The paper's models on C4, the cleaned Common Crawl (Raffel et al. 2020), in English.

  tfds build c4/en --file_format=array_record
  python -m crate_jax.prepare --config=configs/c4.py --out=data/c4
  python -m crate_jax.main --config=configs/c4.py --workdir=runs/c4

Argument: SIZE[,ARCHITECTURE] as of configs/base.py. No loss of CRATE on C4 is published. The first
command is TensorFlow Datasets' own (it needs TensorFlow and a Beam runner; TFDS_DATA_DIR names its
folder), the others need its extra: EXTRAS=tfds launch/local.sh. data.tokenizer is a folder with
GPT-2's encoder.json and vocab.bpe.

Bytes and hours, none of them measured on the whole: 364,868,892 training documents, 807 GiB as the
catalogue of TensorFlow Datasets counts them. At the 1.5 MB/s a core of benchmarks/data/prepare.md
that is 160 core hours, under 2 hours on 96 cores; at its 4.3 bytes a token some 200 billion tokens,
400 GB of shards. Training takes what configs/base.py says.
"""

from ml_collections import config_dict

from configs import base


def get_config(argument: str = "12L,crate") -> config_dict.ConfigDict:
  """configs/base.py on prepared C4."""
  c = base.get_config(argument)
  c.data.prepared = "data/c4"
  c.data.train = "tfds:c4/en:train:text"
  c.data.validation = "tfds:c4/en:validation:text"
  c.data.tokenizer = "data/gpt2"
  return c
