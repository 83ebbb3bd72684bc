import csv
import dataclasses
import json
import math

import pyarrow.parquet
import pytest

from crate_jax.errors import UserError
from crate_jax.scaling import table
from crate_jax.scaling.table import Row


def row(cell="b", kind="grid", **changes):
  none = {str: "", int: 0, float: 0.0}
  values = {f.name: none.get(f.type, []) for f in dataclasses.fields(Row)}
  return Row(**{**values, "cell": cell, "kind": kind, "loss": 1 / 3, **changes})


def test_rows_come_back_as_they_were(tmp_path):
  rows = [row("b"), row("a", work_nats=[0.1, 2.0], work_tokens=[3, 4], flops_per_token=2**40)]
  table.write(tmp_path, rows)
  assert table.read(tmp_path) == [rows[1], rows[0]]  # by name
  assert rows[1].flops == 0.0 and row(flops_per_token=3, tokens=5).flops == 15.0


def test_a_run_that_diverged_comes_back_infinite(tmp_path):
  table.write(tmp_path, [row(loss=math.inf)])
  assert table.read(tmp_path)[0].loss == math.inf


def test_the_csv_says_the_same(tmp_path):
  table.write(tmp_path, [row("a", work_nats=[0.1, 2.0])])
  with (tmp_path / table.CSV).open() as file:
    (line,) = csv.DictReader(file)
  assert float(line["loss"]) == 1 / 3 and json.loads(line["work_nats"]) == [0.1, 2.0]
  assert tuple(line) == table.FIELDS


def test_what_is_no_table_is_named(tmp_path):
  with pytest.raises(UserError, match="is not there: --workdir is not the folder of a sweep"):
    table.read(tmp_path)
  (tmp_path / table.PARQUET).write_text("nothing")
  with pytest.raises(UserError, match="is not a sweep's table"):
    table.read(tmp_path)
  pyarrow.parquet.write_table(pyarrow.table({"x": [1]}), tmp_path / table.PARQUET)
  with pytest.raises(UserError, match=r"is not a sweep's table: .*'x'"):
    table.read(tmp_path)
