import dataclasses
import multiprocessing
import os
import signal
import threading
import time

import pytest
import sweeps

from crate_jax.errors import Stopped
from crate_jax.scaling import cell as cell_lib
from crate_jax.scaling import workers
from crate_jax.scaling.grid import Cell, Shape
from crate_jax.scaling.progress import Progress

SHORT = Cell("crate", Shape(2, 16, 2), 5, 0, 1e-2)
LONG = dataclasses.replace(SHORT, steps=10)
OTHER = dataclasses.replace(SHORT, variant="gpt2")
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def config(text, tmp_path):
  return Progress(sweeps.config(text), tmp_path).config


def test_cells_are_trained_trunk_by_trunk_each_on_its_cores(config, tmp_path):
  ended = []
  assert workers.train(config, [LONG, OTHER, SHORT], tmp_path, 2, ended.append) == []
  assert sorted(ended.index(c) for c in (SHORT, LONG)) == [ended.index(SHORT), ended.index(LONG)]
  assert {cell.name for cell in ended} == set(cell_lib.results(tmp_path))
  assert "branched from" in cell_lib.log(tmp_path, LONG).read_text()
  assert not multiprocessing.active_children()


def test_a_cell_that_breaks_is_tried_three_times_and_named(config, tmp_path, capsys):
  # A folder stands where the run would write a file, which no code of ours expects.
  (cell_lib.folder(tmp_path, SHORT) / "checkpoints").mkdir(parents=True)
  cell_lib.result_path(tmp_path, SHORT.name).mkdir(parents=True)
  assert workers.train(config, [SHORT], tmp_path, 1, lambda cell: None) == [SHORT.name]
  said = capsys.readouterr().out
  assert said.count(f"{SHORT.name} broke, attempt") == 3 and "attempt 3 of 3" in said
  assert not multiprocessing.active_children()


def test_a_cell_that_a_sentence_explains_is_not_tried_again(config, tmp_path, capsys):
  wrong = dataclasses.replace(SHORT, shape=Shape(2, 16, 3))  # heads that do not divide the width
  ended = []
  assert workers.train(config, [wrong, OTHER], tmp_path, 2, ended.append) == [wrong.name]
  assert ended == [OTHER]
  said = capsys.readouterr().out
  assert said.count(f"{wrong.name} broke, attempt") == 1
  assert "attempt 1 of 3: error: model.heads=3" in said


def test_a_signal_stops_all_and_says_so(config, tmp_path):
  config.train.steps = 10**6
  endless = dataclasses.replace(SHORT, steps=10**6)

  def ask():
    log = cell_lib.log(tmp_path, endless)
    while not (log.exists() and "step 5/" in log.read_text()):
      time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)

  threading.Thread(target=ask, daemon=True).start()
  handler = signal.getsignal(signal.SIGTERM)
  with pytest.raises(Stopped) as stopped:
    workers.train(config, [endless], tmp_path, 1, lambda cell: None)
  assert stopped.value.status == 143 and signal.getsignal(signal.SIGTERM) == handler
  assert "which is saved" in cell_lib.log(tmp_path, endless).read_text()
  assert not multiprocessing.active_children()


def test_cores_are_shared_out():
  cores = os.sched_getaffinity(0)
  for jobs in (1, 2, 3, 10**6):  # each has as many as any other
    parts = [workers._share(slot, jobs) for slot in range(min(jobs, 9))]
    assert {len(part) for part in parts} == {workers.cores(jobs)} and parts[0] <= cores
  if len(cores) > 1:
    assert not workers._share(0, 2) & workers._share(1, 2)
