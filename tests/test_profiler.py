import gzip
import json

import pytest

from crate_jax.errors import UserError
from crate_jax.training import loop
from crate_jax.training.profiler import Profiler


@pytest.mark.parametrize("steps", ["3", "0:2", "2:0", "a:b", "2:3:4", ":"])
def test_what_is_no_range_of_steps_is_refused(steps, tmp_path):
  with pytest.raises(UserError, match=f"--profile={steps} is not FIRST:COUNT"):
    Profiler.parse(tmp_path, steps)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_steps_asked_for_are_recorded(small, tmp_path, capsys):
  small.train.steps = 6
  loop.train(small, tmp_path / "run", profile="3:2")
  assert "profile of steps 3 to 4 written to" in capsys.readouterr().out
  folder = tmp_path / "run" / "profile"
  assert len(list(folder.rglob("*.xplane.pb"))) == 1  # TensorBoard's
  (trace,) = folder.rglob("perfetto_trace.json.gz")
  with gzip.open(trace) as file:
    events = json.load(file)["traceEvents"]
  names = [str(event.get("name")) for event in events]
  assert any("update" in name for name in names)


def test_without_asking_nothing_is_recorded(tmp_path):
  profiler = Profiler.parse(tmp_path, "")
  for step in range(3):
    profiler.before(step)
    profiler.after(step, None)
  assert list(tmp_path.iterdir()) == []
