"""The report of score against loss, of made-up networks."""

import pytest
from test_equal_loss import network

from crate_jax.errors import UserError
from crate_jax.interpret import tradeoff_report


def test_the_report_is_written_with_every_point(tmp_path):
  records = [network("b", 6 - x, 0.3) for x in (0, 1)] + [network("a", 5.5, 0.8, rate=0.5)]
  records += [network("a", 5.2, 0.8, rate=0.5), network("a", 5.7, 0.7, rate=0.5, ended=False)]
  tradeoff_report.write(tmp_path, records, 0, "the command")
  text = (tmp_path / "tradeoff.md").read_text()
  assert text.count("| a |") == 3 and text.count("| b |") == 2
  assert text.count("1 on the way") == 1 and text.count("| ends |") == 3
  assert "50.0%" in text
  assert "0%, 0%" in text  # of their neurons none fire equally often
  assert (tmp_path / "tradeoff.png").stat().st_size > 5000
  assert '"kind": "a"' in (tmp_path / "tradeoff.json").read_text()


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
  with pytest.raises(UserError, match="holds no checkpoint"):
    tradeoff_report.runs([str(tmp_path)])
