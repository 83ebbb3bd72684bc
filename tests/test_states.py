"""A run measured in every state, and what it leaves on disk."""

import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
import types

import conftest
import models
import numpy as np
import planted
import pyarrow.parquet
import pytest
import safetensors.numpy

import crate_jax
from crate_jax.data import atomic
from crate_jax.errors import UserError
from crate_jax.interpret import causal, compare_report, neurons_report, record, states
from crate_jax.interpret.measure import COLUMNS
from crate_jax.model.activations import Edit
from crate_jax.training import loop

ASKED = {"neurons": 20, "shown": 3, "tokens": 1 << 20, "seed": 0}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
  return planted.works(tmp_path_factory.mktemp("text") / "works.txt")


@pytest.fixture(scope="module")
def measured(finished, text, tmp_path_factory):
  """A run and the folder in which it was measured."""
  _, workdir = finished
  out = tmp_path_factory.mktemp("measured") / "neurons"
  kept = states.kept(str(workdir), None, out, states.Asked(text, **ASKED))
  return workdir, out, kept


def test_a_record_is_read_as_it_was_written(measured):
  _, out, kept = measured
  again = record.read(out)
  assert again.facts == json.loads(json.dumps(kept.facts))
  np.testing.assert_array_equal(again.units_Ln, kept.units_Ln)
  assert again.units_Ln.shape == (2, 20)
  assert list(again.states) == list(record.STATES)
  for name, state in kept.states.items():
    assert again.states[name].rules == state.rules
    for column in COLUMNS:
      np.testing.assert_array_equal(again.states[name].columns[column], state.columns[column])
    for sums in ("sums_WMS", "ranks_WMS"):
      got, wanted = getattr(again.states[name], sums), getattr(state, sums)
      np.testing.assert_allclose(got, wanted, rtol=1e-6)
  for state in record.STATES:
    np.testing.assert_allclose(
      again.scored(state, 1).scores(), again.states[state].columns["score"][20:], atol=1e-5
    )
  np.testing.assert_array_equal(again.ranked_W, kept.ranked_W)
  ranked = again.scored(record.SPEARMAN, 1).scores()
  np.testing.assert_allclose(ranked, again.states["trained"].columns["spearman"][20:], atol=1e-5)
  # What a text is decides, not where it lies.
  assert record.read(out, kept.facts | {"text": "--data=../elsewhere.txt"}) is not None
  assert record.read(out, kept.facts | {"text_sha256": "x"}) is None


def test_states_are_what_they_say(measured):
  *_, kept = measured
  trained, init, silent, top = (kept.states[name] for name in record.STATES)
  assert trained.loss < init.loss
  assert silent.loss != trained.loss == top.loss
  # A uniform guess over the vocabulary of 257, almost: the init knows nothing.
  assert init.loss == pytest.approx(np.log(257), abs=0.1)
  fires = top.columns["firing_rate"]
  assert 0 < fires.mean() < 0.02  # a hundredth of other works' tokens
  assert (fires <= trained.columns["firing_rate"] + 1e-9).all()


def test_every_neuron_has_a_row_and_every_table_a_meaning(measured):
  _, out, kept = measured
  table = pyarrow.parquet.read_table(out / record.NEURONS)
  assert table.num_rows == len(record.STATES) * kept.units_Ln.size
  assert set(table.column_names) == {"state", "layer", "unit", "rule", *COLUMNS}


def test_the_same_question_is_answered_from_disk_and_another_anew(measured, text, monkeypatch):
  workdir, out, _ = measured
  before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
  states.kept(str(workdir), None, out, states.Asked(text, **ASKED))
  assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}

  def measure(*_):
    raise RuntimeError("measured anew")

  monkeypatch.setattr(states, "measured", measure)
  with pytest.raises(RuntimeError, match="measured anew"):
    states.kept(str(workdir), None, out, states.Asked(text, **(ASKED | {"seed": 1})))


def test_a_file_that_is_not_what_was_written_is_named(measured, tmp_path):
  _, out, _ = measured
  broken = shutil.copytree(out, tmp_path / "broken")
  (broken / record.SUMS).write_bytes(b"nothing")
  with pytest.raises(UserError, match=r"sums\.safetensors is not the file that manifest\.json"):
    record.read(broken)


def test_a_record_that_was_cut_off_is_not_read(measured, tmp_path, monkeypatch):
  """At every file of it, and with an older one that was whole in its place."""
  *_, kept = measured
  write, files = atomic.write, []
  monkeypatch.setattr(atomic, "write", lambda path, data: files.append(path) or write(path, data))
  record.write(tmp_path, kept, {}, {})
  assert files[-1] == tmp_path / record.MANIFEST and record.read(tmp_path) is not None
  for last in range(len(files)):
    monkeypatch.setattr(atomic, "write", write)
    record.write(tmp_path, kept, {}, {})

    def cut(path, data, last=files[last]):
      if path == last:
        raise KeyboardInterrupt
      write(path, data)

    monkeypatch.setattr(atomic, "write", cut)
    with pytest.raises(KeyboardInterrupt):
      record.write(tmp_path, kept, {}, {})
    assert record.read(tmp_path) is None


