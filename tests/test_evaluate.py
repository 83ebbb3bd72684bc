"""The command evaluate; what it computes is tested by test_loss and test_tasks."""

import json

import pytest
from test_main import SMALL, command


@pytest.mark.parametrize(
  ("flags", "sentence"),
  [
    (["--tasks=lambada"], "--tasks needs --tasks_dir"),
    (["--tasks=lambada", "--data=x"], "--data and --tasks exclude each other"),
    (["--limit=3"], "--limit goes with --tasks"),
    (["--tasks=squad", "--tasks_dir=x"], "--tasks=squad is not one of: lambada, hellaswag, blimp"),
    (["--limit=0", "--tasks=lambada"], "flag --limit=0"),
  ],
)
def test_flags_of_evaluate_that_do_not_fit_are_named(flags, sentence, tmp_path):
  done = command("evaluate", f"--workdir={tmp_path}", *flags)
  assert done.returncode == 2 and sentence in done.stderr and done.stderr.count("\n") == 1


def test_tasks_are_scored_from_local_files(text, tmp_path):
  workdir = f"--workdir={tmp_path / 'run'}"
  assert command("main", *SMALL, f"--config.data.train={text}", workdir).returncode == 0
  (tmp_path / "tasks" / "lambada").mkdir(parents=True)
  items = "".join(json.dumps({"text": f"the cat sat on a {w}"}) + "\n" for w in ("mat", "hat", "x"))
  (tmp_path / "tasks" / "lambada" / "lambada_test.jsonl").write_text(items)
  done = command(
    "evaluate", workdir, "--tasks=lambada", f"--tasks_dir={tmp_path / 'tasks'}",
    f"--out={tmp_path / 'out'}", "--limit=2",
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert [line.split()[:2] for line in lines[2:]] == [
    ["lambada", "accuracy"],
    ["lambada", "perplexity"],
  ]
  written = json.loads((tmp_path / "out" / "tasks.json").read_text())
  assert [s["metric"] for s in written["scores"]] == ["accuracy", "perplexity"]
  assert written["scores"][0]["items"] == written["limit"] == 2
  value = written["scores"][1]["value"]
  assert float(lines[3].split()[2]) == pytest.approx(value, rel=1e-4)
  missing = command("evaluate", workdir, "--tasks=blimp", f"--tasks_dir={tmp_path / 'tasks'}")
  assert missing.returncode == 1 and "holds no .jsonl file" in missing.stderr
