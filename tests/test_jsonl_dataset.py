"""A TensorFlow dataset, built from JSON lines and mocked, without TensorFlow."""

import json
import subprocess
import sys

import pytest

from crate_jax.data import sources
from crate_jax.errors import UserError
from crate_jax.training import loop

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("array_record")

TEXTS = [f"document {i}: " + "the cat sat on a mat " * 20 for i in range(30)]


def build(folder, data_dir):
  """In a process of its own, as a person does it."""
  program = "import sys; from crate_jax.data.jsonl_dataset import build; build(*sys.argv[1:])"
  return subprocess.run(
    [sys.executable, "-c", program, folder, data_dir], capture_output=True, text=True, timeout=300
  )


@pytest.fixture
def built(tmp_path, monkeypatch):
  folder = tmp_path / "jsonl"
  (folder / "train").mkdir(parents=True)
  for name, texts in (("train/0", TEXTS[:10]), ("train/1", TEXTS[10:25]), ("val", TEXTS[25:])):
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / f"{name}.jsonl").write_text(lines)
  done = build(folder, tmp_path / "tfds")
  assert done.returncode == 0, done.stderr
  monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "tfds"))
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
  return tmp_path / "tfds"


def test_a_built_dataset_is_its_documents_in_order(built):
  assert "tensorflow" not in sys.modules
  assert list(built.glob("jsonl_text/1.0.0/*train.array_record*"))
  assert sources.read_documents("tfds:jsonl_text") == TEXTS[:25]
  assert sources.read_documents("tfds:jsonl_text:validation:text") == TEXTS[25:]
  assert sources.read_documents("tfds:jsonl_text:train[:40%]:text") == TEXTS[:10]


def test_parts_of_a_dataset_are_ranges_of_it(built, monkeypatch):
  monkeypatch.setattr(sources, "_PART", 10)
  there = sources.source("tfds:jsonl_text")
  assert [part.pieces for part in there.parts()] == [("0:10",), ("10:20",), ("20:25",)]
  assert sources.read_documents("tfds:jsonl_text") == TEXTS[:25]
  assert [record.done for record in there.records(there.parts()[2])] == [1, 2, 3, 4, 5]


def test_a_built_dataset_trains(built, small, tmp_path):
  small.data.train, small.data.validation = "tfds:jsonl_text", "tfds:jsonl_text:validation"
  result = loop.train(small, tmp_path / "run")
  assert (result["data"]["train_documents"], result["data"]["validation_documents"]) == (25, 5)


def test_a_mocked_dataset_trains(small, tmp_path):
  with tfds.testing.mock_data(num_examples=50):
    small.data.train = "tfds:ag_news_subset:train:description"
    result = loop.train(small, tmp_path / "run")
  assert result["data"]["train_documents"] + result["data"]["validation_documents"] == 50


@pytest.mark.parametrize(
  ("name", "sentence"),
  [
    ("tfds:nothing_of_that_name", "cannot be opened in .*Dataset nothing_of_that_name not found"),
    ("tfds:jsonl_text:dev", "cannot be opened in .*Unknown split 'dev'"),
    ("tfds:jsonl_text:train:label", r"has no feature 'label'; it has text\."),
  ],
)
def test_what_is_not_there_is_named(built, name, sentence):
  with pytest.raises(UserError, match=sentence):
    sources.read_documents(name)


def test_a_folder_without_a_training_split_is_refused(tmp_path):
  failed = build(tmp_path, tmp_path / "tfds")
  assert failed.returncode and "holds no folder or file of the name train" in failed.stderr
