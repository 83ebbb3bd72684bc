import json
import os
import re
import subprocess
import sys

import conftest
import jax
import jax.numpy as jnp
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_main import SMALL

from crate_jax import config as config_lib
from crate_jax.errors import UserError
from crate_jax.model import flops
from crate_jax.training import hardware, metrics

EVALUATION = {
  "val_loss": 2.5, "bits_per_byte": 1.5, "nonzero": [0.25, 0.5], "eta_sigma2": [1.75, 2.5]
}  # fmt: skip


def report(workdir, config, first, last):
  """Steps first + 1 to last of a run whose loss at step s is 1 / s, and an evaluation."""
  clock = metrics.Clock({})
  with metrics.Reporter(workdir, config, first, clock) as reporter:
    for step in range(first + 1, last + 1):
      values = {"loss": jnp.asarray(1 / step), "grad_norm": jnp.ones(()), "learning_rate": 0.1}
      values["batch_hash"] = jnp.array([step, 255], jnp.uint32)
      reporter.note(8 * step, {**values, "applied": jnp.asarray(True)})
    reporter.flush()
    reporter.evaluation(last, EVALUATION)


@pytest.fixture
def config(small):
  small.train.log_every_steps = 2
  return config_lib.resolve(small, 257)


def test_an_evaluation_is_on_disk_at_once(config, tmp_path):
  """A checkpoint of its step may follow, and then a kill: it is not evaluated again."""
  with metrics.Reporter(tmp_path, config, 4, metrics.Clock({})) as reporter:
    reporter.evaluation(4, EVALUATION)
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line) == {"step": 4, **EVALUATION}


def test_the_speed_of_a_run_is_that_of_all_tokens_that_it_trained(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])

  def trained(clock, tokens, seconds):
    clock.step_done(tokens)  # a process's first, which does not count
    for _ in range(3):
      now[0] += seconds
      clock.step_done(tokens)
    return clock

  first = trained(metrics.Clock({}), tokens=10, seconds=2)
  assert first.tokens_per_second() == 5 and first.seconds_per_step() == 2
  resumed = trained(metrics.Clock(first.totals()), tokens=100, seconds=6)  # a larger batch
  assert resumed.tokens_per_second() == (30 + 300) / (6 + 18) and resumed.seconds_per_step() == 6
  old = metrics.Clock({"seconds": 9.0, "train_seconds": 6.0, "train_steps": 3})
  assert trained(old, tokens=10, seconds=1).tokens_per_second() == 10


def test_lines_on_a_pipe(config, tmp_path, capsys):
  report(tmp_path, config, 0, 4)
  first, second, *evaluation = capsys.readouterr().out.splitlines()
  assert first.startswith("step 2/10  loss 0.5000  grad 1.00  rate 1.00e-01  ")
  assert "tokens/s" in second and second.endswith(" left")
  assert evaluation == [
    "step 4  val_loss 2.5000  1.5000 bits per byte",
    "  non-zero codes by layer      25.0%  50.0%",
    "  eta sigma_max(D)^2 by layer  1.75  2.50  (convergence is sure below 2)",
  ]


def test_utilisation_is_said_where_the_peak_is_known(config, tmp_path, capsys, monkeypatch):
  for name in ("unknown", "known"):
    (tmp_path / name).mkdir()
  report(tmp_path / "unknown", config, 0, 4)
  assert "MFU" not in capsys.readouterr().out
  peak = 1e9
  peaks = hardware.Peaks(peak, 1e9, 1e9, 1e9, "a page")
  monkeypatch.setattr(hardware, "peaks", lambda device: peaks)
  report(tmp_path / "known", config, 0, 4)
  assert re.search(r"  MFU \d+\.\d%  [\d,]+ tokens/s", capsys.readouterr().out)
  lines = [json.loads(line) for line in (tmp_path / "known/metrics.jsonl").read_text().splitlines()]
  line = next(line for line in lines if line["step"] == 4)
  per_token = flops.training_flops_per_token(config.model)
  assert line["mfu"] == pytest.approx(line["tokens_per_second"] * per_token / peak)


