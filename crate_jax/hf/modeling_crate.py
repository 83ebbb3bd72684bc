"""CRATE language models and their family in PyTorch, for Hugging Face transformers.

This file is part of an exported model: it imports nothing but torch, transformers and the
configuration beside it. Shapes stand in the names: B batch, T tokens, S tokens with those cached,
D width, K heads, H head width, C neurons, V vocabulary.

What can be seen and replaced by a forward hook, in every layer N:

  transformer.h.N                  its first input is the stream
  transformer.h.N.attn.c_attn      u of MSSA and TSSA; query, key and value of MHA, side by side
  transformer.h.N.attn             what the mixing step adds to the stream
  transformer.h.N.ista.A1, A2 ...  the codes after each ISTA step, the last are the neurons
  transformer.h.N.mlp.A1           the hidden units of an MLP, its neurons
  transformer.h.N.ista or .mlp     the decoded neurons
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration_crate import CrateConfig

EPSILON = 1e-5
# What transformers calls the cache in a model's output: "past_key_values" until version 5.23.
CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"


class SubspaceAttention(nn.Module):
  """MSSA: query, key and value are one projection u, so that one tensor is cached.

  With config.mixing "mssa_query" the query is a projection of its own.
  """

  def __init__(self, config: CrateConfig, layer: int) -> None:
    super().__init__()
    D, R = config.width, config.query_rank
    self.heads, self.layer = config.heads, layer
    self.c_attn = nn.Linear(D, D, bias=False)
    if config.mixing == "mssa_query" and R:
      self.c_query_down = nn.Linear(D, R, bias=False)
      self.c_query_up = nn.Linear(R, D, bias=False)
      self.c_query_up.std = R**-0.5
    elif config.mixing == "mssa_query":
      self.c_query = nn.Linear(D, D, bias=False)
    self.c_proj = output(D, config, bias=config.bias)

  def forward(
    self, x_BTD: Tensor, keep_BS: Tensor | None, mask: Tensor | None, cache: Cache | None
  ) -> Tensor:
    """What the step adds to the stream, (B, T, D)."""
    u_BKTH = q_BKTH = split_heads(self.c_attn(x_BTD), self.heads)
    if hasattr(self, "c_query"):
      q_BKTH = split_heads(self.c_query(x_BTD), self.heads)
    elif hasattr(self, "c_query_up"):
      q_BKTH = split_heads(self.c_query_up(self.c_query_down(x_BTD)), self.heads)
    u_BKSH = remember(u_BKTH, cache, self.layer)
    return self.c_proj(merge_heads(attend(q_BKTH, u_BKSH, u_BKSH, mask)))


class MultiHeadAttention(nn.Module):
  """Ordinary attention, with separate query, key and value: two tensors are cached."""

  def __init__(self, config: CrateConfig, layer: int) -> None:
    super().__init__()
    self.heads, self.layer = config.heads, layer
    self.c_attn = nn.Linear(config.width, 3 * config.width, bias=False)
    self.c_proj = output(config.width, config, bias=config.bias)

  def forward(
    self, x_BTD: Tensor, keep_BS: Tensor | None, mask: Tensor | None, cache: Cache | None
  ) -> Tensor:
    """What the step adds to the stream, (B, T, D)."""
    parts = self.c_attn(x_BTD).chunk(3, dim=-1)
    q_BKTH, k_BKSH, v_BKSH = (split_heads(part, self.heads) for part in parts)
    if cache is not None:
      k_BKSH, v_BKSH = cache.update(k_BKSH, v_BKSH, self.layer)
    return self.c_proj(merge_heads(attend(q_BKTH, k_BKSH, v_BKSH, mask)))


class TokenStatistics(nn.Module):
  """TSSA, the mixing step of ToST (Wu et al. 2024, arXiv 2412.17810): no two tokens are compared.

  Membership Pi = softmax over heads of temperature * sum(s / cumsum(s)) with s = w^2; the step
  is -(w Pi) / (1 + cumsum(s Pi) / cumsum(Pi)). One tensor, w, is cached.
  """

  def __init__(self, config: CrateConfig, layer: int) -> None:
    super().__init__()
    self.heads, self.layer = config.heads, layer
    self.c_attn = nn.Linear(config.width, config.width, bias=False)
    self.temperature = nn.Parameter(torch.ones(config.heads))
    self.c_proj = output(config.width, config, bias=config.bias)

  def forward(
    self, x_BTD: Tensor, keep_BS: Tensor | None, mask: Tensor | None, cache: Cache | None
  ) -> Tensor:
    """What the step adds to the stream, (B, T, D)."""
    w_BKSH = remember(split_heads(self.c_attn(x_BTD), self.heads), cache, self.layer)
    y_BKSH = self.statistics(w_BKSH, keep_BS)
    return self.c_proj(merge_heads(y_BKSH[:, :, -x_BTD.shape[1] :]))

  def statistics(self, w_BKSH: Tensor, keep_BS: Tensor | None) -> Tensor:
    """The operator on the coordinates of every token; padding takes no part in the sums."""
    wide_BKSH = w_BKSH.to(torch.promote_types(w_BKSH.dtype, torch.float32))
    present = 1.0 if keep_BS is None else keep_BS[:, None, :, None].to(wide_BKSH.dtype)
    power_BKSH = wide_BKSH.square() * present
    past_BKSH = power_BKSH.cumsum(dim=2).clamp_min(1e-12)
    share_BKS = (power_BKSH / past_BKSH).sum(dim=-1)
    member_BKS1 = (self.temperature[:, None] * share_BKS).softmax(dim=1)[..., None] * present
    weight_BKS1 = member_BKS1.cumsum(dim=2).clamp_min(torch.finfo(wide_BKSH.dtype).tiny)
    moment_BKSH = (power_BKSH * member_BKS1).cumsum(dim=2) / weight_BKS1
    return (-wide_BKSH * member_BKS1 / (1 + moment_BKSH)).to(w_BKSH.dtype)


MIXING: dict[str, type[nn.Module]] = {
  "mssa": SubspaceAttention,
  "mssa_query": SubspaceAttention,
  "mha": MultiHeadAttention,
  "tssa": TokenStatistics,
}


def output(inputs: int, config: CrateConfig, *, bias: bool) -> nn.Linear:
  """A projection back to the stream, which starts the smaller the deeper the model is."""
  linear = nn.Linear(inputs, config.width, bias=bias)
  linear.std = 0.02 / (2 * config.layers) ** 0.5
  return linear


def split_heads(x_BTD: Tensor, heads: int) -> Tensor:
  """(B, T, D) to (B, K, T, H)."""
  return x_BTD.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x_BKTH: Tensor) -> Tensor:
  """(B, K, T, H) to (B, T, D)."""
  return x_BKTH.transpose(1, 2).flatten(2)


def remember(u_BKTH: Tensor, cache: Cache | None, layer: int) -> Tensor:
  """All of u so far: it is cached as the keys, and nothing as the values."""
  if cache is None:
    return u_BKTH
  nothing = u_BKTH.new_empty((*u_BKTH.shape[:-1], 0))
  return cache.update(u_BKTH, nothing, layer)[0]


def attend(q_BKTH: Tensor, k_BKSH: Tensor, v_BKSH: Tensor, mask: Tensor | None) -> Tensor:
  """Causal softmax attention; without a mask the queries are all tokens or the last one."""
  causal = mask is None and q_BKTH.shape[2] > 1
  return F.scaled_dot_product_attention(q_BKTH, k_BKSH, v_BKSH, attn_mask=mask, is_causal=causal)


def visible(keep_BS: Tensor | None, T: int, S: int, device: torch.device) -> Tensor | None:
  """Which tokens the last T of S see: (B or 1, 1, T, S), or None where `attend` needs no mask.

  A token that is padding sees itself, so that no row is empty.
  """
  if keep_BS is None and T in (1, S):
    return None
  own = torch.arange(S - T, S, device=device)[:, None]
  causal_TS = torch.arange(S, device=device) <= own
  if keep_BS is None:
    return causal_TS[None, None]
  itself_TS = torch.arange(S, device=device) == own
  return (causal_TS & keep_BS[:, None, None, :]) | itself_TS


class Codes(nn.Module):
  """The nonlinearity of an ISTA step. A hook that returns a tensor replaces the codes."""

  def __init__(self, nonnegative: bool) -> None:
    super().__init__()
    self.nonnegative = nonnegative

  def forward(self, a_BTC: Tensor, threshold: float | Tensor) -> Tensor:
    """Codes of the same shape, none negative unless the model's are signed."""
    if self.nonnegative:
      return F.relu(a_BTC - threshold)
    return F.relu(a_BTC - threshold) - F.relu(-a_BTC - threshold)


