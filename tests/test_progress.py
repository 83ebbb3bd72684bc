import dataclasses
import shutil

import pytest
import sweeps
from ml_collections import ConfigDict

from crate_jax.data import shards
from crate_jax.errors import UserError
from crate_jax.scaling import cell as cell_lib
from crate_jax.scaling import table
from crate_jax.scaling.progress import Progress


def pretend(progress, cell, loss=3.0, text=""):
  """Writes a result as if a cell had been trained."""
  from crate_jax.scaling import grid

  c = grid.cell_config(progress.config, progress.grid, cell)
  facts = {"digest": grid.digest(c, progress.grid), "cores": 1}
  facts |= {"device": "d", "jax": "j", "commit": "c"}
  result = cell_lib._described(cell, facts)
  scores = {"loss": loss, "loss_of_rates": loss + 1, "work_nats": [loss], "work_tokens": [1]}
  cell_lib._write(progress.workdir, cell, {**result, **scores, "weights": "w", "text": text})


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


def test_rows_that_a_narrower_config_does_not_name_stay(config, tmp_path):
  finished(config, tmp_path)
  before = table.read(tmp_path)
  shutil.rmtree(tmp_path / "cells")
  config.sweep.variants = ConfigDict({"crate": "architecture=crate"})
  config.sweep.steps, config.sweep.checks = (5, 10), ()
  rates = (tmp_path / "rates.md").read_text()
  Progress(config, tmp_path).write()
  assert table.read(tmp_path) == before and (tmp_path / "rates.md").read_text() == rates
  assert "| gpt2 | 2x16x2, 5 steps | 4.2010 |" in rates and "gpt2 2x16x2 0.002." in rates
  # While a trial is missing nothing is known of the grid, and its rows stay too.
  config.sweep.trials = ("2x16x2@5", "2x16x2@10")
  progress = Progress(config, tmp_path)
  assert progress.trying
  progress.write()
  assert all(row in table.read(tmp_path) for row in before)


def test_where_no_rate_is_inside_the_trials_are_shown(config, tmp_path):
  progress = Progress(config, tmp_path)
  with pytest.raises(UserError, match="best rate of crate is at the end"):
    while True:
      for cell in progress.left():
        pretend(progress, cell, 3 - cell.rate)
        progress.ended(cell)
  assert "is at the end of those tried" in (tmp_path / "rates.md").read_text()
  assert {row.kind for row in table.read(tmp_path)} == {"trial"}


def test_a_variant_that_cannot_be_is_refused_before_any_is_trained(config, tmp_path):
  config.sweep.variants.other = "ista_steps=0"
  with pytest.raises(UserError, match="ista_steps"):
    Progress(config, tmp_path)


def test_another_config_is_refused_by_the_cell(config, tmp_path):
  finished(config, tmp_path)
  config.optimizer.weight_decay = 0.2
  with pytest.raises(UserError, match=r"holds crate-2x16x2-5-seed0-0.001 as another config"):
    Progress(config, tmp_path)


def test_the_text_is_prepared_once(config, tmp_path):
  first = Progress(config, tmp_path).config.data.prepared
  assert first == str(tmp_path / "text") and (tmp_path / "text" / shards.MANIFEST).exists()
  assert Progress(config, tmp_path).config.data.prepared == first
  config.data.prepared, config.data.train = first, ""  # where the text itself is not
  assert Progress(config, tmp_path).config.data.prepared == first


def test_another_text_is_refused(config, tmp_path):
  Progress(config, tmp_path)
  config.data.validation_fraction = 0.5
  with pytest.raises(UserError, match="holds a preparation of validation share"):
    Progress(config, tmp_path)


def test_cells_of_another_text_are_refused(config, tmp_path):
  progress = Progress(config, tmp_path)
  pretend(progress, progress.left()[0], text="f" * 64)
  with pytest.raises(UserError, match=r"as another text makes it \(sha256 ffffffffffff"):
    Progress(config, tmp_path)


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
