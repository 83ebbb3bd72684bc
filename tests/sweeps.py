"""A small sweep for tests: two layers of width 16, three lengths."""

from pathlib import Path

import conftest
from ml_collections import ConfigDict


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
