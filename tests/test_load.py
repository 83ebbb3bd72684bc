import json
import os
import subprocess
import sys

import conftest
import exports
import models
import numpy as np
import pytest

import crate_jax
from crate_jax.data.tokenizer import make_tokenizer
from crate_jax.errors import UserError
from crate_jax.hf import exported, imported, names, source
from crate_jax.training import loop

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")
nn, F = torch.nn, torch.nn.functional


class OfficialBlock(nn.Module):
  """A layer of CRATE-LM by its equations: five dictionary products, and no residual round ISTA."""

  def __init__(self, d, heads, layers):
    super().__init__()
    self.heads = heads
    self.prenorm_1, self.prenorm_2 = nn.LayerNorm(d), nn.LayerNorm(d)
    self.attn = nn.ModuleDict({"c_attn": nn.Linear(d, d, bias=False), "c_proj": nn.Linear(d, d)})
    self.ista = nn.ParameterDict({"weight": nn.Parameter(torch.empty(4 * d, d))})
    nn.init.normal_(self.attn["c_attn"].weight, std=0.02)
    nn.init.normal_(self.attn["c_proj"].weight, std=0.02 / (2 * layers) ** 0.5)
    nn.init.zeros_(self.attn["c_proj"].bias)
    nn.init.kaiming_uniform_(self.ista["weight"])

  def forward(self, x):
    B, T, d = x.shape
    u = self.attn["c_attn"](self.prenorm_1(x))
    u = u.view(B, T, self.heads, d // self.heads).transpose(1, 2)
    y = F.scaled_dot_product_attention(u, u, u, is_causal=True)
    x = x + self.attn["c_proj"](y.transpose(1, 2).reshape(B, T, d))
    z, W = self.prenorm_2(x), self.ista["weight"]
    a1 = F.relu(0.1 * F.linear(z, W) - 0.01)
    a2 = F.relu(a1 + 0.1 * (F.linear(z, W) - F.linear(F.linear(a1, W.t()), W)) - 0.01)
    return F.linear(a2, W.t())


class OfficialGPT2Block(nn.Module):
  """A layer of its GPT-2 baseline, without biases and with a ReLU."""

  def __init__(self, d, heads, layers):
    super().__init__()
    self.heads = heads
    self.ln_1, self.ln_2 = nn.LayerNorm(d, bias=False), nn.LayerNorm(d, bias=False)
    sizes = {"c_attn": (d, 3 * d), "c_proj": (d, d)}
    linear = {name: nn.Linear(*size, bias=False) for name, size in sizes.items()}
    self.attn = nn.ModuleDict(linear)
    sizes = {"c_fc": (d, 4 * d), "c_proj": (4 * d, d)}
    self.mlp = nn.ModuleDict({name: nn.Linear(*size, bias=False) for name, size in sizes.items()})

  def forward(self, x):
    B, T, d = x.shape
    qkv = self.attn["c_attn"](self.ln_1(x)).split(d, dim=2)
    q, k, v = (part.view(B, T, self.heads, d // self.heads).transpose(1, 2) for part in qkv)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    x = x + self.attn["c_proj"](y.transpose(1, 2).reshape(B, T, d))
    return x + self.mlp["c_proj"](F.relu(self.mlp["c_fc"](self.ln_2(x))))


class Official(nn.Module):
  """A language model with the official names, written for this test alone."""

  def __init__(self, block=OfficialBlock, d=128, heads=4, layers=2, context=24, vocab=264):
    super().__init__()
    torch.manual_seed(0)
    self.transformer = nn.ModuleDict(
      {
        "wte": nn.Embedding(vocab, d),
        "wpe": nn.Embedding(context, d),
        "h": nn.ModuleList(block(d, heads, layers) for _ in range(layers)),
        "ln_f": nn.LayerNorm(d, bias=block is OfficialBlock),
      }
    )
    self.lm_head = nn.Linear(d, vocab, bias=False)
    nn.init.normal_(self.lm_head.weight, std=0.02)
    nn.init.normal_(self.transformer["wpe"].weight, std=0.02)
    self.transformer["wte"].weight = self.lm_head.weight

  def forward(self, tokens):
    t = self.transformer
    x = t["wte"](tokens) + t["wpe"](torch.arange(tokens.shape[1]))
    for block in t["h"]:
      x = block(x)
    return self.lm_head(t["ln_f"](x))

  def randomized(self, std=0.05):
    with torch.no_grad():
      for parameter in self.parameters():
        parameter += std * torch.randn_like(parameter)
    return self


@pytest.fixture
def tokenizer(tmp_path):
  """A tokenizer.json of 257 tokens."""
  make_tokenizer("bytes", [], [], 257, None).save(tmp_path / "tokenizer.json")
  return tmp_path / "tokenizer.json"


def load(path, tokenizer=None, heads=None):
  """What the command does."""
  workdir = path.parent / f"{path.name} loaded"
  imported.write(source.read(path, tokenizer, heads), workdir)
  return crate_jax.load(workdir)


def as_safetensors(model, folder):
  state = {k: x.clone() for k, x in model.state_dict().items()}
  safetensors.save_file(state, folder / "official.safetensors")
  return folder / "official.safetensors"


def as_torch(model, folder):
  torch.save(model.state_dict(), folder / "official.pt")
  return folder / "official.pt"


def as_nanogpt(model, folder, **arguments):
  """A checkpoint as nanoGPT's train.py writes it, of a compiled model."""
  optimizer = torch.optim.AdamW(model.parameters()).state_dict()
  state = {f"_orig_mod.{k}": x for k, x in model.state_dict().items()}
  made = {"model": state, "optimizer": optimizer, "model_args": arguments, "iter_num": 3}
  torch.save(made | {"best_val_loss": torch.tensor(3.5), "config": {"a": 1}}, folder / "ckpt.pt")
  return folder / "ckpt.pt"


def agree(run, model, rows=3):
  tokens = models.tokens(run.model, rows=rows)
  with torch.no_grad():
    want = model(torch.from_numpy(tokens).long()).numpy()
  np.testing.assert_allclose(run.logits(tokens), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("write", [as_safetensors, as_torch, as_nanogpt])
def test_the_official_arithmetic_agrees(tmp_path, tokenizer, write):
  model = Official().randomized()
  run = load(write(model, tmp_path), tokenizer)
  c = run.config.model
  assert (c.architecture, c.heads, c.layers, c.context, c.vocab_size) == ("crate", 4, 2, 24, 264)
  assert run.step == 0 and run.tokenizer.vocab_size == 257
  agree(run, model)
  assert len(run.generate("ab", 5)) > 2


def test_it_agrees_at_the_init(tmp_path, tokenizer):
  model = Official()
  agree(load(as_safetensors(model, tmp_path), tokenizer), model)


def test_the_gpt2_baseline_agrees(tmp_path, tokenizer):
  model = Official(OfficialGPT2Block).randomized()
  run = load(as_nanogpt(model, tmp_path), tokenizer)
  assert run.config.model.architecture == "gpt2" and not run.config.model.bias
  agree(run, model)


def test_heads_are_read_given_or_asked_for(tmp_path, tokenizer):
  model = Official(d=32, heads=8).randomized()
  file = as_safetensors(model, tmp_path)
  with pytest.raises(UserError, match="how many heads a model of width 32 has: give --heads"):
    load(file, tokenizer)
  agree(load(file, tokenizer, heads=8), model)
  agree(load(as_nanogpt(model, tmp_path, n_head=8), tokenizer), model)
  with pytest.raises(UserError, match="heads=5 does not divide"):
    source.read(file, tokenizer, 5)


def test_half_precision_is_widened_exactly(tmp_path, tokenizer):
  model = Official().randomized().bfloat16()
  for write in (as_safetensors, as_torch):
    params = source.read(write(model, tmp_path), tokenizer).params
    want = model.transformer["h"][1].ista["weight"].detach().float().numpy()
    np.testing.assert_array_equal(params["blocks"]["features"]["dictionary"][1], want)


@models.family
def test_an_exported_folder_gives_the_run_back(tmp_path, name):
  run = exports.run(name)
  exported.write(run, tmp_path, tmp_path / "exported")
  found = source.read(tmp_path / "exported")
  left_out = {key: getattr(found.model, key) for key in names.LEFT_OUT}
  assert found.model == models.member(name, layers=2, vocab_size=260, **left_out).config
  want = names.to_torch(run.params, run.config.model)
  got = names.to_torch(found.params, found.model)
  assert want.keys() == got.keys()
  assert all(want[name].tobytes() == got[name].tobytes() for name in want)
  assert found.tokenizer.digest() == run.tokenizer.digest()


def test_a_loaded_folder_can_be_trained_from(tmp_path, text):
  run = exports.run(context=16)
  exported.write(run, tmp_path, tmp_path / "exported")
  loaded = load(tmp_path / "exported")
  tokens = models.tokens(run.model)
  np.testing.assert_array_equal(loaded.logits(tokens), run.logits(tokens))
  small = conftest.small_config(text)
  small.model.vocab_size = 260
  small.train.steps, small.optimizer.warmup_steps = 1, 0
  small.optimizer.learning_rate = 1e-30
  small.init_from = str(tmp_path / "exported loaded")
  loop.train(small, tmp_path / "more")
  np.testing.assert_allclose(
    crate_jax.load(tmp_path / "more").logits(tokens), run.logits(tokens), rtol=0, atol=1e-6
  )
  # In the loaded folder itself there is no run to go on with.
  small.init_from = ""
  with pytest.raises(UserError, match=r"holds a run with init_from='.*exported'"):
    loop.train(small, tmp_path / "exported loaded")


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


def test_the_command_says_what_it_did_and_what_it_cannot(tmp_path, tokenizer):
  def command(module, *arguments):
    done = subprocess.run(
      [sys.executable, "-m", f"crate_jax.{module}", *arguments],
      cwd=tmp_path, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr

  file = as_safetensors(Official(), tmp_path)
  arguments = (f"--from={file}", f"--tokenizer={tokenizer}")
  code, said = command("hf.load", *arguments, "--workdir=loaded")
  assert code == 0 and "crate, 2 layers of width 128, 4 heads" in said, said
  code, said = command("hf.load", *arguments, "--workdir=loaded")
  assert (code, said) == (1, "error: --workdir=loaded is not empty: name a folder that is not "
                             "there yet.\n")  # fmt: skip
  code, said = command("evaluate", "--workdir=loaded")
  assert code == 1 and "'unknown, loaded from " in said and "no such file or folder" in said
