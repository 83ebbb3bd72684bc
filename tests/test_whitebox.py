"""`interpret.whitebox` and what it is made of, against plain NumPy in float64."""

import dataclasses
import json
import subprocess
import sys

import conftest
import jax
import jax.numpy as jnp
import models
import numpy as np
import pytest
import reference

import crate_jax
from crate_jax import config as config_lib
from crate_jax.data import pipeline
from crate_jax.errors import UserError
from crate_jax.interpret import gauges, whitebox_report
from crate_jax.model.presets import PRESETS
from crate_jax.run import Run
from crate_jax.training import loop, program

EPS2 = 0.01


def rate(w):
  """Coding rate of tokens (T, H), from the matrix of all pairs of tokens."""
  w = w / np.linalg.norm(w, axis=1, keepdims=True)
  T, H = w.shape
  return 0.5 * np.linalg.slogdet(np.eye(T) + H / (T * EPS2) * w @ w.T)[1]


def rates(x, p, c):
  """R and R^c of a stream (T, D) as block p sees it."""
  z = reference.layer_norm(x, p["norm_1"]["scale"], p["norm_1"].get("bias"))
  U = p["mixing"]["qkv"][2] if c.mixing == "mha" else p["mixing"]["subspaces"]
  return rate(z), sum(rate(z @ U[:, k]) for k in range(c.heads))


def objectives(z, seen, p, c):
  """Of every step, mean over tokens, from where it starts."""
  lam = np.exp(p["log_lam"]) if "log_lam" in p else c.lam
  start = z if c.warm_start else np.zeros((len(z), c.codes))
  steps = [start] + [seen[f"A{t}"] for t in range(1, c.ista_steps + 1)]

  def objective(codes):
    rest = z - codes @ p["dictionary"]
    return np.mean([r @ r / 2 + lam * np.abs(a).sum() for r, a in zip(rest, codes, strict=True)])

  return [objective(codes) for codes in steps]


def expected(params, windows, c):
  """What `gauges.measure` should find: for each layer lists over windows."""
  params = reference.wide(params)
  layers = [
    {"R": [], "Rc": [], "objective": [], "leaving": [], "codes": []} for _ in range(c.layers)
  ]
  for window in windows:
    x = params["tokens"][window] + params["positions"][: len(window)]
    for layer, found in enumerate(layers):
      p, seen = reference.pick(params["blocks"], layer), {}

      def see(name, value, seen=seen):
        seen[name] = value
        return value

      y = reference.block(x, p, c, see)
      mixed = x + seen["attention"]
      before, after = rates(x, p, c), rates(mixed, p, c)
      found["R"].append([before[0], after[0]])
      found["Rc"].append([before[1], after[1]])
      if c.features == "ista":
        z = reference.layer_norm(mixed, p["norm_2"]["scale"], p["norm_2"].get("bias"))
        found["objective"].append(objectives(z, seen, p["features"], c))
      if c.codes:
        found["codes"].append(seen[f"A{c.code_steps}"])
      cosine = (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)
      found["leaving"].append(np.mean(1 - cosine**2))
      x = y
  return layers


