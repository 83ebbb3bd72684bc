"""Sweeps for tests: a small one, of two layers of width 16 and three lengths, and the study's."""

from pathlib import Path

import conftest
from ml_collections import ConfigDict

from configs import plateau
from crate_jax.scaling import grid as grid_lib


def config(text: Path) -> ConfigDict:
  c = conftest.small_config(text)
  c.data.validation_fraction = 0.4
  c.optimizer.schedule, c.optimizer.warmup_steps = "wsd", 0
  c.optimizer.final_learning_rate = 0.0
  c.evaluation.every_steps = 4
  s = c.sweep
  s.variants = ConfigDict({"crate": "architecture=crate", "gpt2": "architecture=gpt2"})
  s.shapes, s.steps, s.seeds = ("2x16x2",), (5, 10, 20), (0,)
  s.works, s.tokens_per_work = 1000, 100
  return c


def plateau_config() -> ConfigDict:
  """configs/plateau.py, with a warm-up that lets lengths be short."""
  c = plateau.get_config()
  c.optimizer.warmup_steps = 15
  return c


def plateau_grid(**sweep) -> grid_lib.Grid:
  """Its grid, with some keys of `sweep` changed."""
  c = plateau_config()
  for key, value in sweep.items():
    c.sweep[key] = value
  return grid_lib.read(c)