class ISTA(nn.Module):
  """Sparse codes of every token in a dictionary (an atom a row), decoded again.

  A(t+1) = shrink(A(t) + eta (z - A(t) W) W^T), from zero or, with config.warm_start, from z.
  """

  def __init__(self, config: CrateConfig) -> None:
    super().__init__()
    C, D = config.overcompleteness * config.width, config.width
    self.steps, self.warm_start = config.ista_steps, config.warm_start
    self.eta, self.lam, self.kind = config.eta, config.lam, config.decoding
    self.weight = nn.Parameter(torch.empty(C, D))
    if config.decoding == "separate":
      self.decoder = nn.Parameter(torch.empty(C, D))
    if config.learned_eta:
      self.log_eta = nn.Parameter(torch.tensor(config.eta).log())
    if config.learned_lam:
      self.log_lam = nn.Parameter(torch.tensor(config.lam).log())
    for step in range(1, self.steps + 1):
      self.add_module(f"A{step}", Codes(config.nonnegative))

  def forward(self, z_BTD: Tensor) -> Tensor:
    """The decoded codes, (B, T, D)."""
    a_BTC = self.codes(z_BTD)
    if self.kind == "none":
      return a_BTC
    return a_BTC @ (self.decoder if self.kind == "separate" else self.weight)

  def codes(self, z_BTD: Tensor) -> Tensor:
    """The codes after the last step, (B, T, C)."""
    eta = self.log_eta.exp() if hasattr(self, "log_eta") else self.eta
    lam = self.log_lam.exp() if hasattr(self, "log_lam") else self.lam
    correlation_BTC = F.linear(z_BTD, self.weight)

    def step(number: int, a_BTC: Tensor | int, residual_BTC: Tensor) -> Tensor:
      return self.get_submodule(f"A{number}")(a_BTC + eta * residual_BTC, eta * lam)

    def residual(a_BTC: Tensor) -> Tensor:
      return correlation_BTC - F.linear(a_BTC @ self.weight, self.weight)

    a_BTC = step(1, z_BTD, residual(z_BTD)) if self.warm_start else step(1, 0, correlation_BTC)
    for number in range(2, self.steps + 1):
      a_BTC = step(number, a_BTC, residual(a_BTC))
    return a_BTC


