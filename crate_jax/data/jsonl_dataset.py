"""A TensorFlow dataset of folders of JSON lines, built as array_record without TensorFlow.

  python -c "from crate_jax.data.jsonl_dataset import build; build('pile-raw/', 'tfds/')"

The first folder holds a folder or file for each split: train/, validation/, or val.jsonl.zst,
test.jsonl.zst. A config names the dataset as data.train="tfds:jsonl_text:train"; the environment
variable TFDS_DATA_DIR names the second folder unless that is ~/tensorflow_datasets. (The command
`tfds build` does the same where TensorFlow is installed.)
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from crate_jax.data import sources
from crate_jax.errors import UserError

_SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}


class JsonlText(tfds.core.GeneratorBasedBuilder):
  """Documents of JSON lines files, in order; `text` is the "text" of each object.

  Raises:
    UserError: on building; there is no training split, or a record is no document.
  """

  VERSION = tfds.core.Version("1.0.0")
  MANUAL_DOWNLOAD_INSTRUCTIONS = "A folder with a folder or file of .jsonl for each split."

  def __init__(self, **kwargs: Any) -> None:
    """As any builder; writes array_record unless told otherwise."""
    super().__init__(**{**kwargs, "file_format": kwargs.get("file_format") or "array_record"})

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
      description="Documents of JSON lines files.",
      disable_shuffling=True,  # the order of the files is the order of the documents
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    folder = Path(dl_manager.manual_dir)
    named = {_SPLITS.get(entry.name.partition(".")[0]): entry for entry in sorted(folder.iterdir())}
    if "train" not in named:
      raise UserError(f"{folder} holds no folder or file of the name train.")
    return {split: self._generate_examples(path) for split, path in named.items() if split}

  def _generate_examples(self, path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    yield from enumerate({"text": text} for text in sources.iterate(str(path), "manual_dir"))


def build(source: str | Path, data_dir: str | Path | None = None) -> tfds.core.DatasetBuilder:
  """Builds the dataset of a folder, unless it is there; takes the arguments of the example above.

  Raises:
    UserError: the folder has no training split, or a record is no document.
  """
  builder = JsonlText(data_dir=data_dir)
  download = tfds.download.DownloadConfig(manual_dir=Path(source).expanduser().absolute())
  builder.download_and_prepare(download_config=download)
  return builder
