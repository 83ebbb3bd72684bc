"""The pipeline's output beside the local one's, shard for shard."""

import pytest
from test_preparation import books, files, jsonl, plan, small_units  # noqa: F401

from crate_jax.data import local, preparation
from crate_jax.errors import UserError

pytest.importorskip("apache_beam")


@pytest.mark.parametrize("validation", [True, False])
def test_beam_writes_what_the_local_run_writes(tmp_path, small_units, validation):  # noqa: F811
  from crate_jax.data import beam

  texts = books(60)
  for i in range(3):
    jsonl(tmp_path / "train" / f"{i}.jsonl.zst", texts[20 * i : 20 * i + 20])
  held_out = jsonl(tmp_path / "val.jsonl", [*texts[:2], "else"]) if validation else ""
  sizes = preparation.UNIT_BYTES, preparation.SHARD_UNITS
  local.prepare(plan(tmp_path / "local", tmp_path / "train", held_out))
  manifest = beam.prepare(plan(tmp_path / "beam", tmp_path / "train", held_out), [])
  assert sizes == (10_000, 2) and len(manifest["splits"]["train"]["shards"]) > 5
  assert files(tmp_path / "beam") == files(tmp_path / "local")


def test_a_source_that_cannot_be_read_stops_the_pipeline(tmp_path):
  from crate_jax.data import beam

  file = jsonl(tmp_path / "a.jsonl.zst", books(9))
  file.write_bytes(file.read_bytes()[:-5])
  held_out = jsonl(tmp_path / "b.jsonl", ["else"])
  with pytest.raises((UserError, RuntimeError), match="cannot be read"):
    beam.prepare(plan(tmp_path / "out", file, held_out), [])
  assert not (tmp_path / "out" / "manifest.json").exists()