class Neurons(nn.Module):
  """ReLU, and of its units the `topk` largest if that is not 0. A hook may replace them."""

  def __init__(self, topk: int) -> None:
    super().__init__()
    self.topk = topk

  def forward(self, a_BTC: Tensor) -> Tensor:
    """Hidden units, (B, T, C); those equal to the k-th largest are all kept."""
    a_BTC = F.relu(a_BTC)
    if not self.topk:
      return a_BTC
    least_BT1 = a_BTC.topk(self.topk, dim=-1).values[..., -1:]
    return a_BTC.where(a_BTC >= least_BT1, 0)


class MLP(nn.Module):
  """Linear, ReLU, linear, without biases."""

  def __init__(self, config: CrateConfig) -> None:
    super().__init__()
    C = config.overcompleteness * config.width
    self.c_fc = nn.Linear(config.width, C, bias=False)
    self.A1 = Neurons(config.topk if config.features == "topk" else 0)
    self.c_proj = output(C, config, bias=False)

  def forward(self, z_BTD: Tensor) -> Tensor:
    """The decoded neurons, (B, T, D)."""
    return self.c_proj(self.A1(self.c_fc(z_BTD)))


class CrateBlock(nn.Module):
  """x <- x + mixing(LN(x)), then x <- [x +] features(LN(x))."""

  def __init__(self, config: CrateConfig, layer: int) -> None:
    super().__init__()
    self.residual = config.residual
    self.prenorm_1 = nn.LayerNorm(config.width, eps=EPSILON, bias=config.bias)
    self.attn = MIXING[config.mixing](config, layer)
    self.features = {"ista": "ista", "mlp": "mlp", "topk": "mlp", "none": ""}[config.features]
    if self.features:
      self.add_module(self.features, ISTA(config) if self.features == "ista" else MLP(config))
      self.prenorm_2 = nn.LayerNorm(config.width, eps=EPSILON, bias=config.bias)

  def forward(
    self, x_BTD: Tensor, keep_BS: Tensor | None, mask: Tensor | None, cache: Cache | None
  ) -> Tensor:
    """The stream after this layer, (B, T, D)."""
    x_BTD = x_BTD + self.attn(self.prenorm_1(x_BTD), keep_BS, mask, cache)
    if not self.features:
      return x_BTD
    decoded_BTD = self.get_submodule(self.features)(self.prenorm_2(x_BTD))
    return x_BTD + decoded_BTD if self.residual else decoded_BTD


