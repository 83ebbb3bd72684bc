"""A TensorFlow dataset of folders of JSON lines, built as array_record without TensorFlow.

  python -m crate_jax.data.jsonl_dataset --source=pile/ --data_dir=~/tensorflow_datasets

SOURCE holds a folder or file for each split: train/, validation/, or val.jsonl.zst, test.jsonl.zst.
A config then names it as data.train="tfds:jsonl_text:train", with TFDS_DATA_DIR set to the folder
unless that is the default one.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from absl import flags

from crate_jax import cli
from crate_jax.data import sources
from crate_jax.errors import UserError

_SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}


class JsonlText(tfds.core.GeneratorBasedBuilder):
  """Documents of JSON lines files, in order; `text` is the "text" of each object."""

  VERSION = tfds.core.Version("1.0.0")

  def __init__(self, *, source: str = "", **kwargs: Any) -> None:
    """As any builder; `source` is the folder, needed only to build."""
    self._source = source
    super().__init__(**{"file_format": "array_record", **kwargs})

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
      description="Documents of JSON lines files.",
      disable_shuffling=True,  # the order of the files is the order of the documents
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    folder = Path(self._source).expanduser()
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    named = {_SPLITS.get(entry.name.partition(".")[0]): entry for entry in entries}
    named.pop(None, None)
    if "train" not in named:
      raise UserError(f"--source={self._source!r} holds no folder or file of the name train.")
    return {split: self._generate_examples(path) for split, path in named.items() if split}

  def _generate_examples(self, path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    yield from enumerate({"text": text} for text in sources.iterate(str(path), "--source"))


def build(source: str, data_dir: str | None = None) -> tfds.core.DatasetBuilder:
  """Builds the dataset of a folder, unless it is there.

  Raises:
    UserError: the folder has no training split, or a record is no document.
  """
  builder = JsonlText(source=source, data_dir=data_dir)
  builder.download_and_prepare(file_format="array_record")
  return builder


def main() -> None:
  """Builds."""
  builder = build(flags.FLAGS["source"].value, flags.FLAGS["data_dir"].value)
  for name, split in builder.info.splits.items():
    print(f"{name}: {split.num_examples:,} documents in {split.num_shards} shards")


if __name__ == "__main__":
  flags.DEFINE_string("source", "", "The folder with a folder or file for each split.")
  flags.DEFINE_string("data_dir", None, "Where datasets are kept; ~/tensorflow_datasets if not.")
  cli.run(main, required=["source"])