def test_latents_are_the_activations_of_the_shown_neurons(measured):
  workdir, out, kept = measured
  run = crate_jax.load(workdir)
  windows = {}
  for part, layer in itertools.product(("explain", "score"), range(2)):
    (file,) = (out / "latents" / part / f"layer_{layer}").glob("*.safetensors")
    arrays = safetensors.numpy.load(file.read_bytes())
    tokens_BT, places = arrays["tokens"], arrays["locations"]
    assert len(np.unique(places[:, 2])) <= ASKED["shown"]
    assert np.isin(places[:, 2], kept.units_Ln[layer]).all()
    codes_BTC = np.asarray(run.codes(tokens_BT))[layer]
    wanted = codes_BTC[tuple(places.T)]
    np.testing.assert_allclose(arrays["activations"], wanted, rtol=2e-3, atol=1e-6)
    assert (arrays["activations"] != 0).all()
    windows[part] = {bytes(tokens_T) for tokens_T in tokens_BT}
  assert not windows["explain"] & windows["score"]


def test_ablations_add_the_loss_that_an_edited_run_has(measured, text):
  workdir, _, kept = measured
  run = crate_jax.load(workdir)
  found = states.read_text(run, str(workdir), states.Asked(text, **ASKED))
  windows_NT = found.excerpts.of("score").tokens_NT[: causal.WINDOWS]

  def loss(*edits):
    logits = np.asarray(run.logits(windows_NT, edits=edits), np.float64)[:, :-1]
    top = logits.max(-1, keepdims=True)
    total = np.log(np.exp(logits - top).sum(-1)) + top[..., 0]
    own = np.take_along_axis(logits, windows_NT[:, 1:, None], axis=-1)[..., 0]
    return (total - own).mean()

  added = kept.states[record.TRAINED].columns["added_loss"].reshape(2, -1)
  shown = np.argwhere(~np.isnan(added))
  assert len(shown) == 2 * ASKED["shown"]
  for layer, place in shown[:3]:
    edit = Edit(run.neurons, int(layer), int(kept.units_Ln[layer, place]))
    assert added[layer, place] == pytest.approx(loss(edit) - loss(), abs=2e-6)


def test_effects_on_logits_are_what_a_unit_moves_but_for_the_norm(measured):
  """In the last layer; the norm takes away what lies along the stream, and divides the rest."""
  workdir, *_ = measured
  run = crate_jax.load(workdir)
  *_, effect_nV = causal.logit_effects(run.config.model, run.params, np.array([[0, 1], [2, 3]]))
  tokens, step = np.arange(8)[None], 1e-2
  edit = Edit(run.neurons, 1, 3, scale=1.0, add=step)
  logits = [np.asarray(run.logits(tokens, edits=edits), np.float64)[0] for edits in ([], [edit])]
  x_TD = np.asarray(run.activations(tokens, ["decoded"])["decoded"], np.float64)[1, 0]
  unit_TD = (x_TD - x_TD.mean(1, keepdims=True)) / x_TD.std(1, keepdims=True)
  row_D = np.asarray(run.params["blocks"]["features"]["dictionary"], np.float64)[1, 3]
  along_TD = unit_TD * (unit_TD @ row_D)[:, None] / len(row_D)
  head_DV = np.asarray(run.params["norm"]["scale"])[:, None] * np.asarray(run.params["tokens"]).T
  moved_TV = (logits[1] - logits[0]) / step * x_TD.std(1, keepdims=True) + along_TD @ head_DV
  moved_TV -= moved_TV.mean(1, keepdims=True)
  np.testing.assert_allclose(
    moved_TV, np.tile(effect_nV[1], (8, 1)), atol=0.05 * np.abs(effect_nV[1]).max()
  )


def test_analysis_of_a_record_gives_every_layer_and_state(measured):
  *_, kept = measured
  analysis = neurons_report.analyse([kept], 0, draws=50)
  assert len(analysis.lines) == 3 * (len(record.STATES) + 2)
  for line in analysis.lines:
    low, high = line.summary.interval
    assert -1 <= low <= high <= 1
  whole = analysis.differences[-1]
  trained, init = (analysis.line(None, name).mean for name in (record.TRAINED, record.INIT))
  assert whole.value == pytest.approx(trained - init)