class CratePreTrainedModel(PreTrainedModel):
  """Initialisation and what transformers asks of a model."""

  config_class = CrateConfig
  base_model_prefix = "transformer"
  _no_split_modules = ["CrateBlock"]  # noqa: RUF012
  _supports_sdpa = True
  _input_embed_layer = "wte"

  @torch.no_grad()
  def _init_weights(self, module: nn.Module) -> None:
    """The released init: N(0, 0.02), narrower in output projections, uniform dictionaries."""
    if isinstance(module, nn.Linear | nn.Embedding):
      nn.init.normal_(module.weight, std=getattr(module, "std", 0.02))
      bias = getattr(module, "bias", None)
      if bias is not None:
        nn.init.zeros_(bias)
    elif isinstance(module, nn.LayerNorm):
      nn.init.ones_(module.weight)
      if module.bias is not None:
        nn.init.zeros_(module.bias)
    elif isinstance(module, TokenStatistics):
      nn.init.ones_(module.temperature)
    elif isinstance(module, ISTA):
      bound = (6 / module.weight.shape[1]) ** 0.5
      for name, parameter in module.named_parameters(recurse=False):
        if name.startswith("log_"):
          nn.init.constant_(parameter, float(torch.tensor(getattr(module, name[4:])).log()))
        else:
          nn.init.uniform_(parameter, -bound, bound)


class CrateModel(CratePreTrainedModel):
  """Embedding, blocks and the final norm."""

  def __init__(self, config: CrateConfig) -> None:
    super().__init__(config)
    self.wte = nn.Embedding(config.vocab_size, config.width)
    self.wpe = nn.Embedding(config.context, config.width)
    self.h = nn.ModuleList(CrateBlock(config, layer) for layer in range(config.layers))
    self.ln_f = nn.LayerNorm(config.width, eps=EPSILON, bias=config.bias)
    self.post_init()

  def forward(
    self,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    cache: Cache | None = None,
    inputs_embeds: Tensor | None = None,
    use_cache: bool | None = None,
    output_hidden_states: bool | None = None,
    past_key_values: Cache | None = None,
  ) -> BaseModelOutputWithPast:
    """The stream behind the final norm, (B, T, D).

    Args:
      input_ids: (B, T), or else `inputs_embeds`, (B, T, D).
      attention_mask: (B, S) or (B, T), 0 where a token is padding; None for no padding.
      position_ids: (B, T); None counts the tokens that are not padding.
      cache: of the S - T tokens before these; one is made if there is none.
      inputs_embeds: see above.
      use_cache: False for no cache; None for config.use_cache.
      output_hidden_states: return the stream before each block, and the result, too.
      past_key_values: the older name of `cache`.
    """
    x_BTD = self.wte(input_ids) if inputs_embeds is None else inputs_embeds
    cache = past_key_values if cache is None else cache
    wanted = self.config.use_cache and not self.training if use_cache is None else use_cache
    if wanted and cache is None:
      cache = DynamicCache()
    T = x_BTD.shape[1]
    past = 0 if cache is None else cache.get_seq_length()
    S = past + T
    if self.config.context < S:
      raise ValueError(f"{S} tokens do not fit the model's context of {self.config.context}.")
    keep_BS = _present(attention_mask, S)
    if position_ids is None:
      position_ids = _positions(keep_BS, past, T, x_BTD.device)
    x_BTD = x_BTD + self.wpe(position_ids)
    mask = visible(keep_BS, T, S, x_BTD.device) if self.config.mixing != "tssa" else None
    streams = [x_BTD]
    for block in self.h:
      x_BTD = block(x_BTD, keep_BS, mask, cache)
      streams.append(x_BTD)
    streams[-1] = x_BTD = self.ln_f(x_BTD)
    output = BaseModelOutputWithPast(
      last_hidden_state=x_BTD, hidden_states=tuple(streams) if output_hidden_states else None
    )
    if cache is not None:
      output[CACHE] = cache
    return output


