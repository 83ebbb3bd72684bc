"""CRATE-LM and its GPT-2 baseline in PyTorch, by their equations and with the released names.

Written anew for two ends: the tests compare numbers and files with it, and benchmarks/step.py times
its training step beside ours. The arithmetic is the released one: z W^T is computed twice, so that
ISTA takes five products with the dictionary (Bai and Ma 2025, arXiv 2410.16443, and its code),
attention is scaled_dot_product_attention, and the logits of a batch exist whole.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ETA = LAMBDA = 0.1


class CrateBlock(nn.Module):
  """x <- x + MSSA(LN(x)); x <- A2 W, with no residual round ISTA."""

  def __init__(self, d: int, heads: int, layers: int) -> None:
    super().__init__()
    self.heads = heads
    self.prenorm_1, self.prenorm_2 = nn.LayerNorm(d), nn.LayerNorm(d)
    c_attn, c_proj = nn.Linear(d, d, bias=False), nn.Linear(d, d)
    nn.init.normal_(c_attn.weight, std=0.02)
    nn.init.normal_(c_proj.weight, std=0.02 / (2 * layers) ** 0.5)
    nn.init.zeros_(c_proj.bias)
    self.attn = nn.ModuleDict({"c_attn": c_attn, "c_proj": c_proj})
    self.ista = nn.ParameterDict({"weight": nn.Parameter(torch.empty(4 * d, d))})
    nn.init.kaiming_uniform_(self.ista["weight"])

  def forward(self, x: Tensor) -> Tensor:
    """The stream after the block, (B, T, d)."""
    u = self.attn["c_attn"](self.prenorm_1(x))
    x = x + self.attn["c_proj"](_attend(u, u, u, self.heads))
    z, W = self.prenorm_2(x), self.ista["weight"]
    a1 = F.relu(ETA * F.linear(z, W) - ETA * LAMBDA)
    residual = F.linear(z, W) - F.linear(F.linear(a1, W.t()), W)
    return F.linear(F.relu(a1 + ETA * residual - ETA * LAMBDA), W.t())


class GPT2Block(nn.Module):
  """nanoGPT's, with the ReLU and without the biases of the paper's baseline."""

  def __init__(self, d: int, heads: int, layers: int) -> None:
    super().__init__()
    self.heads = heads
    self.ln_1, self.ln_2 = nn.LayerNorm(d, bias=False), nn.LayerNorm(d, bias=False)
    sizes = {"c_attn": (d, 3 * d), "c_proj": (d, d)}
    self.attn = nn.ModuleDict({n: nn.Linear(*size, bias=False) for n, size in sizes.items()})
    sizes = {"c_fc": (d, 4 * d), "c_proj": (4 * d, d)}
    self.mlp = nn.ModuleDict({n: nn.Linear(*size, bias=False) for n, size in sizes.items()})

  def forward(self, x: Tensor) -> Tensor:
    """The stream after the block, (B, T, d)."""
    q, k, v = self.attn["c_attn"](self.ln_1(x)).chunk(3, dim=-1)
    x = x + self.attn["c_proj"](_attend(q, k, v, self.heads))
    return x + self.mlp["c_proj"](F.relu(self.mlp["c_fc"](self.ln_2(x))))


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
  """Causal attention of each head, (B, T, d)."""
  q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
  return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


class Model(nn.Module):
  """Embeddings, blocks and a tied head."""

  def __init__(
    self,
    block: type[nn.Module] = CrateBlock,
    d: int = 128,
    heads: int = 4,
    layers: int = 2,
    context: int = 24,
    vocab: int = 264,
  ) -> None:
    super().__init__()
    torch.manual_seed(0)
    wte, wpe = nn.Embedding(vocab, d), nn.Embedding(context, d)
    h = nn.ModuleList(block(d, heads, layers) for _ in range(layers))
    ln_f = nn.LayerNorm(d, bias=block is CrateBlock)
    self.transformer: Any = nn.ModuleDict({"wte": wte, "wpe": wpe, "h": h, "ln_f": ln_f})
    self.lm_head = nn.Linear(d, vocab, bias=False)
    nn.init.normal_(self.lm_head.weight, std=0.02)
    nn.init.normal_(wpe.weight, std=0.02)
    wte.weight = self.lm_head.weight

  def forward(self, tokens: Tensor) -> Tensor:
    """Logits, (B, T, vocab)."""
    t = self.transformer
    x = t["wte"](tokens) + t["wpe"].weight[: tokens.shape[1]]
    for block in t["h"]:
      x = block(x)
    return self.lm_head(t["ln_f"](x))


class Step:
  """An update by the paper's recipe (clipping, fused AdamW), always on the same batch."""

  def __init__(self, model: Model, tokens_BT1: Tensor, *, half: bool, compiled: bool) -> None:
    self.device = tokens_BT1.device
    self.model, self.half = model.to(self.device), half
    self.inputs, self.targets = tokens_BT1[:, :-1], tokens_BT1[:, 1:].flatten()
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    rest = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    self.optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)
    self.loss = torch.compile(self._loss) if compiled else self._loss

  def _loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(self.model(inputs).flatten(0, 1), targets)

  def run(self) -> Tensor:
    """Updates the parameters; the loss before that."""
    with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
      loss = self.loss(self.inputs, self.targets)
    loss.backward()
    nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
    self.optimizer.step()
    self.optimizer.zero_grad(set_to_none=True)
    return loss.detach()
