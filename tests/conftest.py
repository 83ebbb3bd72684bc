"""What every test shares: the slow mark, small configs, text on every machine."""

import os

# jax 0.10.2 hangs on several fake CPU devices unless this is at least twice their number; set
# before JAX starts, and inherited by every process that a test starts.
os.environ.setdefault("NPROC", "16")
os.environ["JAX_PLATFORMS"] = "cpu"
# What LLVM does for speed would take half of the tests' time; only last bits depend on it.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import shutil
import tempfile
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs import base
from crate_jax import memory

ROOT = Path(__file__).parents[1]
memory.keep_freed()


def pytest_configure(config: pytest.Config) -> None:
  """Compiles a program once for all tests and processes, which need the same small ones."""
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # a worker inherits it
    folder = tempfile.TemporaryDirectory(prefix="crate_jax-compiled-")
    config.add_cleanup(folder.cleanup)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


def pytest_addoption(parser: pytest.Parser) -> None:
  parser.addoption("--slow", action="store_true", help="run the tests that take minutes too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
  if not config.getoption("--slow"):
    for item in items:
      if "slow" in item.keywords:
        item.add_marker(pytest.mark.skip(reason="slow; run with --slow"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
  """The folder of real text that lies beside some checkouts; a test without it is skipped."""
  folder = ROOT.parent / "shared" / "data"
  if not folder.exists():
    pytest.skip("the folder shared/data with real text does not lie beside the checkout")
  return folder


def write_text(file: Path) -> Path:
  """Writes twelve documents, about 20 kB of patterned words."""
  words = "the cat sat on a mat and saw that dog run to his own red hat by it".split()  # noqa: SIM905
  documents = []
  for d in range(12):
    chosen = [words[(i * i + d * i + 3 * d) % len(words)] for i in range(400)]
    documents.append(" ".join(chosen) + f" end of {d}\n")
  file.write_text("<|endoftext|>\n".join(documents))
  return file


@pytest.fixture
def text(tmp_path: Path) -> Path:
  """A file as `write_text` writes it."""
  return write_text(tmp_path / "text.txt")


@pytest.fixture
def small(text: Path) -> ConfigDict:
  """A config that trains in seconds: two layers of width 16 on bytes of `text`."""
  return small_config(text)


def small_config(text: Path, architecture: str = "crate") -> ConfigDict:
  c = base.get_config(f"2L,{architecture}")
  c.model.width, c.model.heads, c.model.context = 16, 2, 16
  c.model.vocab_size = None
  c.model.dtype = "float32"
  c.data.train = str(text)
  c.data.tokenizer = "bytes"
  c.optimizer.learning_rate, c.optimizer.warmup_steps = 1e-2, 2
  c.train.steps, c.train.batch_size, c.train.log_every_steps = 10, 8, 1
  c.evaluation.every_steps, c.evaluation.tokens = 5, 500
  c.checkpoint.every_steps = 5
  return c


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[ConfigDict, Path]:
  """A config and the work directory of a run of it that is finished; not to be changed."""
  from crate_jax.training import loop  # JAX starts with it

  folder = tmp_path_factory.mktemp("finished")
  config = small_config(write_text(folder / "text.txt"))
  loop.train(config, folder / "run")
  return config, folder / "run"


@pytest.fixture
def done(finished: tuple[ConfigDict, Path], tmp_path: Path) -> tuple[ConfigDict, Path]:
  """The same, to change at will."""
  config, workdir = finished
  shutil.copytree(workdir, tmp_path / "run")
  return config.copy_and_resolve_references(), tmp_path / "run"
