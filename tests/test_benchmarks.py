import dataclasses
import importlib.util
import json
import subprocess
import sys

import conftest
import numpy as np
import pytest
from test_main import SMALL

from configs import base
from crate_jax import config as config_lib
from crate_jax.model import flops


def test_compare_writes_a_table_of_both_architectures(text, tmp_path):
  out = tmp_path / "tables" / "small"
  flags = [*SMALL, f"--config.data.train={text}", f"--workdir={tmp_path}", f"--out={out}"]
  done = subprocess.run(
    [sys.executable, "benchmarks/compare.py", *flags, "--seeds=2"],
    cwd=conftest.ROOT, capture_output=True, text=True, timeout=330,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  runs = json.loads((out / "compare.json").read_text())
  cells = [(run["architecture"], run["config"]["seed"]) for run in runs]
  assert cells == [("crate", 0), ("gpt2", 0), ("crate", 1), ("gpt2", 1)]
  table = (out / "compare.md").read_text()
  for architecture in ("crate", "gpt2"):
    losses = [run["val_loss"] for run in runs if run["architecture"] == architecture]
    assert f"{sum(losses) / 2:.4f} ({min(losses):.4f} to {max(losses):.4f})" in table
  assert f"{runs[0]['bigram_loss']:.4f}" in table and "--seeds=2" in table
  ratios = []
  for crate, gpt2 in (runs[:2], runs[2:]):
    curves = [np.array(run["evaluations"]).T for run in (crate, gpt2)]
    reached = max(losses.min() for _, losses in curves)
    ends = [np.interp(-reached, -losses, tokens) for tokens, losses in curves]  # they only fall
    ratios.append(ends[1] / ends[0])
  assert f"gpt2 takes {np.mean(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) times" in table


def _run(script, out, *flags):
  done = subprocess.run(
    [sys.executable, f"benchmarks/{script}.py", f"--out={out}", *flags],
    cwd=conftest.ROOT, capture_output=True, text=True, timeout=550,
  )  # fmt: skip
  return done, [json.loads(file.read_text()) for file in sorted(out.glob("*.json"))]


def _step(out, contestants, *flags):
  short = ("--shape=tiny", "--rounds=2", "--seconds=0.1", f"--contestants={contestants}")
  return _run("step", out, *short, *flags)


@pytest.mark.slow
def test_step_times_all_in_turns(tmp_path):
  done, made = _step(tmp_path, "jax crate,jax product", f"--before={conftest.ROOT}")
  assert done.returncode == 0, done.stderr
  (made,) = made
  assert list(made["seconds"]) == ["jax crate", "jax product", "before crate"]
  assert all(len(times) == 2 and min(times) > 0 for times in made["seconds"].values())
  facts = made["contestants"]["jax crate"]
  model = config_lib.resolve_without_text(base.get_config("12L,crate")).model
  model = dataclasses.replace(model, layers=2, width=128, heads=2, context=256, vocab_size=8192)
  assert facts["flops"] == flops.training_flops_per_token(model) * 8 * 256
  rows = [line for line in (tmp_path / "step-tiny.md").read_text().splitlines() if "crate" in line]
  assert rows[0].startswith("| jax crate |") and "| 1.00 (1.00 to 1.00) |" in rows[0]


@pytest.mark.slow
def test_a_contestant_that_cannot_is_named(tmp_path):
  done, _ = _step(tmp_path, "jax crate,jax nothing")
  assert done.returncode == 1
  assert "'jax nothing' ended with status 1" in done.stderr


@pytest.mark.slow
def test_the_released_step_is_timed_too(tmp_path):
  pytest.importorskip("torch")
  done, (made,) = _step(tmp_path, "jax crate,torch eager crate,torch eager gpt2")
  assert done.returncode == 0, done.stderr
  assert len(made["seconds"]["torch eager gpt2"]) == 2


@pytest.mark.slow
def test_decoding_says_what_is_cached(tmp_path):
  everyone = ["jax crate", "jax gpt2", "uncached crate"]
  everyone += ["torch gpt2"] if importlib.util.find_spec("torch") else []
  short = ("--shape=tiny", "--rounds=1", "--seconds=0.1", "--length=8", "--prompts=2")
  done, (made,) = _run("decoding", tmp_path, *short, f"--contestants={','.join(everyone)}")
  assert done.returncode == 0, done.stderr
  assert list(made["seconds"]) == everyone
  cached = {name: fact.get("cached_bytes") for name, fact in made["contestants"].items()}
  one = 2 * 128 * 4  # layers, width, float32
  want = {"jax crate": one, "jax gpt2": 2 * one, "uncached crate": None, "torch gpt2": 2 * one}
  assert cached == {name: want[name] for name in everyone}


@pytest.mark.slow
def test_growth_is_that_of_the_arithmetic_in_flops(tmp_path):
  short = ("--shape=tiny", "--rounds=1", "--seconds=0.1", "--architectures=gpt2", "--factors=1,2")
  done, (made,) = _run("growth", tmp_path, *short)
  assert done.returncode == 0, done.stderr
  assert all(len(times) == 1 and times[0] > 0 for times in made["seconds"].values())
  row = next(line for line in done.stdout.splitlines() if line.startswith("| gpt2 | batch |"))
  assert row.split(" | ")[4] == "1.00"


@pytest.mark.slow
def test_startup_is_timed_cold_and_warm(text, tmp_path):
  done, (made,) = _run("startup", tmp_path, "--rounds=1", f"--text={text}")
  assert done.returncode == 0, done.stderr
  for marks in made["seconds"].values():
    values = [value for (value,) in marks.values()]
    assert len(values) == 3 and values == sorted(values) and values[0] > 0


@pytest.mark.slow
def test_precision_compares_one_models_dtypes(tmp_path):
  done, (made,) = _run("precision", tmp_path, "--shape=tiny", "--updates=10", "--batch=2")
  assert done.returncode == 0, done.stderr
  start, end = made["training"]["crate"]
  assert end[0] < start[0]
  for loss, half, off, gradient_off in (start, end):
    assert abs(half / loss - 1) == pytest.approx(off)
    assert 1e-3 < gradient_off < 0.1  # 8 bits of a number