def check(got, want, params, layer, c):
  """One layer as it is in whitebox.json."""
  close = dict(rtol=2e-4, atol=2e-4)
  for name in ("R", "Rc"):
    for when, values in zip(("before", "after"), np.transpose(want[name]), strict=True):
      spread = got[f"{name}_{when}"]
      np.testing.assert_allclose(
        [spread["mean"], spread["std"]], [np.mean(values), np.std(values)], **close
      )
  falls = np.diff(want["Rc"], axis=1)[:, 0]
  assert np.mean(falls < -1e-3) <= got["compressed_windows"] <= np.mean(falls < 1e-3)
  np.testing.assert_allclose(got["leaving"], np.mean(want["leaving"]), **close)
  if c.codes:
    codes = np.concatenate(want["codes"]) != 0
    np.testing.assert_allclose(got["nonzero"], codes.mean(), atol=2 / codes.size + 1e-6)
    np.testing.assert_allclose(got["dead"], 1 - codes.any(0).mean(), atol=1e-6)
  else:
    assert got["nonzero"] is got["dead"] is None
  if c.features != "ista":
    assert got["objective"] is got["eta"] is got["lam"] is got["eta_sigma2"] is None
    return
  np.testing.assert_allclose(got["objective"], np.mean(want["objective"], axis=0), **close)
  p = reference.pick(reference.wide(params)["blocks"], layer)["features"]
  eta = np.exp(p["log_eta"]) if "log_eta" in p else c.eta
  np.testing.assert_allclose(got["eta"], eta, rtol=1e-6)
  sigma = np.linalg.norm(p["dictionary"], 2)
  np.testing.assert_allclose(got["eta_sigma2"], eta * sigma**2, rtol=1e-5)


@pytest.mark.parametrize("name", [*PRESETS, "learned", "signed", "topk"])
def test_gauges_are_what_they_are_said_to_be(name):
  model = models.member(name)
  params, windows = models.random_params(model), models.tokens(model, rows=4)
  layers, want = gauges.measure(model, params, windows), expected(params, windows, model.config)
  assert len(layers) == len(want) == 3
  for layer in range(3):
    check(dataclasses.asdict(layers[layer]), want[layer], params, layer, model.config)


@pytest.mark.parametrize(("name", "part"), [("crate", "dictionary"), ("gpt2", "encoder")])
def test_dead_neurons_are_those_that_no_token_needs(name, part):
  model = models.small(name)
  params, windows = models.random_params(model), models.tokens(model, rows=10)
  before = [layer.dead for layer in gauges.measure(model, params, windows)]
  weights = params["blocks"]["features"][part]
  where = (1, slice(0, 16)) if name == "crate" else (1, slice(None), slice(0, 16))
  params["blocks"]["features"][part] = weights.at[where].set(0)  # of 64, in the second layer
  dead = [layer.dead for layer in gauges.measure(model, params, windows)]
  assert before[1] == 0 and dead[1] == 0.25
  assert before[0] == dead[0]


