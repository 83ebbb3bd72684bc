"""A small sample of every experiment of benchmarks/soak.py, and that each would see a failure."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys

import conftest
import pytest

from benchmarks import soak_files, soak_jobs, soak_reader, soak_runs, soak_sweep

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("soak")


def as_promised(rows):
  for row in rows:
    assert row.kept == row.tried > 0, row.notes  # pytest shortens a whole row


@slow
def test_runs_that_are_killed_end_as_one_that_is_not(folder):
  (row,) = rows = soak_runs.kills(folder, 3)
  as_promised(rows)
  assert row.tried == 3 and "inside a save" in row.notes


@slow
@pytest.mark.parametrize("processes", [1, 2])
def test_runs_that_are_stopped_end_as_one_that_is_not(processes, folder):
  as_promised(soak_runs.stops(folder, 1, [processes]))


@slow
def test_one_of_two_runs_is_refused(folder):
  as_promised(soak_runs.races(folder, 1))


@slow
def test_a_full_disk_is_said_and_gone_on_from(folder):
  rows = soak_runs.disk(folder)
  if not rows[0].tried:
    pytest.skip(rows[0].notes)
  as_promised(rows)


@slow
def test_a_sweep_that_is_killed_has_the_same_cells(folder):
  (row,) = rows = soak_sweep.sweeps(folder, 2, (40, 120))
  as_promised(rows)
  assert row.tried == 4 and row.notes == "1 kills inside a decay"


@slow
def test_updates_that_are_not_finite_are_refused(folder):
  as_promised(soak_runs.numbers(folder, list(zip((1, 2, 1), soak_runs.NANS, strict=True))))


@slow
def test_fewer_devices_and_processes_read_the_same_batches(folder):
  as_promised(soak_runs.counts(folder))


@slow
def test_damaged_checkpoints_are_seen(folder):
  as_promised(soak_files.damage(folder, 1))


@slow
def test_mutated_files_are_refused_or_change_nothing(folder):
  as_promised(soak_files.fuzz(folder, 60))


@slow
def test_the_cost_of_digests_is_measured(folder):
  (row,) = soak_files.cost(folder, "1L", 1)
  assert "digests of a save are " in row.notes and "restore without " in row.notes


def test_what_goes_wrong_is_told_and_counted():
  row = soak_jobs.row("what", 9, [f"case {i}" for i in range(7)], "", "a note")
  assert (row.tried, row.kept) == (9, 2)
  assert row.notes.startswith("a note; NOT AS PROMISED: case 0; ") and row.notes.endswith("2 more")


def test_answers_are_judged():
  whole = {10: (10, "new"), 5: (5, "old")}
  said = "The checkpoint of step 10 is damaged: why."

  def judge(answer, said=""):
    return soak_files._judge({**answer, "said": said}, whole, 10)

  assert judge({"value": (10, "new")}) == judge({"value": (5, "old")}, said) == ""
  assert judge({"value": (10, "old")}) == "WRONG VALUES of step 10"
  assert judge({"value": (5, "old")}) == "it gives step 5 and does not say why"
  assert judge({"value": (0, "old")}, said) == "it gives step 0"
  assert judge({"failed": "dead"}) == "dead"
  assert judge({"refused": "why"}) == "refused: why"


def test_a_reader_that_hangs_or_dies_answers_and_lives_again(tmp_path):
  with soak_reader.Reader() as reader:
    assert "holds no checkpoint" in reader.ask("run", tmp_path)["refused"]
    os.kill(reader._process.pid, signal.SIGSTOP)
    assert reader.ask("run", tmp_path, seconds=0.1)["failed"] == "no answer in 0.1 s"
    assert "holds no checkpoint" in reader.ask("run", tmp_path)["refused"]
    reader._process.kill()
    assert reader.ask("run", tmp_path)["failed"] == "the process ended with -9"
    assert "Error" in reader.ask("state", None)["failed"]


def test_mutations_are_those_of_their_seed(tmp_path):
  (tmp_path / "one" / "60").mkdir(parents=True)
  (tmp_path / "one" / "a.json").write_text(json.dumps({"a": {"b": [1, 2, "c"]}, "d": "e"}))
  (tmp_path / "one" / "60" / "b.bin").write_bytes(bytes(range(200)))
  whole, copy, changed = contents(tmp_path / "one"), tmp_path / "copy", 0
  for seed in range(60):
    seen = []
    for _ in range(2):
      shutil.rmtree(copy, ignore_errors=True)
      shutil.copytree(tmp_path / "one", copy)
      seen.append((soak_files._mutate(random.Random(seed), copy), contents(copy)))
    assert seen[0] == seen[1]
    changed += seen[0][1] != whole
  assert changed > 50


def contents(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes() if path.is_file() else path.is_dir()
    for path in folder.rglob("*")
  }


@slow
def test_the_command_writes_a_table_and_does_nothing_twice(tmp_path):
  flags = [f"--workdir={tmp_path / 'work'}", f"--out={tmp_path / 'out'}", "--only=races"]
  tables = []
  for _ in range(2):
    done = subprocess.run(
      [sys.executable, "benchmarks/soak.py", *flags, "--share=0.05"],
      cwd=conftest.ROOT, capture_output=True, text=True, timeout=420,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    tables.append((tmp_path / "out" / "soak.md").read_text())
  assert tables[0] == tables[1] and "| races | two runs" in tables[0] and "1 of 1" in tables[0]
  kept = json.loads((tmp_path / "work" / "RESULT.json").read_text())
  assert list(kept) == ["races"]
