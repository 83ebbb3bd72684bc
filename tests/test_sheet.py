"""The blinded sheet."""

import json

import numpy as np
import pytest

from crate_jax.interpret import sheet


def neuron(unit, rng):
  """A neuron whose top excerpts hold token 1, as no random one does."""

  def excerpt(group, fires):
    tokens = rng.integers(2, 30, 8).tolist()
    if fires:
      tokens[5] = 1
    return {"group": group, "tokens": tokens, "values": [float(t == 1) for t in tokens]}

  excerpts = [excerpt("top", True) for _ in range(8)]
  excerpts += [excerpt("random, the same for every neuron", False) for _ in range(10)]
  return {"layer": 0, "unit": unit, "numbers": {"largest": 1.0}, "excerpts": excerpts}


@pytest.fixture
def made(tmp_path):
  rng = np.random.default_rng(0)
  tokens = {str(i): "<&>" if i == 1 else f" w{i}" for i in range(30)}
  models = []
  for name in ("one", "two"):
    folder = tmp_path / name
    folder.mkdir()
    pages = {"tokens": tokens, "neurons": [neuron(i, rng) for i in range(40)]}
    (folder / "pages.json").write_text(json.dumps(pages))
    models.append((name, folder / "pages.json"))
  count = sheet.write(tmp_path, models, 0)
  return tmp_path, count, json.loads((tmp_path / sheet.KEY).read_text())


def test_the_sheet_is_blinded_and_shows_both_models_alike(made):
  folder, count, key = made
  page = (folder / sheet.SHEET).read_text()
  assert count == len(key) == page.count("<fieldset>") == sheet.NEURONS
  assert sorted(k["model"] for k in key) == ["one"] * 30 + ["two"] * 30
  assert [k["model"] for k in key] != sorted(k["model"] for k in key)
  assert set("".join(k["right"] for k in key)) == set(sheet.CHOICES)
  assert "one" not in page.replace("When you are done", "").split("<form")[1].split("</form>")[0]
  # Only the right choice holds what the neuron fires on.
  for k, part in zip(key, page.split("<fieldset>")[1:], strict=True):
    choices = part.split("In which of these")[1].split('type="radio"')[1:-1]
    holds = [letter for letter, c in zip("ABCD", choices, strict=True) if "&lt;&amp;&gt;" in c]
    assert holds == [k["right"]]
    assert k["foil"] == 0


def test_a_neuron_that_hardly_fires_is_not_asked_about():
  rng = np.random.default_rng(0)
  silent = neuron(0, rng)
  silent["excerpts"] = silent["excerpts"][4:]
  assert sheet._question(silent, {str(i): "x" for i in range(30)}, rng) is None
