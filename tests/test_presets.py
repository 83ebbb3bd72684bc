import inspect
import re

import conftest
import pytest

from configs import base
from crate_jax import config as config_lib
from crate_jax.model import flops, lm
from crate_jax.model.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_model_whose_docstring_names_its_paper(name):
  c = config_lib.resolve(base.get_config(f"2L,{name}"), 50257).model
  assert c.architecture == name
  text = inspect.getdoc(PRESETS[name])
  assert re.search(r"arXiv \d{4}\.\d{5}|Bai and Ma 2025", text) and "x <-" in text


@pytest.mark.parametrize("name", PRESETS)
def test_the_table_of_the_family_is_what_is_counted(name):
  table = (conftest.ROOT / "docs" / "family.md").read_text()
  c = config_lib.resolve(base.get_config(f"12L,{name}"), 50257).model
  parameters, training = lm.count_parameters(c), flops.training_flops_per_token(c)
  assert f"| `{name}` | {parameters['total']:,} | {training:,} |" in table
  squares = round(parameters["blocks"] / c.layers / c.width**2)  # without biases and gains
  scores = 0 if c.mixing == "tssa" else 4 * c.context * c.width
  products = (flops.mixing_flops(c) - scores + flops.feature_flops(c)) / c.width**2
  row = next(line for line in table.splitlines() if line.startswith(f"| `{name}` | x"))
  assert f"| {squares} d^2 | {products:.0f} d^2 |" in row
