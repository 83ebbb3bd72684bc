import dataclasses
import json
import math

import conftest
import numpy as np
import pytest
import sweeps

from crate_jax.data import shards, sources, splits
from crate_jax.errors import UserError
from crate_jax.run import load
from crate_jax.scaling import cell as cell_lib
from crate_jax.scaling import grid as grid_lib
from crate_jax.scaling.grid import Cell, Shape
from crate_jax.scaling.progress import Progress
from crate_jax.training import checkpoint
from crate_jax.training import workdir as files

SHORT, MIDDLE, LONG = (Cell("crate", Shape(2, 16, 2), steps, 0, 1e-2) for steps in (5, 10, 20))
COSINE = dataclasses.replace(MIDDLE, schedule="cosine")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
  """A config with its text prepared, and the folder of the cells above, trained in turn."""
  folder = tmp_path_factory.mktemp("sweep")
  config = Progress(sweeps.config(conftest.write_text(folder / "text.txt")), folder).config
  for cell in (SHORT, MIDDLE, LONG, COSINE):
    cell_lib.train(config, cell, folder)
  return config, folder


def state(folder, cell):
  meta = files.read_meta(cell_lib.folder(folder, cell))
  assert meta["step"] == cell.steps
  return meta["digests"]


@pytest.mark.parametrize("cell", [MIDDLE, LONG], ids=["middle", "long"])
def test_a_branch_is_bit_equal_to_a_run_from_the_start(cell, sweep, tmp_path, capsys):
  config, folder = sweep
  cell_lib.train(config, cell, tmp_path, straight=True)
  assert "branched" not in capsys.readouterr().out
  assert state(folder, cell) == state(tmp_path, cell)  # parameters and optimizer
  one, other = (cell_lib.results(f)[cell.name] for f in (folder, tmp_path))
  for key in ("loss", "loss_of_rates", "work_nats", "weights", "curve_tokens", "curve_loss"):
    assert one[key] == other[key], key


def test_a_branch_leaves_its_trunk_where_the_shorter_one_did(sweep):
  _, folder = sweep
  # Each has the checkpoint it began with, the one that the next begins with, and its end.
  steps = [checkpoint.steps(cell_lib.folder(folder, c)) for c in (SHORT, MIDDLE, LONG, COSINE)]
  assert steps == [[4, 5], [4, 8, 10], [8, 16, 20], [8, 10]]


def test_the_loss_is_of_every_second_reserved_work(sweep):
  _, folder = sweep
  result = cell_lib.results(folder)[LONG.name]
  works = list(cell_lib.reserved(folder / "text", 99, 100))
  run = load(cell_lib.folder(folder, LONG))
  for first, key in ((0, "loss"), (1, "loss_of_rates")):
    scored = [run.loss(work) for work in works[first::2]]
    nats = sum(x.nats * x.tokens for x in scored) / sum(x.tokens for x in scored)
    assert result[key] == pytest.approx(nats, rel=1e-12)
  assert len(result["work_nats"]) == len(works[0::2]) == len(result["work_tokens"])
  assert sum(result["work_nats"]) / sum(result["work_tokens"]) == result["loss"]
  assert result["tokens"] == 20 * 8 * 16 and result["curve_tokens"][-1] == result["tokens"]


def test_reserved_works_are_read_from_their_middle(sweep):
  _, folder = sweep
  stream = shards.Prepared(folder / "text").split("validation")
  tokens, ends = stream[:], stream.ends()
  whole = np.split(tokens, ends[:-1])
  for work, wanted in zip(cell_lib.reserved(folder / "text", 99, 100), whole, strict=True):
    spare = (len(wanted) - 100) // 2
    assert np.array_equal(work, wanted[spare : spare + 100])
  everything = np.concatenate(list(cell_lib.reserved(folder / "text", 99, 10**9)))
  assert np.array_equal(everything, tokens)
  ends = cell_lib.reserved(folder / "text", 2, 10**9)  # spread over all: the first and the last
  assert [w.tolist() for w in ends] == [whole[0].tolist(), whole[-1].tolist()]


def test_a_run_that_diverges_is_a_result(sweep, tmp_path):
  config, _ = sweep
  config = config.copy_and_resolve_references()
  config.optimizer.clip_norm = 0.0
  config.train.max_refused = 1
  cell = dataclasses.replace(SHORT, rate=1e30)
  cell_lib.train(config, cell, tmp_path)
  result = cell_lib.results(tmp_path)[cell.name]
  assert result["loss"] == result["loss_of_rates"] == math.inf
  assert cell_lib.row(result, "trial").learning_rate == 1e30


def test_a_damaged_result_is_named(sweep, tmp_path):
  path = cell_lib.result_path(tmp_path, "x")
  path.parent.mkdir()
  for damaged in ("{", json.dumps({"cell": "x"}), "[]"):
    path.write_text(damaged)
    with pytest.raises(UserError, match=r"x.json is damaged .*: remove it"):
      cell_lib.results(tmp_path)


def test_rows_say_what_results_do(sweep):
  _, folder = sweep
  results = cell_lib.results(folder)
  rows = [cell_lib.row(results[LONG.name], kind) for kind in ("trial", "grid")]
  assert rows[0].loss == results[LONG.name]["loss_of_rates"] != rows[1].loss
  for row in rows:
    back = cell_lib.from_rows([row])[LONG.name]
    assert {**back, "kind": ""} == results[LONG.name]


def test_one_reserved_work_is_too_few(tmp_path):
  texts = ["a b c d e f " * 99 + "\n", "x y z " * 99 + "\n"]
  (tmp_path / "text.txt").write_text("<|endoftext|>\n".join(texts))
  config = sweeps.config(tmp_path / "text.txt")
  texts = sources.read_documents(config.data.train, "data.train")
  config.data.validation_fraction = max(int(splits.sha256(t), 16) / 2**256 for t in texts)
  Progress(config, tmp_path)
  with pytest.raises(UserError, match="sets 1 works aside: a sweep needs two"):
    list(cell_lib.reserved(tmp_path / "text", 99, 10))


def test_the_grid_reads_the_small_config(text):
  assert grid_lib.read(sweeps.config(text)).rate == 1e-2