def test_networks_are_compared_by_layer_and_matched(measured, text, tmp_path):
  workdir, _, kept = measured
  config = conftest.small_config(conftest.write_text(tmp_path / "text.txt"), "gpt2")
  loop.train(config, tmp_path / "gpt2")
  other = states.kept(str(tmp_path / "gpt2"), None, tmp_path / "n", states.Asked(text, **ASKED))
  kinds = compare_report.kinds({str(workdir): kept, "gpt2": other})
  assert list(kinds) == ["crate", "gpt2"]
  found = compare_report.compare(kinds, 0, draws=50)
  assert [c.layer for c in found.contrasts] == [0, 1, None] * 4
  plain = found.contrasts[2]
  means = [found.analyses[name].line(None, record.TRAINED).mean for name in ("gpt2", "crate")]
  assert plain.value == pytest.approx(means[0] - means[1])
  assert "not of other seeds" in found.lead
  with pytest.raises(UserError, match="names one kind of network"):
    compare_report.kinds({str(workdir): kept})
  with pytest.raises(UserError, match=r"one and two are both crate 2x16x2 of seed 0.*name one of"):
    compare_report.kinds({"one": kept, "two": kept, "gpt2": other})
  for changed, second in (
    ({"step": 20, "train_steps": 20}, "gpt2 2x16x2, step 20"),
    ({"train_steps": 20}, "gpt2 2x16x2, step 10 of 20"),
    ({"kind": "gpt2 2x32x2 l1=0.1"}, "gpt2 2x32x2 l1=0.1, step 10"),
  ):
    unlike = dataclasses.replace(other, facts=other.facts | changed)
    wanted = ["crate 2x16x2, step 10", second]
    assert list(compare_report.kinds({"a": kept, "b": unlike})) == wanted
  elsewhere = dataclasses.replace(kept, facts=kept.facts | {"windows_sha256": "x"})
  with pytest.raises(UserError, match=r"differ in windows.*--data"):
    compare_report.kinds({"a": elsewhere, "b": other})


@pytest.mark.slow
def test_killed_and_run_again_it_leaves_the_same_files(finished, text, tmp_path):
  _, workdir = finished
  command = [sys.executable, "-m", "crate_jax.interpret.neurons", f"--workdir={workdir}"]
  command += ["--out=neurons", f"--data={text}", "--neurons=8", "--shown=2"]

  def start(folder):
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(conftest.ROOT)}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)

  def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

  assert start(tmp_path / "whole").wait(timeout=300) == 0
  killed = tmp_path / "killed"
  # While it measures; when the first of its files is there; when the last of the record's is.
  for some, seconds in (("nothing", 5), (record.NEURONS, 300), (record.MANIFEST, 300)):
    process = start(killed)
    deadline = time.monotonic() + seconds
    while not (killed / "neurons" / some).exists() and time.monotonic() < deadline:
      time.sleep(0.002)
    process.kill()
    assert process.wait(timeout=60) == -9
  assert start(killed).wait(timeout=300) == 0
  assert files(killed) == files(tmp_path / "whole")


def test_score_against_loss_is_measured_at_every_checkpoint(finished, text, tmp_path):
  _, workdir = finished
  done = subprocess.run(
    [
      sys.executable, "-m", "crate_jax.interpret.tradeoff", f"--workdir={workdir}",
      f"--out={tmp_path}", f"--data={text}", "--neurons=10",
    ],
    cwd=conftest.ROOT, capture_output=True, text=True, timeout=300,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  written = json.loads((tmp_path / "tradeoff.json").read_text())
  assert [p["step"] for p in written["points"]] == [5, 10]
  assert "No other kind reaches a loss of crate 2x16x2:" in (tmp_path / "tradeoff.md").read_text()
  kept = record.read(tmp_path / "points" / f"{workdir.name}-10")
  assert list(kept.states) == [record.TRAINED, record.OWN_TOP]
  assert kept.states[record.TRAINED].loss == pytest.approx(written["points"][1]["loss"])
  assert np.isnan(kept.states[record.TRAINED].columns["added_loss"]).all()


def test_a_kill_while_files_change_leaves_no_manifest(measured, tmp_path, monkeypatch):
  _, out, kept = measured
  folder = shutil.copytree(out, tmp_path / "again")

  def killed(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(record.atomic, "write", killed)
  with pytest.raises(KeyboardInterrupt):
    record.write(folder, kept, {}, {})
  assert record.read(folder) is None


def test_a_model_without_neurons_is_refused_by_its_key(tmp_path, monkeypatch):
  run = types.SimpleNamespace(config=types.SimpleNamespace(model=models.config("aot")))
  monkeypatch.setattr(states, "load", lambda *_: run)
  with pytest.raises(UserError, match=r"runs/aot: model\.features='none' has no neurons"):
    states.kept("runs/aot", None, tmp_path, states.Asked("", **ASKED))