def test_what_leaves_the_stream():
  x = jnp.array([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
  y = jnp.array([[-5.0, 0.0], [0.0, 0.1], [3.0, 3.0], [0.0, 0.0]])
  np.testing.assert_allclose(gauges.leaving(x, y), [0, 1, 0.5, 1], atol=1e-6)


def test_a_layer_descends_only_if_every_step_does():
  def layer(*objective):
    one = gauges.Spread(1.0, 0.0)
    rest = dict(zip(("eta", "lam", "eta_sigma2", "nonzero", "dead"), [None] * 5, strict=True))
    parts = {"R_before": one, "R_after": one, "Rc_before": one, "Rc_after": one, **rest}
    return gauges.Layer(**parts, compressed_windows=0, leaving=0, objective=list(objective) or None)

  assert layer(3.0, 2.0, 1.0).descends
  assert not layer(3.0, 1.0, 2.0).descends and not layer(1.0, 2.0, 0.5).descends
  assert layer().descends is None
  assert not layer().compresses


def train(folder, architecture, steps=None):
  source = folder / "text.txt"
  if not source.exists():
    conftest.write_text(source)
  c = conftest.small_config(source, architecture)
  if steps:
    c.train.steps = c.evaluation.every_steps = c.checkpoint.every_steps = steps
    c.optimizer.warmup_steps = 0
  loop.train(c, folder / architecture)
  return folder / architecture


def command(*flags):
  return subprocess.run(
    [sys.executable, "-m", "crate_jax.interpret.whitebox", *map(str, flags)],
    cwd=conftest.ROOT, capture_output=True, text=True, timeout=550,
  )  # fmt: skip


@pytest.mark.slow
def test_command_on_a_trained_run_with_gpt2_beside(tmp_path):
  crate, gpt2 = train(tmp_path, "crate"), train(tmp_path, "gpt2")
  done = command(f"--workdir={crate},{gpt2}", f"--out={tmp_path / 'new' / 'out'}", "--tokens=70")
  assert done.returncode == 0, done.stderr
  assert done.stderr == ""
  assert "crate, 2 layers of width 16, 64 tokens = 4 windows of m = 16, p = 8" in done.stdout
  out = tmp_path / "new" / "out"
  assert sorted(p.name for p in out.iterdir()) == [f"whitebox.{x}" for x in ("json", "md", "png")]
  assert (out / "whitebox.png").read_bytes().startswith(b"\x89PNG")
  written = json.loads((out / "whitebox.json").read_text())
  for found, workdir in zip(written["runs"], (crate, gpt2), strict=True):
    run = crate_jax.load(workdir)
    assert (found["tokens"], found["windows"], found["m"], found["p"]) == (64, 4, 16, 8)
    assert found["text_sha256"] == run.data["validation_sha256"]
    windows = gauges.windows(run, str(workdir), "", 64)[0]
    assert [state["step"] for state in found["states"]] == [0, 5, 10]
    fresh = program.build(run.config).init(jax.random.key(run.config.seed)).params
    for state, params in (
      (found["states"][0], fresh),
      (found["states"][1], crate_jax.load(workdir, 5).params),
      (found["states"][2], run.params),
    ):
      want = expected(params, windows, run.config.model)
      for layer in range(2):
        check(state["layers"][layer], want[layer], params, layer, run.config.model)
      lower = sum(np.mean(x["Rc"], axis=0)[1] < np.mean(x["Rc"], axis=0)[0] for x in want)
      assert state["summary"]["compress"] == lower
  table = (out / "whitebox.md").read_text()
  assert "equal m and p only" in " ".join(table.split()) and written["commit"] in table
  last = written["runs"][0]["states"][2]["layers"][1]
  assert " > ".join(f"{x:.2f}" for x in last["objective"]) in table
  assert f"{last['Rc_before']['mean']:.1f} ± {last['Rc_before']['std']:.1f} > " in table


@pytest.mark.slow
def test_command_on_the_other_presets(tmp_path):
  names = [name for name in PRESETS if name not in ("crate", "gpt2")]
  workdirs = [train(tmp_path, name, steps=1) for name in names]
  other = tmp_path / "other.txt"
  other.write_text("a text of its own, " * 10)
  joined = ",".join(map(str, workdirs))
  done = command(f"--workdir={joined}", f"--out={tmp_path / 'out'}", f"--data={other}")
  assert done.returncode == 0, done.stderr
  runs = json.loads((tmp_path / "out" / "whitebox.json").read_text())["runs"]
  assert [run["architecture"] for run in runs] == names
  assert {run["tokens"] for run in runs} == {176}  # of 190, in windows of 16
  for run in runs:
    first = run["states"][0]["layers"][0]
    assert (first["objective"] is None) == (run["architecture"] in ("tost", "aot"))
    assert (first["nonzero"] is None) == (run["architecture"] == "aot")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_its_line_its_tables_and_its_picture(name, small, tmp_path):
  """Also of numbers that are not finite."""
  config = dataclasses.replace(
    config_lib.resolve(small, vocab_size=257), model=models.config(name, layers=1)
  )
  c, nan = config.model, gauges.Spread(float("nan"), 0.0)
  ista, neurons = c.features == "ista", c.features != "none"
  layer = gauges.Layer(
    *(gauges.Spread(3.04, 0.5), nan, gauges.Spread(5.0, 0.25), gauges.Spread(4.0, 0.125)),
    compressed_windows=0.75,
    objective=[3.0, 2.0, 1.0][: c.ista_steps + 1] if ista else None,
    **dict.fromkeys(("eta", "lam", "eta_sigma2"), 0.5 if ista else None),
    **dict.fromkeys(("nonzero", "dead"), 0.125 if neurons else None),
    leaving=float("nan"),
  )
  run = whitebox_report.Measured("RUN", config, 4, "TEXT", "0123", [(0, [layer]), (1200, [layer])])
  line = whitebox_report.aligned(whitebox_report.summary_cells(1200, [layer])).split()
  neuron, descend = ["12.5%"] * 2 if neurons else ["-"] * 2, ["1", "of", "1"] if ista else ["-"]
  sigma = "0.50" if ista else "-"
  assert line == ["1,200", "1", "of", "1", *descend, "5.0", ">", "4.0", *neuron, sigma, "nan%"]
  facts = dict.fromkeys(("command", "device", "python", "jax", "flax", "commit"), "x")
  table = whitebox_report.markdown([run], {**facts, "seconds": 1.0})
  assert "3.0 ± 0.5 > nan ± 0.0 | 5.0 ± 0.2 > 4.0 ± 0.1 | yes (75%) | " in table
  assert "4 windows of m = 12, p = 8, eps^2 = 0.01" in table and "TEXT, sha256 0123." in table
  whitebox_report.draw(tmp_path / "whitebox.png", [run, run])
  assert (tmp_path / "whitebox.png").stat().st_size > 10_000
  assert json.dumps(whitebox_report.as_dict(run))


@pytest.fixture
def untrained(small):
  """A run as far as its text goes."""
  corpus = pipeline.load_corpus(
    prepared="", train=small.data.train, validation="", validation_fraction=0.1, tokenizer="bytes",
    bpe_vocab_size=0, cache=None,
  )  # fmt: skip
  config = config_lib.resolve(small, corpus.tokenizer.vocab_size)
  return Run(None, {}, corpus.tokenizer, config, 0, corpus.facts)


def test_the_windows_of_a_text(untrained, tmp_path):
  run, file = untrained, tmp_path / "own.txt"
  file.write_text("".join(chr(97 + i % 26) for i in range(40)))
  windows, name, _ = gauges.windows(run, "RUN", str(file), 1000)
  assert windows.shape == (2, 16) and name == f"--data={file}"
  np.testing.assert_array_equal(windows.ravel(), run.tokenizer.encode(file.read_text())[:32])
  assert gauges.windows(run, "RUN", str(file), 31)[0].shape == (1, 16)
  windows, name, digest = gauges.windows(run, "RUN", "", 64)
  assert windows.shape == (4, 16) and name == "the validation text of RUN"
  assert digest == run.data["validation_sha256"]


def test_errors_say_what_is_wrong(untrained, tmp_path):
  run, short = untrained, tmp_path / "short.txt"
  short.write_text("too short")
  with pytest.raises(UserError, match=r"short\.txt holds 10 tokens, less than one window"):
    gauges.windows(run, "RUN", str(short), 1000)
  with pytest.raises(UserError, match="--tokens=15 is less than one window of the context of RUN"):
    gauges.windows(run, "RUN", str(short), 15)
  other = dataclasses.replace(run, data=run.data | {"validation_sha256": "0"})
  with pytest.raises(UserError, match="no longer holds the validation text of the run in RUN"):
    gauges.windows(other, "RUN", "", 1000)


@pytest.mark.parametrize(
  ("flags", "code", "sentence"),
  [([], 2, "The flag --out is required"), (["--out=OUT"], 1, "holds no checkpoint")],
)
def test_one_sentence_says_what_is_wrong(flags, code, sentence, tmp_path):
  out = tmp_path / "out"
  flags = [flag.replace("OUT", str(out)) for flag in flags]
  done = command(f"--workdir={tmp_path / 'none'}", *flags)
  assert done.returncode == code and sentence in done.stderr
  assert done.stderr.count("\n") == 1 and not out.exists()
