"""The command itself: a sweep from a config, gone on with, printed, and verified."""

import os
import subprocess
import sys

import conftest
import pytest

from crate_jax.scaling import table

pytestmark = pytest.mark.timeout(600)
SMALL = (
  "--config=configs/plateau.py",
  "--config.model.context=16",
  "--config.data.tokenizer=bytes",
  "--config.data.validation_fraction=0.4",
  "--config.optimizer.warmup_steps=0",
  "--config.evaluation.tokens=500",
  "--config.sweep.shapes=('2x16x2',)",
  "--config.sweep.steps=(5,10)",
  "--config.sweep.seeds=(0,)",
  "--config.sweep.rates=()",
  "--config.sweep.trials=()",
  "--config.sweep.checks=()",
  "--config.sweep.tokens_per_work=100",
)


def sweep(workdir, *flags, text="text.txt"):
  command = [sys.executable, "-m", "crate_jax.scaling.sweep", *SMALL, f"--workdir={workdir}"]
  command += [f"--config.data.train={workdir.parent / text}", *flags]
  return subprocess.run(
    command, cwd=conftest.ROOT, capture_output=True, text=True, timeout=500, env={**os.environ}
  )


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  folder = tmp_path_factory.mktemp("sweep")
  conftest.write_text(folder / "text.txt")
  printed = sweep(folder / "w", "--print")
  return folder / "w", printed, sweep(folder / "w", "--jobs=2")


def test_a_sweep_trains_its_cells_and_says_how_it_goes(done):
  workdir, _, ran = done
  assert ran.returncode == 0, ran.stdout + ran.stderr
  # Trunks of 8, decays of 1 and 2, for two variants.
  assert "22 updates in all; 30 if every cell were trained from its start (27% spared" in ran.stdout
  rows = table.read(workdir)
  assert [(r.variant, r.steps, r.kind) for r in rows] == [
    (variant, steps, "grid") for variant in ("crate", "gpt2") for steps in (10, 5)
  ]
  assert all(f"{r.cell}  loss {r.loss:.4f}" in ran.stdout for r in rows)
  again = sweep(workdir)
  assert again.returncode == 0 and "4 cells, 4 of them done" in again.stdout
  assert table.read(workdir) == rows


@pytest.mark.slow
def test_a_command_is_printed_for_every_cell_and_trains_it(done):
  workdir, printed, ran = done
  assert ran.returncode == 0
  commands = printed.stdout.splitlines()
  assert printed.returncode == 0 and len([c for c in commands if "--only=" in c]) == 4
  name = "crate-2x16x2-10-seed0-0.0006"
  assert sum(c.endswith(f"--only={name}") for c in commands) == 1
  row = next(r for r in table.read(workdir) if r.cell == name)
  other = workdir.parent / "other"  # without the shorter cell: from the start
  alone = sweep(other, f"--only={name}")
  assert alone.returncode == 0, alone.stderr
  assert sweep(other, "--print").stdout.count("--only=") == 3
  same = sweep(workdir, "--verify=1", "--jobs=2")
  assert same.returncode == 0 and "the same, bit for bit" in same.stdout, same.stderr
  assert row.weights in (other / "cells" / f"{name}.json").read_text()


@pytest.mark.parametrize(
  ("flags", "code", "said"),
  [
    (["--only=none"], 1, "--only=none is not a cell of this sweep: --print lists them."),
    (["--only=x", "--print"], 2, "--print, --only and --verify exclude each other."),
    (["--config.optimizer.schedule=cosine"], 1, 'A sweep needs optimizer.schedule="wsd"'),
    (["--config.sweep.sed=1"], 1, "Unknown config key sweep.sed. Did you mean sweep.seeds?"),
    (["--verify=9", "--jobs=2"], 1, "--verify=9: 4 cells have ended that had"),
  ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(done, flags, code, said):
  refused = sweep(done[0], *flags)
  assert refused.returncode == code and said in refused.stderr
  assert "Traceback" not in refused.stderr
