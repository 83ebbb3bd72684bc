import dataclasses
import errno
import itertools
import json
import math

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crate_jax
from configs import shakespeare_char
from crate_jax import config as config_lib
from crate_jax.data import local, pipeline, preparation, sources
from crate_jax.errors import Stopped, UserError
from crate_jax.evaluation import references
from crate_jax.training import checkpoint, loop, processes, program, report, step
from crate_jax.training import workdir as files

TIMINGS = ("tokens_per_second",)


def metrics(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [{k: v for k, v in json.loads(line).items() if k not in TIMINGS} for line in lines]


def final_state(config, workdir):
  """The newest checkpoint's."""
  meta_step = checkpoint.steps(workdir)[-1]
  with checkpoint.Checkpoints(workdir) as store:
    resolved = config_lib.from_dict(store.meta(meta_step)["config"])
    like = program.build(resolved).init(jax.random.key(9))
    return store.restore(meta_step, like)


class Stop(Exception):
  pass


def stop_after(monkeypatch, batches):
  """Makes the text end, as a power cut would, after so many batches."""
  original = pipeline.batches

  def cut(*args, **options):
    for i, batch in enumerate(original(*args, **options)):
      if i == batches:
        raise Stop
      yield batch

  monkeypatch.setattr(pipeline, "batches", cut)


@pytest.mark.parametrize("architecture", ["crate", "gpt2"])
def test_ten_steps_straight_equal_five_stop_resume_five(architecture, text, tmp_path, monkeypatch):
  config = conftest.small_config(text, architecture)
  straight, broken = tmp_path / "straight", tmp_path / "broken"
  result = loop.train(config, straight)
  with monkeypatch.context() as patch:
    stop_after(patch, 7)  # two steps past the checkpoint, whose metrics must not stay
    with pytest.raises(Stop):
      loop.train(config, broken)
  assert checkpoint.steps(broken) == [5]
  resumed = loop.train(config, broken)

  jax.tree.map(
    np.testing.assert_array_equal, final_state(config, straight), final_state(config, broken)
  )
  assert metrics(straight) == metrics(broken)
  assert [m["step"] for m in metrics(straight) if "loss" in m] == list(range(1, 11))
  timed = ("tokens_per_second", "seconds")
  for name in result:
    assert name in timed or result[name] == resumed[name], name


def test_a_run_stopped_at_an_evaluation_has_it_in_the_end(small, tmp_path, monkeypatch):
  straight, stopped = tmp_path / "straight", tmp_path / "stopped"
  loop.train(small, straight)
  updates = itertools.count(1)
  with monkeypatch.context() as patch:
    patch.setattr(processes.Stopping, "now", lambda self: next(updates) == 5)
    with pytest.raises(Stopped, match="after step 5, which is saved"):
      loop.train(small, stopped)
  assert not [line for line in metrics(stopped) if "val_loss" in line]  # it was in haste
  loop.train(small, stopped)
  assert metrics(straight) == metrics(stopped)


def test_a_stop_whose_save_fails_does_not_say_that_it_is_saved(small, tmp_path, monkeypatch):
  calls, wait = itertools.count(1), checkpoint.ocp.CheckpointManager.wait_until_finished

  def full(self):
    wait(self)
    if next(calls) > 1:  # the first is that of the save before it begins
      raise OSError(errno.ENOSPC, "No space left on device")

  small.checkpoint.every_steps = 0
  monkeypatch.setattr(processes.Stopping, "now", lambda self: True)
  monkeypatch.setattr(checkpoint.ocp.CheckpointManager, "wait_until_finished", full)
  with pytest.raises(UserError, match=r"the disk that holds .* is full"):
    loop.train(small, tmp_path)


def test_the_result_says_what_the_run_was(finished):
  small, workdir = finished
  result = json.loads((workdir / "result.json").read_text())
  wanted = """architecture parameters block_parameters flops_per_token steps tokens train_loss
    val_loss bits_per_byte unigram_loss bigram_loss tokens_per_second seconds python jax flax
    device commit config"""
  assert set(wanted.split()) <= set(result)
  assert (result["steps"], result["tokens"]) == (10, 10 * 8 * 16)
  assert result["parameters"] == sum(
    x.size for k, v in final_state(small, workdir).params.items()
    if k != "positions" for x in jax.tree.leaves(v)
  )  # fmt: skip

  run = crate_jax.load(workdir)
  assert run.step == 10 and config_lib.to_dict(run.config) == result["config"]
  corpus = loop._load_corpus(small, None)
  scored = pipeline.first(corpus.validation, 501)
  got = run.loss(scored)
  assert got.nats == pytest.approx(result["val_loss"], rel=1e-6)
  assert got.bits_per_byte == pytest.approx(result["bits_per_byte"], rel=1e-6)
  assert got.tokens == result["val_tokens"] == 500
  train = pipeline.first(corpus.train)
  assert run.loss(train[:501]).nats == pytest.approx(result["train_loss"], rel=1e-6)
  assert references.bigram_loss(train, scored, 257) == result["bigram_loss"]
  assert references.unigram_loss(train, scored, 257) == result["unigram_loss"]
  assert result["val_loss"] < math.log(257)


@pytest.mark.parametrize("accumulation", [1, 4])
def test_steps_asked_are_updates_done(accumulation, small, tmp_path):
  small.train.accumulation, small.train.steps = accumulation, 7
  loop.train(small, tmp_path)
  state = final_state(small, tmp_path)
  assert int(state.step) == 7
  counts = [x for x in jax.tree.leaves(state.opt_state) if x.shape == () and x.dtype == jnp.int32]
  assert counts and all(int(count) == 7 for count in counts)
  assert len([m for m in metrics(tmp_path) if "loss" in m]) == 7


def test_a_finished_run_is_not_trained_again(finished, capsys, monkeypatch):
  small, workdir = finished
  monkeypatch.setattr(pipeline, "load_corpus", None)  # would fail if the text were read
  result = json.loads((workdir / "result.json").read_text())
  assert loop.train(small, workdir) == result
  assert "is finished" in capsys.readouterr().out


def test_a_run_that_diverged_ends_and_says_so(done, capsys):
  small, workdir = done
  result = json.loads((workdir / "result.json").read_text())
  files.write_json(workdir / "result.json", report.finite(result | {"val_loss": float("nan")}))
  assert loop.train(small, workdir)["val_loss"] is None
  assert "val_loss     nan" in capsys.readouterr().out


def test_a_checkpoint_holds_the_logical_axis_names(finished):
  _, workdir = finished
  axes = files.read_meta(workdir)["axes"]
  assert axes["blocks"]["features"]["dictionary"] == ["layers", "codes", "embed"]


def test_loss_falls_below_the_bigram_line_on_a_pattern(small, tmp_path):
  small.train.steps, small.train.log_every_steps = 300, 100
  result = loop.train(small, tmp_path)
  assert result["val_loss"] < result["bigram_loss"] < result["unigram_loss"]


@pytest.mark.parametrize("architecture", ["crate", "gpt2"])
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_the_update_with_plain_attention_lowers_for_accelerators(architecture, platform, text):
  config = conftest.small_config(text, architecture)
  config.model.dtype = "bfloat16"
  pieces = program.build(config_lib.resolve(config, 257))
  state = jax.eval_shape(pieces.init, jax.random.key(0))
  traced = pieces.update.trace(state, jax.ShapeDtypeStruct((8, 17), jnp.int32))
  assert "bf16" in traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_gpt2_reaches_nanogpts_loss_on_shakespeare(shared_data, tmp_path):
  # One of the three seeds of benchmarks/shakespeare_char.md, at full size. nanoGPT publishes 1.88.
  config = shakespeare_char.get_config("gpt2")
  config.data.train = str(shared_data / "tinyshakespeare" / "input.txt")
  result = loop.train(config, tmp_path)
  assert result["val_tokens"] == 111_539  # the whole split but its first character
  assert result["val_loss"] <= 1.87


def train_batches(c, corpus):
  return pipeline.batches(
    corpus.train, context=c.model.context, batch_size=c.train.batch_size, seed=c.seed
  )


def batch_hashes(workdir):
  return [line["batch_hash"] for line in files.read_metrics(workdir) if "batch_hash" in line]


def test_every_logged_step_says_which_batch_it_was(small, tmp_path):
  loop.train(small, tmp_path / "run")
  said = batch_hashes(tmp_path / "run")
  batches = itertools.islice(train_batches(small, loop._load_corpus(small, None)), 10)
  assert said == [pipeline.hexadecimal(pipeline.batch_hash(batch)) for batch in batches]
  assert len(set(said)) == 10


def test_a_run_goes_on_with_other_batches_at_its_example(small, tmp_path):
  small.optimizer.schedule, small.optimizer.decay_fraction = "wsd", 0.0
  small.train.steps = 5
  loop.train(small, tmp_path / "run")
  small.train.batch_size, small.train.steps = 16, 8
  result = loop.train(small, tmp_path / "run")
  order = np.concatenate(
    list(itertools.islice(train_batches(small, loop._load_corpus(small, None)), 6))
  )
  batches = [order[8 * i : 8 * i + 8] for i in range(5)]
  batches += [order[40 + 16 * i : 56 + 16 * i] for i in range(3)]
  expected = [pipeline.hexadecimal(pipeline.batch_hash(batch)) for batch in batches]
  assert batch_hashes(tmp_path / "run") == expected
  assert metrics(tmp_path / "run")[-1]["tokens"] == result["tokens"] == (5 * 8 + 3 * 16) * 16


def jsonl_folder(folder, text):
  """Two .jsonl.zst files, and one of validation documents beside them."""
  documents = sources.read_documents(str(text))
  parts = {"train/0": documents[:5], "train/1": documents[5:10], "val": documents[10:]}
  for name, part in parts.items():
    file = folder / f"{name}.jsonl.zst"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({"text": document}) + "\n" for document in part)
    file.write_bytes(sources.zstd.compress(lines.encode()))
  return folder