def _present(attention_mask: Tensor | None, S: int) -> Tensor | None:
  """keep_BS, True where a token is none of the padding; None if there is no padding."""
  if attention_mask is None or bool(attention_mask.all()):
    return None
  if attention_mask.ndim != 2 or attention_mask.shape[1] != S:
    raise ValueError(
      f"attention_mask has shape {tuple(attention_mask.shape)}, and must be (batch, {S}): the "
      "cached tokens and these."
    )
  return attention_mask.bool()


def _positions(keep_BS: Tensor | None, past: int, T: int, device: torch.device) -> Tensor:
  """Positions of the last T tokens, counted from the first that is not padding."""
  if keep_BS is None:
    return torch.arange(past, past + T, device=device)[None]
  return (keep_BS.long().cumsum(dim=1) - 1).clamp_min(0)[:, -T:]


class CrateForCausalLM(CratePreTrainedModel, GenerationMixin):
  """The language model: its head is the token embedding."""

  _tied_weights_keys = {"lm_head.weight": "transformer.wte.weight"}  # noqa: RUF012

  def __init__(self, config: CrateConfig) -> None:
    super().__init__(config)
    self.transformer = CrateModel(config)
    self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
    self.post_init()

  def forward(
    self,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    cache: Cache | None = None,
    inputs_embeds: Tensor | None = None,
    labels: Tensor | None = None,
    use_cache: bool | None = None,
    output_hidden_states: bool | None = None,
    return_dict: bool | None = None,
    past_key_values: Cache | None = None,
    logits_to_keep: int | Tensor = 0,
    **kwargs: Any,
  ) -> CausalLMOutputWithPast | tuple:
    """Logits of the next token, float32 or wider, (B, T, V); see `CrateModel.forward`.

    Args:
      labels: (B, T), usually `input_ids`: the loss is the mean nats of every next one; -100 is
        left out.
      logits_to_keep: logits of the last so many tokens only, or of these; 0 for all.
      return_dict: False for a tuple.
      kwargs: for the loss, from transformers' Trainer.
    """
    out = self.transformer(
      input_ids,
      attention_mask,
      position_ids,
      past_key_values if cache is None else cache,
      inputs_embeds,
      use_cache,
      output_hidden_states,
    )
    kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
    logits_BTV = self.lm_head(out.last_hidden_state[:, kept])
    logits_BTV = logits_BTV.to(torch.promote_types(logits_BTV.dtype, torch.float32))
    loss = None
    if labels is not None:
      loss = self.loss_function(logits_BTV, labels, vocab_size=self.config.vocab_size, **kwargs)
    result = CausalLMOutputWithPast(
      loss=loss,
      logits=logits_BTV,
      hidden_states=out.hidden_states,
      **{CACHE: out.get(CACHE)},
    )
    return result.to_tuple() if return_dict is False else result


__all__ = ["CrateForCausalLM", "CrateModel", "CratePreTrainedModel"]
