"""CRATE-LM and its GPT-2 baseline in PyTorch, by their equations and names, and files of them."""

import pytest

from crate_jax.data.tokenizer import make_tokenizer

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
