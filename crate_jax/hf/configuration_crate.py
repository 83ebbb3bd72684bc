"""What decides the arithmetic of a CRATE language model, for Hugging Face transformers.

This file is part of an exported model: it imports nothing but transformers.
"""

from transformers import PreTrainedConfig


class CrateConfig(PreTrainedConfig):
  """A model of the family: a token mixing step and a feature step in every layer.

  The keys are those of crate_jax (its configs/base.py explains them). The defaults are CRATE for
  language in its base size (Bai and Ma 2025, arXiv 2410.16443).

  Attributes:
    architecture: name of the preset that the parts below come from; it decides nothing.
    layers: blocks.
    width: d, dimension of the stream.
    heads: subspaces (CRATE) or heads (GPT-2).
    context: the most tokens that the model sees.
    vocab_size: rows of the embedding, which may be more than the tokenizer's tokens.
    mixing: "mssa" (q = k = v), "mssa_query", "mha" or "tssa".
    query_rank: of the query of "mssa_query"; 0 for a full one.
    bias: shifts in LayerNorms and in the mixing's output projection.
    features: "ista", "mlp", "topk" or "none".
    residual: whether the feature step is added to the stream; else it replaces it.
    decoding: of ISTA's codes: "tied", "separate" or "none"; crate_jax calls it decoder.
    overcompleteness: neurons per unit of width.
    ista_steps: proximal steps.
    warm_start: ISTA from the tokens, not from zero.
    nonnegative: ReLU, or else the signed soft threshold.
    eta: step size of ISTA, if it is not learned.
    lam: weight of its sparsity term, if it is not learned.
    learned_eta: one of each layer, by its logarithm.
    learned_lam: likewise.
    topk: neurons that a token keeps with "topk".
    compute_dtype: the dtype that it was trained in; here it computes in that of its weights.
  """

  model_type = "crate"
  attribute_map = {  # noqa: RUF012
    "num_hidden_layers": "layers",
    "hidden_size": "width",
    "num_attention_heads": "heads",
    "max_position_embeddings": "context",
  }
  keys_to_ignore_at_inference = ["cache", "past_key_values"]  # noqa: RUF012

  architecture: str = "crate"
  layers: int = 12
  width: int = 768
  heads: int = 12
  context: int = 1024
  vocab_size: int = 50304
  mixing: str = "mssa"
  query_rank: int = 0
  bias: bool = True
  features: str = "ista"
  residual: bool = False
  decoding: str = "tied"
  overcompleteness: int = 4
  ista_steps: int = 2
  warm_start: bool = False
  nonnegative: bool = True
  eta: float = 0.1
  lam: float = 0.1
  learned_eta: bool = False
  learned_lam: bool = False
  topk: int = 0
  compute_dtype: str = "float32"
  use_cache: bool = True
  tie_word_embeddings: bool = True
  bos_token_id: int | None = None
  eos_token_id: int | list[int] | None = None
  pad_token_id: int | None = None
