"""The notebook, executed on a run made in seconds."""

import json
import shutil
import sys

import conftest
import nbclient
import nbformat
import pytest

from crate_jax.training import loop

NOTEBOOK = conftest.ROOT / "docs" / "first_look.ipynb"


@pytest.fixture
def kernels(tmp_path, monkeypatch):
  """A kernel specification that starts this Python, whatever else the machine has."""
  folder = tmp_path / "jupyter" / "kernels" / "python3"
  folder.mkdir(parents=True)
  command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
  (folder / "kernel.json").write_text(
    json.dumps({"argv": command, "display_name": "Python 3", "language": "python"})
  )
  monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
  monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))


def test_the_notebook_runs_from_its_folder(text, tmp_path, kernels):
  config = conftest.small_config(text)
  config.model.context = 64  # the sentence is 52 bytes
  loop.train(config, tmp_path / "run")
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  first = next(cell for cell in notebook.cells if cell.cell_type == "code")
  assert 'WORKDIR = "runs/tiny"' in first.source
  first.source = first.source.replace("runs/tiny", str(tmp_path / "run"))
  (tmp_path / "docs").mkdir()
  shutil.copytree(conftest.ROOT / "configs", tmp_path / "configs")
  client = nbclient.NotebookClient(
    notebook, timeout=300, kernel_name="python3",
    resources={"metadata": {"path": str(tmp_path / "docs")}},
  )  # fmt: skip
  client.execute()
  outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
  assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
  printed = "".join(output.get("text", "") for output in outputs)
  assert "of the codes are not zero" in printed and "setting it moves" in printed
  assert any("image/png" in output.get("data", {}) for output in outputs)


def test_the_committed_notebook_was_run_once_from_top_to_bottom():
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  nbformat.validate(notebook)
  text = NOTEBOOK.read_text()
  assert text.count('"image/png"') == 1 and '"output_type": "error"' not in text
  counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
  assert counts == list(range(1, len(counts) + 1))  # run once from top to bottom
