import json
import os

import exports
import numpy as np
import official
import pytest
from official import Official, as_safetensors, as_torch, safetensors, torch

from crate_jax.errors import UserError
from crate_jax.hf import exported, imported, source

tokenizer = official.tokenizer


def load(path, tokenizer=None):
  """As the command does: everything is checked before anything is written."""
  imported.write(source.read(path, tokenizer), path.parent / f"{path.name} loaded")


def test_half_precision_is_widened_exactly(tmp_path, tokenizer):
  model = Official().randomized().bfloat16()
  for write in (as_safetensors, as_torch):
    params = source.read(write(model, tmp_path), tokenizer).params
    want = model.transformer["h"][1].ista["weight"].detach().float().numpy()
    np.testing.assert_array_equal(params["blocks"]["features"]["dictionary"][1], want)


def changed(tmp_path, change):
  """A file of official tensors, changed."""
  state = {k: x.clone() for k, x in Official().state_dict().items()}
  change(state)
  safetensors.save_file(state, tmp_path / "changed.safetensors")
  return tmp_path / "changed.safetensors"


LAST = "transformer.h.1.attn.c_proj.bias"


@pytest.mark.parametrize(
  ("change", "sentence"),
  [
    (lambda s: s.pop(LAST), f"the tensor {LAST} is missing"),
    (lambda s: s.update(extra=torch.ones(2)), "the tensor extra is none of this model's"),
    (lambda s: s.update({LAST: torch.ones(5)}), rf"{LAST} has the shape \(5,\) and not \(128,\)"),
    (lambda s: s.update({LAST: torch.ones(128).int()}), f"{LAST} does not hold floating-point"),
    (lambda s: s.update({"lm_head.weight": torch.ones(264, 128)}), "lm_head.weight differs from"),
    (lambda s: s.pop("transformer.wte.weight"), "transformer.wte.weight is missing"),
    (lambda s: s.pop("transformer.h.0.ista.weight"), "is no official checkpoint"),
  ],
)
def test_tensors_that_do_not_fit_are_named_and_nothing_is_written(
  tmp_path, tokenizer, change, sentence
):
  with pytest.raises(UserError, match=sentence):
    load(changed(tmp_path, change), tokenizer)
  assert sorted(os.listdir(tmp_path)) == ["changed.safetensors", "tokenizer.json"]


class Code:
  """Makes a folder when it is unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_is_refused_and_its_code_not_run(tmp_path, tokenizer):
  torch.save({"model": Code(tmp_path / "harm")}, tmp_path / "bad.pt")
  with pytest.raises(UserError, match=r"bad.pt is not a file of tensors alone: .* \w+.mkdir"):
    load(tmp_path / "bad.pt", tokenizer)
  assert sorted(os.listdir(tmp_path)) == ["bad.pt", "tokenizer.json"]
  torch.load(tmp_path / "bad.pt", weights_only=False)
  assert (tmp_path / "harm").is_dir()  # it would have


@pytest.mark.parametrize("name", ["file.pt", "file.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no tensors", b"\xff" * 99])
def test_damaged_files_are_named(tmp_path, tokenizer, name, content):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=f"{name} is not a"):
    load(tmp_path / name, tokenizer)


def test_a_truncated_file_is_named(tmp_path, tokenizer):
  for file in (as_torch(Official(), tmp_path), as_safetensors(Official(), tmp_path)):
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(UserError, match=f"{file.name} is not a"):
      load(file, tokenizer)


def test_other_things_in_a_file_of_torch_are_refused(tmp_path, tokenizer):
  for held in ([torch.ones(2)], {"a": 1}, torch.ones(2)):
    torch.save(held, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"other.pt holds no state dict"):
      load(tmp_path / "other.pt", tokenizer)


def test_a_tokenizer_is_needed_and_must_fit(tmp_path, tokenizer):
  file = as_safetensors(Official(vocab=256), tmp_path)
  with pytest.raises(UserError, match=r"holds no tokenizer: name its tokenizer.json with --tok"):
    load(file)
  with pytest.raises(UserError, match="has 257 tokens, more than the 256 rows"):
    load(file, tokenizer)
  with pytest.raises(UserError, match=r"nowhere.json is missing"):
    load(file, tmp_path / "nowhere.json")


@pytest.mark.parametrize(
  ("change", "sentence"),
  [
    ({"model_type": "llama"}, "model_type 'llama': only \"crate\""),
    ({"layers": 3}, "transformer.h.2.* is missing"),
    ({"layers": 10**9}, "transformer.h.2.* is missing"),
    ({"heads": 3}, r"config.json: model.heads=3 does not divide"),
    ({"heads": "2"}, "heads='2' must be of type int"),
    ({"layers": True}, "layers=True must be of type int"),
    ({"context": 10**12}, r"wpe.weight has the shape \(12, 16\)"),
    ({"width": None}, "width=None must be of type int"),
    ({"mixing": "mha"}, r"c_attn.weight has the shape \(16, 16\) and not \(48, 16\)"),
  ],
)
def test_a_config_that_does_not_fit_is_named(tmp_path, change, sentence):
  exported.write(exports.run(), tmp_path, tmp_path / "exported")
  file = tmp_path / "exported" / "config.json"
  file.write_text(json.dumps(json.loads(file.read_text()) | change))
  with pytest.raises(UserError, match=sentence):
    load(tmp_path / "exported")
  assert os.listdir(tmp_path) == ["exported"]


def test_the_code_of_a_folder_is_not_run(tmp_path):
  exported.write(exports.run(), tmp_path, tmp_path / "exported")
  for name in exported.CODE:
    (tmp_path / "exported" / name).write_text("raise SystemExit('run')")
  load(tmp_path / "exported")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_of_a_folder_is_named(tmp_path, name):
  exported.write(exports.run(), tmp_path, tmp_path / "exported")
  (tmp_path / "exported" / name).unlink()
  with pytest.raises(UserError, match=f"{name} is missing"):
    load(tmp_path / "exported")
