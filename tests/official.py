"""Files of the official CRATE-LM code, of the models of benchmarks/released.py."""

import pytest

from crate_jax.data.tokenizer import make_tokenizer

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from benchmarks import released  # noqa: E402 # needs torch

OfficialGPT2Block = released.GPT2Block


class Official(released.Model):
  """The model, small."""

  def randomized(self, std=0.05):
    with torch.no_grad():
      for parameter in self.parameters():
        parameter += std * torch.randn_like(parameter)
    return self


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


@pytest.fixture
def tokenizer(tmp_path):
  """A tokenizer.json of 257 tokens."""
  make_tokenizer("bytes", [], [], 257, None).save(tmp_path / "tokenizer.json")
  return tmp_path / "tokenizer.json"
