import dataclasses

import pytest
import sweeps

from crate_jax.data import shards
from crate_jax.errors import UserError
from crate_jax.scaling import cell as cell_lib
from crate_jax.scaling import table
from crate_jax.scaling.progress import Progress


def pretend(progress, cell, loss=3.0):
  """Writes a result as if a cell had been trained."""
  from crate_jax.scaling import grid

  c = grid.cell_config(progress.config, progress.grid, cell)
  facts = {"digest": grid.digest(c, progress.grid), "device": "d", "jax": "j", "commit": "c"}
  result = cell_lib._described(cell, facts)
  scores = {"loss": loss, "loss_of_rates": loss + 1, "work_nats": [loss], "work_tokens": [1]}
  cell_lib._write(progress.workdir, cell, {**result, **scores, "weights": "w"})


@pytest.fixture
def config(text):
  c = sweeps.config(text)
  c.sweep.rates, c.sweep.trials = (1e-3, 2e-3, 4e-3), ("2x16x2@5",)
  c.sweep.checks = ("gpt2@2x16x2@10",)
  return c


def finished(config, folder):
  """A sweep whose cells all have ended."""
  progress = Progress(config, folder)
  while left := progress.left():
    for cell in left:
      pretend(progress, cell, 3 + abs(cell.rate - 2e-3) + 1 / cell.steps)
      progress.ended(cell)
  return progress


def test_rates_are_tried_then_the_grid_is_known(config, tmp_path):
  progress = Progress(config, tmp_path)
  assert progress.trying and len(progress.left()) == len(progress.cells()) == 6
  with pytest.raises(UserError, match="whose rates are still to be tried: --print"):
    progress.named("crate-2x16x2-10-seed0-0.002")
  finished(config, tmp_path)
  progress = Progress(config, tmp_path)
  assert not progress.trying and not progress.left()
  assert len(progress.cells()) == 6 + 2 * 2 + 1  # the best trial is a cell of the grid as well
  assert progress.named("crate-2x16x2-10-seed0-0.002").steps == 10
  kinds = [row.kind for row in table.read(tmp_path)]
  assert {kind: kinds.count(kind) for kind in kinds} == {"trial": 6, "grid": 6, "check": 1}
  rates = (tmp_path / "rates.md").read_text()
  assert "| crate | 2x16x2, 5 steps | 4.2010 | **4.2000** | 4.2020 |" in rates
  assert "Chosen: crate 2x16x2 0.002, gpt2 2x16x2 0.002." in rates


def test_a_table_alone_is_enough_to_go_on_from(config, tmp_path):
  finished(config, tmp_path / "one")
  (tmp_path / "two").mkdir()
  for name in (table.PARQUET, table.CSV):
    (tmp_path / "one" / name).rename(tmp_path / "two" / name)
  longer = config.copy_and_resolve_references()
  longer.sweep.steps = (5, 10, 20, 40)
  progress = Progress(longer, tmp_path / "two")
  assert [cell.steps for cell in progress.left()] == [40, 40]


def test_another_config_is_refused_by_the_cell(config, tmp_path):
  finished(config, tmp_path)
  config.optimizer.weight_decay = 0.2
  with pytest.raises(UserError, match=r"holds crate-2x16x2-5-seed0-0.001 as another config"):
    Progress(config, tmp_path)


def test_the_text_is_prepared_once(config, tmp_path):
  first = Progress(config, tmp_path).config.data.prepared
  assert first == str(tmp_path / "text") and (tmp_path / "text" / shards.MANIFEST).exists()
  config.data.train = "nowhere.txt"
  assert Progress(config, tmp_path).config.data.prepared == first


def test_a_config_without_text_is_refused(config, tmp_path):
  config.data.train = ""
  with pytest.raises(UserError, match="names no text"):
    Progress(config, tmp_path)


def test_what_is_left_and_spared_is_said(config, tmp_path, capsys):
  progress = Progress(config, tmp_path)
  progress.say()
  said = capsys.readouterr().out
  assert "6 trials of rates, 0 of them done" in said
  finished(config, tmp_path).say()
  said = capsys.readouterr().out
  assert "11 cells, 11 of them done" in said
  # Two trunks of 16 and decays of 1, 2, 4; four other trials of 5; a cosine of 10.
  assert f"{2 * 23 + 4 * 5 + 10} updates in all; {2 * 35 + 20 + 10} if every cell" in said


def test_a_cell_costs_what_a_branch_does_not_spare(config, tmp_path):
  progress = Progress(config, tmp_path)
  cell = dataclasses.replace(progress.left()[0], steps=20)
  alone = dataclasses.replace(cell, schedule="cosine")
  assert progress._cost(cell) / progress._cost(alone) == (20 - 8) / 20