def test_a_restart_takes_back_what_lies_past_its_step(config, tmp_path):
  report(tmp_path, config, 0, 8)
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"step": 9, "lo')  # cut short
  report(tmp_path, config, 4, 10)
  lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert [(line["step"], line["loss"]) for line in lines if "loss" in line] == [
    (step, pytest.approx(1 / step)) for step in (2, 4, 6, 8, 10)
  ]
  assert [line["nonzero"] for line in lines if "val_loss" in line] == [[0.25, 0.5]]
  assert [line["batch_hash"] for line in lines if "loss" in line][1] == "00000004000000ff"

  board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
  assert [(e.step, e.value) for e in board.Scalars("loss")] == [
    (step, pytest.approx(1 / step)) for step in (2, 4, 6, 8, 10)
  ]
  assert [(e.step, e.value) for e in board.Scalars("eta_sigma2/layer_02")] == [(10, 2.5)]
  assert [e.value for e in board.Scalars("nonzero/layer_01")] == [0.25]


FULL = """
import resource, sys
from pathlib import Path
from crate_jax.training import sinks
folder = Path(sys.argv[1])
board = sinks.TensorBoard(folder, 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
  for step in range(1, 10000):
    board.write(step, {"loss": 1.0})
  board.flush()
except OSError as error:
  print("full:", error.strerror)
"""


def test_a_disk_that_is_full_ends_in_an_error_and_not_in_waiting(tmp_path):
  done = subprocess.run(
    [sys.executable, "-c", FULL, tmp_path],
    cwd=conftest.ROOT, capture_output=True, text=True, timeout=120,
  )  # fmt: skip
  assert done.stdout == "full: File too large\n", done.stderr


def test_the_refusal_before_a_checkpoint_stays(config, tmp_path):
  """It belongs to the update that follows; the checkpoint counts it."""
  refusals = [{"step": 5, "skipped": 1}, {"step": 5, "skipped": 2}, {"step": 6, "skipped": 2}]
  (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in refusals))
  with metrics.Reporter(tmp_path, config, 4, metrics.Clock({}), skipped=1):
    pass
  assert json.loads((tmp_path / "metrics.jsonl").read_text()) == refusals[0]


def test_a_run_that_never_saved_starts_again(config, tmp_path):
  report(tmp_path, config, 0, 4)
  report(tmp_path, config, 0, 2)
  board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
  assert [e.step for e in board.Scalars("loss")] == [2]
  assert (tmp_path / "metrics.jsonl").read_text().count('"loss"') == 1


def test_only_process_zero_speaks_and_writes(config, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  report(tmp_path / "nowhere", config, 0, 4)
  assert capsys.readouterr().out == ""
  assert not (tmp_path / "nowhere").exists()


def test_weights_and_biases_not_installed_is_said(config, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)
  with pytest.raises(UserError, match="--wandb needs the package wandb"):
    metrics.Reporter(tmp_path, config, 0, metrics.Clock({}), wandb="project")


WANDB_HISTORY = """
import json, struct, sys
from wandb.proto import wandb_internal_pb2
data, place, steps, record = open(sys.argv[1], "rb").read(), 7, [], b""  # 7: the file's header
while place + 7 <= len(data):  # LevelDB's log: blocks of 32 KiB of pieces (crc, length, kind)
  _, length, kind = struct.unpack_from("<IHB", data, place)
  if kind == 0:  # padding
    place += -place % 32768
    continue
  record += data[place + 7 : place + 7 + length]
  place += 7 + length
  if -place % 32768 < 7:
    place += -place % 32768
  if kind in (1, 4):  # whole, or the last piece
    message = wandb_internal_pb2.Record.FromString(record)
    record = b""
    if message.WhichOneof("record_type") == "history":
      items = message.history.item
      steps.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
print(json.dumps(steps))
"""


def test_weights_and_biases_gets_the_same_numbers(text, tmp_path):
  environment = os.environ | {"WANDB_MODE": "offline"}
  flags = [*SMALL, f"--config.data.train={text}", f"--workdir={tmp_path / 'run'}", "--wandb=test"]
  done = subprocess.run(
    [sys.executable, "-m", "crate_jax.main", *flags],
    cwd=conftest.ROOT, capture_output=True, text=True, timeout=300, env=environment,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
  assert (tmp_path / "run" / "wandb_id").read_text() in file.name
  history = subprocess.run(
    [sys.executable, "-c", WANDB_HISTORY, str(file)], capture_output=True, text=True, timeout=180
  )
  assert history.returncode == 0, history.stderr
  steps = json.loads(history.stdout)
  lines = [
    json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  ]
  losses = [line["loss"] for line in lines if "loss" in line]
  assert [item["loss"] for item in steps if "loss" in item] == losses
  assert [item["nonzero/layer_01"] for item in steps if "val_loss" in item] == [
    line["nonzero"][0] for line in lines if "val_loss" in line
  ]
