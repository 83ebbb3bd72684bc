"""What ours is timed against: the training step of CRATE-LM as it was released, and nanoGPT's.

Plain PyTorch of the released arithmetic: z W^T is computed twice, so that ISTA takes five products
with the dictionary (Bai and Ma 2025, arXiv 2410.16443, and its code), attention is
scaled_dot_product_attention, the logits of the batch exist whole, and AdamW is fused. On a GPU
autocast computes in bfloat16, and the fused attention is PyTorch's flash attention.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ETA = LAMBDA = 0.1


class Attention(nn.Module):
  """Causal attention; of CRATE with one projection for query, key and value."""

  def __init__(self, width: int, heads: int, *, shared: bool) -> None:
    super().__init__()
    self.heads, self.shared = heads, shared
    self.project = nn.Linear(width, width if shared else 3 * width, bias=False)
    self.output = nn.Linear(width, width, bias=shared)

  def forward(self, x_BTD: Tensor) -> Tensor:
    """What is added to the stream, (B, T, D)."""
    parts = [self.project(x_BTD)] * 3 if self.shared else self.project(x_BTD).chunk(3, dim=-1)
    q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
    y_BKTH = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return self.output(y_BKTH.transpose(1, 2).flatten(2))


class CrateBlock(nn.Module):
  """x <- x + MSSA(LN(x)); x <- A2 W."""

  def __init__(self, width: int, heads: int) -> None:
    super().__init__()
    self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
    self.attention = Attention(width, heads, shared=True)
    bound = (6 / width) ** 0.5
    self.weight = nn.Parameter(torch.empty(4 * width, width).uniform_(-bound, bound))

  def forward(self, x_BTD: Tensor) -> Tensor:
    """The stream after the block, (B, T, D)."""
    x_BTD = x_BTD + self.attention(self.norm_1(x_BTD))
    z_BTD, weight = self.norm_2(x_BTD), self.weight
    first_BTC = F.relu(ETA * F.linear(z_BTD, weight) - ETA * LAMBDA)
    back_BTC = F.linear(F.linear(first_BTC, weight.T), weight)
    residual_BTC = F.linear(z_BTD, weight) - back_BTC
    codes_BTC = F.relu(first_BTC + ETA * residual_BTC - ETA * LAMBDA)
    return F.linear(codes_BTC, weight.T)


class GPTBlock(nn.Module):
  """nanoGPT's, with the ReLU and without the biases of the paper's baseline."""

  def __init__(self, width: int, heads: int) -> None:
    super().__init__()
    self.norm_1, self.norm_2 = (nn.LayerNorm(width, bias=False) for _ in range(2))
    self.attention = Attention(width, heads, shared=False)
    self.attention.output.bias = None
    self.up = nn.Linear(width, 4 * width, bias=False)
    self.down = nn.Linear(4 * width, width, bias=False)

  def forward(self, x_BTD: Tensor) -> Tensor:
    """The stream after the block, (B, T, D)."""
    x_BTD = x_BTD + self.attention(self.norm_1(x_BTD))
    return x_BTD + self.down(F.relu(self.up(self.norm_2(x_BTD))))


class Model(nn.Module):
  """Embeddings, blocks, a tied head and the loss."""

  def __init__(
    self, block: type[nn.Module], layers: int, width: int, heads: int, context: int, vocabulary: int
  ) -> None:
    super().__init__()
    self.tokens = nn.Embedding(vocabulary, width)
    self.positions = nn.Embedding(context, width)
    self.blocks = nn.ModuleList(block(width, heads) for _ in range(layers))
    self.norm = nn.LayerNorm(width, bias=block is CrateBlock)
    for embedding in (self.tokens, self.positions):
      nn.init.normal_(embedding.weight, std=0.02)

  def forward(self, tokens_BT1: Tensor) -> Tensor:
    """Mean negative log-likelihood of all tokens but the first of each window."""
    seen_BT = tokens_BT1[:, :-1]
    x_BTD = self.tokens(seen_BT) + self.positions.weight[: seen_BT.shape[1]]
    for block in self.blocks:
      x_BTD = block(x_BTD)
    logits_BTV = F.linear(self.norm(x_BTD), self.tokens.weight)
    return F.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT1[:, 1:].flatten())


class Step:
  """One model, its optimizer, and a batch that every step trains on."""

  def __init__(self, model: Model, tokens_BT1: Tensor, *, half: bool, compiled: bool) -> None:
    self.device = tokens_BT1.device
    self.model, self.tokens_BT1, self.half = model.to(self.device), tokens_BT1, half
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    rest = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    self.optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)
    self.loss = torch.compile(self.model) if compiled else self.model

  def run(self) -> Tensor:
    """An update; its loss, before the update."""
    with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
      loss = self.loss(self.tokens_BT1)
    loss.backward()
    nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
    self.optimizer.step()
    self.optimizer.zero_grad(set_to_none=True)
    return loss.detach()
