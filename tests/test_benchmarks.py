import json
import subprocess
import sys

import conftest
from test_main import SMALL


def test_compare_writes_a_table_of_both_architectures(text, tmp_path):
  out = tmp_path / "tables" / "small"
  flags = [*SMALL, f"--config.data.train={text}", f"--workdir={tmp_path}", f"--out={out}"]
  done = subprocess.run(
    [sys.executable, "benchmarks/compare.py", *flags, "--seeds=2"],
    cwd=conftest.ROOT, capture_output=True, text=True, timeout=110,
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