@pytest.mark.parametrize("prepare", [False, True])
def test_a_folder_of_json_lines_trains(small, text, tmp_path, prepare):
  folder = jsonl_folder(tmp_path / "jsonl", text)
  small.data.train, small.data.validation = str(folder / "train"), str(folder / "val.jsonl.zst")
  if prepare:
    data = config_lib.data_config(small)
    options = dataclasses.asdict(data)
    del options["prepared"], options["cache_dir"]
    work = preparation.Preparation(tmp_path / "out", **options, cache=tmp_path)
    local.prepare(work)
    small.data.prepared, small.data.train, small.data.validation = str(tmp_path / "out"), "", ""
  result = loop.train(small, tmp_path / "run")
  assert result["data"]["train_documents"] == 10 and result["data"]["validation_documents"] == 2
  run = crate_jax.load(tmp_path / "run")
  tokens, _, digest = run.text_tokens(str(tmp_path / "run"))
  assert digest == result["data"]["validation_sha256"]
  assert run.loss(tokens[:501]).nats == pytest.approx(result["val_loss"], rel=1e-6)
  small.train.steps = 10
  assert loop.train(small, tmp_path / "run")["steps"] == 10  # finished: nothing is read


def damage(workdir, step):
  """Flips a bit of a checkpoint's parameters."""
  there = [p for p in (workdir / f"checkpoints/{step}/params").rglob("*") if p.is_file()]
  largest = max(there, key=lambda p: p.stat().st_size)
  raw = bytearray(largest.read_bytes())
  raw[len(raw) // 2] ^= 1
  largest.write_bytes(raw)


def test_a_damaged_checkpoint_is_gone_back_from(small, tmp_path, monkeypatch, capfd):
  small.checkpoint.every_steps = 3
  loop.train(small, tmp_path / "straight")
  with monkeypatch.context() as patch:
    stop_after(patch, 8)
    with pytest.raises(Stop):
      loop.train(small, tmp_path / "run")
  damage(tmp_path / "run", 6)
  loop.train(small, tmp_path / "run")
  said = capfd.readouterr()
  assert "The checkpoint of step 6 is damaged: " in said.err and "resumed at step 3" in said.out
  assert metrics(tmp_path / "run") == metrics(tmp_path / "straight")
  states = [final_state(small, tmp_path / name) for name in ("straight", "run")]
  jax.tree.map(np.testing.assert_array_equal, *states)
  assert [p.name for p in (tmp_path / "run/damaged").iterdir()] == ["6"]


def poison(monkeypatch, attempts):
  """Makes the loss NaN of those batches, by the order in which they are drawn."""
  real, original = step.objective, pipeline.batches

  def batches(*args, examples=0, **options):
    for i, batch in enumerate(original(*args, examples=examples, **options)):
      if examples // len(batch) + i in attempts:
        batch = batch.copy()
        batch[0, 0] = 256  # the end of a text, which stands nowhere else at the start of a window
      yield batch

  def objective(model, params, tokens):
    loss, nll = real(model, params, tokens)
    bad = jnp.where(tokens[0, 0] == 256, jnp.nan, 0)
    return loss + bad, nll + bad

  monkeypatch.setattr(pipeline, "batches", batches)
  monkeypatch.setattr(step, "objective", objective)


def test_an_update_that_is_not_finite_is_passed_over(small, tmp_path, monkeypatch, capsys):
  poison(monkeypatch, {3})
  loop.train(small, tmp_path)
  assert "step 4  loss nan  grad " in capsys.readouterr().out
  with checkpoint.Checkpoints(tmp_path) as store:
    meta = store.meta(10)
  assert (meta["skipped"], meta["examples"]) == (1, 11 * 8)
  steps = [m["step"] for m in metrics(tmp_path) if "loss" in m]
  assert steps == list(range(1, 11)) and int(final_state(small, tmp_path).step) == 10


@pytest.mark.slow
def test_many_in_a_row_go_back_and_pass_over_the_batches(small, tmp_path, monkeypatch, capsys):
  small.train.max_refused = 3
  poison(monkeypatch, {7, 8, 9})  # one more is under way when three are seen
  loop.train(small, tmp_path)
  said = capsys.readouterr().out
  assert "3 updates in a row were not finite and not applied, at step 8: going" in said
  assert "back to step 5, and past the batches since" in said
  with checkpoint.Checkpoints(tmp_path) as store:
    meta = store.meta(10)
  # From the checkpoint of step 5 five updates more, on what comes after the 11 drawn before.
  assert (meta["examples"], meta["skipped"]) == (16 * 8, 6)
  assert int(final_state(small, tmp_path).step) == 10


@pytest.mark.slow
def test_a_run_that_stays_bad_stops(small, tmp_path, monkeypatch):
  small.train.max_refused = 3
  poison(monkeypatch, range(7, 1000))
  with pytest.raises(UserError, match=r"not applied, at step 5, again after"):
    loop.train(small, tmp_path)
  assert checkpoint.steps(tmp_path) == [5]
  assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(final_state(small, tmp_path)))


@pytest.mark.slow
def test_what_is_damaged_when_a_run_goes_back_is_saved_again(small, tmp_path, monkeypatch):
  small.train.max_refused, small.checkpoint.every_steps = 3, 3
  poison(monkeypatch, {7, 8, 9})
  restore = loop._restore

  def damaged_first(workdir, program):
    damage(workdir, 6)
    return restore(workdir, program)

  monkeypatch.setattr(loop, "_restore", damaged_first)
  loop.train(small, tmp_path)
  assert [p.name for p in (tmp_path / "damaged").iterdir()] == ["6"]
  assert checkpoint.steps(tmp_path) == [6, 9, 10]
  with checkpoint.Checkpoints(tmp_path) as store:
    assert store.restore(6, final_state(small, tmp_path)).step == 6
