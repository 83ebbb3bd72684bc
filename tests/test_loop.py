import dataclasses
import itertools
import json
import math
import shutil

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crate_jax
from configs import shakespeare_char
from crate_jax import config as config_lib
from crate_jax.data import local, pipeline, preparation, sources
from crate_jax.data.tokenizer import make_tokenizer
from crate_jax.errors import UserError
from crate_jax.evaluation import references
from crate_jax.training import checkpoint, loop, program, report
from crate_jax.training import workdir as files

TIMINGS = ("tokens_per_second",)


def metrics(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [{k: v for k, v in json.loads(line).items() if k not in TIMINGS} for line in lines]


def final_state(config, workdir):
  meta_step = checkpoint.steps(workdir)[-1]
  with checkpoint.Checkpoints(workdir) as store:
    resolved = config_lib.from_dict(store.meta(meta_step)["config"])
    like = program.build(resolved).init(jax.random.key(9))
    return store.restore(meta_step, like)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A config and the work directory of a run of it that is finished; not to be changed."""
  folder = tmp_path_factory.mktemp("finished")
  config = conftest.small_config(conftest.write_text(folder / "text.txt"))
  loop.train(config, folder / "run")
  return config, folder / "run"


@pytest.fixture
def done(finished, tmp_path):
  """The same, to change at will."""
  config, workdir = finished
  shutil.copytree(workdir, tmp_path / "run")
  return config.copy_and_resolve_references(), tmp_path / "run"


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


def test_a_finished_run_does_not_pass_for_one_on_another_text(done, text):
  small, workdir = done
  text.write_text(text.read_text().replace("cat", "cow"))
  small.data.train = str(text)
  with pytest.raises(UserError, match=r"is not the text that the run in"):
    loop.train(small, workdir)


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


def test_another_config_is_refused_by_key(done):
  small, workdir = done
  before = sorted(p.name for p in workdir.rglob("*"))
  for key, value in [("model.layers", 3), ("seed", 1), ("optimizer.learning_rate", 1e-3)]:
    changed = small.copy_and_resolve_references()
    changed.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=rf"holds a run with {key}=.* says {value}"):
      loop.train(changed, workdir)
  assert sorted(p.name for p in workdir.rglob("*")) == before


def test_another_text_is_refused(small, text, tmp_path):
  workdir = tmp_path / "run"
  small.train.steps = 5
  small.optimizer.schedule, small.optimizer.decay_fraction = "wsd", 0.0
  loop.train(small, workdir)
  small.train.steps = 10
  moved = text.rename(text.with_name("moved.txt"))
  small.data.train = str(moved)
  moved.write_text(moved.read_text().replace("cat", "cow"))
  with pytest.raises(UserError, match=r"is not the text that the run in .* was trained on"):
    loop.train(small, workdir)
  moved.write_text(moved.read_text().replace("cow", "cat"))
  assert loop.train(small, workdir)["steps"] == 10  # a path may change


def test_fewer_steps_than_trained_are_refused(done):
  small, workdir = done
  small.train.steps = 9
  with pytest.raises(UserError, match=r"train\.steps=9 is fewer than the 10 steps"):
    loop.train(small, workdir)


def test_a_decayed_run_is_not_extended(done):
  small, workdir = done
  small.train.steps = 20
  with pytest.raises(UserError, match=r"decides its learning rate from step 2 on.*init_from"):
    loop.train(small, workdir)


def test_a_run_at_constant_rate_is_extended(small, tmp_path):
  small.optimizer.schedule, small.optimizer.decay_fraction = "wsd", 0.0
  straight, extended = tmp_path / "straight", tmp_path / "extended"
  loop.train(small, straight)
  small.train.steps = 5
  loop.train(small, extended)
  small.train.steps = 10
  loop.train(small, extended)
  jax.tree.map(
    np.testing.assert_array_equal, final_state(small, straight), final_state(small, extended)
  )


def test_a_strange_tokenizer_is_refused(done, tmp_path):
  small, workdir = done
  other = make_tokenizer("characters", ["another vocabulary"], [], 0, tmp_path)
  other.save(workdir / "tokenizer.json")
  small.train.steps = 20
  with pytest.raises(UserError, match=r"tokenizer\.json is not the tokenizer that"):
    loop.train(small, workdir)
  with pytest.raises(UserError, match=r"tokenizer\.json is not the tokenizer that"):
    crate_jax.load(workdir)


def test_a_run_starts_from_anothers_weights_and_tokenizer(small, tmp_path):
  small.data.tokenizer, small.data.bpe_vocab_size = "bpe", 280
  small.data.cache_dir = str(tmp_path / "cache")
  small.checkpoint.keep = 2
  loop.train(small, tmp_path / "first")
  small.init_from = f"{tmp_path / 'first'}@5"
  small.train.steps, small.data.bpe_vocab_size = 3, 270  # not used: the weights' own is
  loop.train(small, tmp_path / "second")
  first, second = metrics(tmp_path / "first"), metrics(tmp_path / "second")
  at_five = crate_jax.load(tmp_path / "first", 5)
  assert crate_jax.load(tmp_path / "second").tokenizer.digest() == at_five.tokenizer.digest()
  batch = next(
    pipeline.batches(
      loop._load_corpus(small, at_five.tokenizer).train, context=16, batch_size=8, seed=0
    )
  )
  losses = [at_five.loss(row).nats for row in batch]
  assert second[0]["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
  assert second[0]["loss"] < first[0]["loss"]


@pytest.mark.parametrize(
  ("init_from", "sentence"),
  [
    ("nowhere", "nowhere holds no checkpoint"),
    ("RUN@3", r"no checkpoint of step 3; it has \[5, 10\]"),
    ("RUN@x", "must be WORKDIR or WORKDIR@STEP"),
    ("RUN", r"is another model: \['blocks'\].* differs"),
  ],
)
def test_a_wrong_source_of_weights_is_refused(init_from, sentence, done, tmp_path):
  small, workdir = done
  small.model.layers = 3
  small.init_from = init_from.replace("RUN", str(workdir))
  with pytest.raises(UserError, match=sentence):
    loop.train(small, tmp_path / "second")


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
@pytest.mark.timeout(1500)
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


def test_a_prepared_folder_that_changed_is_not_gone_on_with(small, text, tmp_path):
  folder, out = jsonl_folder(tmp_path / "jsonl", text), tmp_path / "out"
  options = {"validation_fraction": 0.1, "tokenizer": "bytes", "bpe_vocab_size": 0}
  for train in ("train", "train/0.jsonl.zst"):
    shutil.rmtree(out, ignore_errors=True)
    local.prepare(
      preparation.Preparation(
        out,
        train=str(folder / train),
        validation=str(folder / "val.jsonl.zst"),
        cache=tmp_path,
        **options,
      )
    )
    small.data.prepared = str(out)
    if train == "train":
      small.optimizer.schedule, small.optimizer.decay_fraction = "wsd", 0.0
      small.train.steps = 5
      loop.train(small, tmp_path / "run")
  small.train.steps = 8
  with pytest.raises(UserError, match=r"data\.train is not the text that the run"):
    loop.train(small, tmp_path / "run")
