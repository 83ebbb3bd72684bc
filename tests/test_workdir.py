import json
import shutil

import jax
import numpy as np
import pytest
from test_loop import final_state, jsonl_folder, metrics

import crate_jax
from crate_jax.data import local, pipeline, preparation
from crate_jax.data.tokenizer import make_tokenizer
from crate_jax.errors import UserError
from crate_jax.training import loop
from crate_jax.training import workdir as files


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


@pytest.mark.parametrize("content", [b"", b'{"steps": 10', b"\xff{}", b"[]", b'{"loss": 1}'])
def test_a_damaged_result_is_made_again(content, done):
  small, workdir = done
  whole = json.loads((workdir / "result.json").read_text())
  (workdir / "result.json").write_bytes(content)
  loop.train(small, workdir)
  again = json.loads((workdir / "result.json").read_text())
  assert again["val_loss"] == whole["val_loss"] and again["sample"] == whole["sample"]


def test_damaged_lines_of_metrics_are_left_out(done, capsys):
  _, workdir = done
  path = workdir / "metrics.jsonl"
  lines = path.read_bytes().splitlines(keepends=True)
  damaged = [b"\xff" + lines[0], b"5\n", b'{"loss": 1}\n', b'{"step": "x"}\n', *lines[1:], b'{"st']
  path.write_bytes(b"".join(damaged))
  assert [line["step"] for line in files.read_metrics(workdir)] == [
    json.loads(line)["step"] for line in lines[1:]
  ]
  assert "metrics.jsonl: 4 damaged lines are left out" in capsys.readouterr().out


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


def test_a_finished_run_does_not_pass_for_one_on_another_text(done, text):
  small, workdir = done
  text.write_text(text.read_text().replace("cat", "cow"))
  small.data.train = str(text)
  with pytest.raises(UserError, match=r"is not the text that the run in"):
    loop.train(small, workdir)


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
