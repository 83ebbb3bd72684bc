from pathlib import Path

import pytest

from configs import base
from crate_jax import config as config_lib
from crate_jax.training import report
from crate_jax.training.plan import Plan

FACTS = {
  "text": "some books",
  "train_tokens": 1_000_000_000,
  "validation_tokens": 4_000_000,
  "train_sha256": "a" * 64,
  "validation_sha256": "b" * 64,
  "tokenizer_sha256": "c" * 64,
}


def plan(**changes):
  values = {
    "update": None,
    "mesh": {"data": 8, "fsdp": 1, "tensor": 1},
    "state_bytes": 983_000_000,
    "step_bytes": 12_300_000_000,
    "device_bytes": 80_000_000_000,
    "compile_seconds": 41.2,
    "seconds_per_step": 0.25,
    "compiler_counts": False,
    "slices": 1,
  }
  return Plan(**(values | changes))  # type: ignore[arg-type]


def test_the_table_before_the_first_step(capsys):
  c = config_lib.resolve(base.get_config("12L"), 50257)
  report.before(c, FACTS, plan(), Path("runs/base"), step=200_000)
  out = capsys.readouterr().out
  table = {line[2:17].strip(): line[18:] for line in out.splitlines() if line.strip()}
  # 12 blocks of 6 d^2 and their norms and biases, 50,304 rows, a final norm; positions apart.
  blocks = 12 * (2 * 768**2 + 768 + 4 * 768**2 + 4 * 768)
  embedding, norm = 50304 * 768, 2 * 768
  total = blocks + embedding + norm
  assert table["parameters"] == (
    f"{total:,} = {blocks:,} in blocks + {embedding:,} embedding (tied) + {norm:,} final norm; "
    f"{1024 * 768:,} positions not counted"
  )
  flops = 3 * (12 * (36 * 768**2 + 4 * 1024 * 768) + 2 * 768 * 50304)
  tokens = 600_000 * 256 * 1024
  assert table["training FLOPs"] == (
    f"{flops:,} per token, exact (6 N would say {6 * total:,}, "
    f"{flops / 6 / total:.2f} times less); {flops * tokens:.2e} in all"
  )
  assert table["tokens"] == f"{tokens:,}: {tokens / total:.1f} per parameter, 157.29 epochs"
  assert table["run"] == "runs/base, going on at step 200,000"
  assert table["memory"] == "983.0 MB of state and 12.3 GB for a step, of 80.0 GB on each device"
  assert table["time"].startswith("about 27h46m, evaluations not counted: 1,048,576 tokens/s in 2 ")
  assert "mesh: data 8, fsdp 1, tensor 1" in table["device"]
  assert "some books" in table["text"] and "training aaaaaaaaaaaa" in table["sha256"]


@pytest.mark.parametrize(
  ("seconds", "text"),
  [(0, "0s"), (59.4, "59s"), (59.6, "1m00s"), (3599, "59m59s"), (3600, "1h00m"), (1e5, "27h46m")],
)
def test_durations(seconds, text):
  assert report.duration(seconds) == text


def test_what_json_does_not_have_is_none():
  nan, inf = float("nan"), float("inf")
  assert report.finite({"a": nan, "b": [1.0, inf], "c": {"d": (-inf, 2)}}) == {
    "a": None, "b": [1.0, None], "c": {"d": [None, 2]},
  }  # fmt: skip


def test_control_characters_are_written_out():
  assert report.printable("a\x1b[31m\tb\x00 é “c”") == "a\\x1b[31m\\tb\\x00 é “c”"
