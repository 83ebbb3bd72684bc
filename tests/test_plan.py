import jax
import jax.numpy as jnp
import models
import numpy as np
import pytest

from crate_jax import config as config_lib
from crate_jax.errors import UserError
from crate_jax.model import lm
from crate_jax.training import loop, plan, program


@pytest.mark.parametrize("architecture", ["crate", "gpt2"])
def test_the_plan_is_that_of_the_step(architecture, small):
  small.model.architecture = architecture
  c = config_lib.resolve(small, 257)
  pieces = program.build(c)
  measured = plan.measure(pieces, c)
  parameters = sum(x.size for x in jax.tree.leaves(lm.abstract_params(lm.LM(c.model))))
  # Parameters, AdamW's two moments; the step and the optimizer's two counters.
  assert measured.state_bytes == 3 * 4 * parameters + 3 * 4
  # The logits of the batch and their gradient at least, and not absurdly much.
  logits = 8 * 16 * 257 * 4
  assert logits < measured.step_bytes < 100 * logits
  assert measured.mesh == {"data": 1, "fsdp": 1, "tensor": 1}
  assert 1e8 < measured.device_bytes < 1e14 and measured.fits  # a CPU has the machine's
  assert measured.compile_seconds > 0 and measured.seconds_per_step > 0

  batch = jnp.asarray(models.tokens(pieces.model, rows=8, length=17))
  one, other = (
    update(pieces.init(jax.random.key(0)), batch) for update in (measured.update, pieces.update)
  )
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_step_that_does_not_fit_is_not_tried(small, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(plan, "_device_bytes", lambda: 100_000)
  assert loop.train(small, tmp_path / "run", dry_run=True) == {}
  assert "not tried: the step does not fit the memory" in capsys.readouterr().out
  with pytest.raises(UserError, match=r"does not fit the device's memory: raise train\.accum"):
    loop.train(small, tmp_path / "run")
  assert not (tmp_path / "run").exists()
