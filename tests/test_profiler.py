import gzip
import json

import jax
import pytest

from crate_jax.errors import UserError
from crate_jax.training import loop
from crate_jax.training.profiler import Profiler


@pytest.mark.parametrize("steps", ["3", "0:2", "2:0", "a:b", "2:3:4", ":"])
def test_what_is_no_range_of_steps_is_refused(steps, tmp_path):
  with pytest.raises(UserError, match=f"--profile={steps} is not FIRST:COUNT"):
    Profiler.parse(tmp_path, steps)


@pytest.mark.slow
def test_the_steps_asked_for_are_recorded(small, tmp_path, capsys):
  small.train.steps = 6
  loop.train(small, tmp_path / "run", profile="3:2")
  assert "profile written to" in capsys.readouterr().out
  folder = tmp_path / "run" / "profile"
  assert len(list(folder.rglob("*.xplane.pb"))) == 1  # TensorBoard's
  (trace,) = folder.rglob("perfetto_trace.json.gz")
  with gzip.open(trace) as file:
    events = json.load(file)["traceEvents"]
  names = [str(event.get("name")) for event in events]
  assert any("update" in name for name in names)


def test_without_asking_nothing_is_recorded(tmp_path):
  with Profiler.parse(tmp_path, "") as profiler:
    for step in range(3):
      profiler.before(step)
      assert not profiler.ends_with(step)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  ("start", "end", "calls"),
  [
    (1, 9, ["start 3", "stop 5"]),
    (4, 9, ["start 4", "stop 5"]),
    (1, 4, ["start 3", "exit"]),
    (6, 9, []),
  ],
)  # fmt: skip
def test_a_range_that_resuming_or_stopping_cuts_is_recorded_as_far(
  start, end, calls, tmp_path, monkeypatch
):
  said, now = [], "exit"
  monkeypatch.setattr(jax.profiler, "start_trace", lambda *a, **k: said.append(f"start {now}"))
  stopped = lambda: said.append(f"stop {now}" if now != "exit" else now)  # noqa: E731
  monkeypatch.setattr(jax.profiler, "stop_trace", stopped)
  with Profiler.parse(tmp_path, "3:3") as profiler:
    for now in range(start, end + 1):
      profiler.before(now)
      if profiler.ends_with(now):
        profiler.stop()
    now = "exit"
  assert said == calls
