"""Speed of writing text: ours, ours without its cache, and Hugging Face's GPT-2 in PyTorch.

Each continues a batch of prompts in its turn (`benchmarks/turns.py`), with random weights, which
cost what trained ones do. Prints a table; with --out writes it there too, and a JSON file.

  python benchmarks/decoding.py --shape=small --prompts=8 --out=benchmarks/speed

Needs torch and transformers, except for --contestants="jax crate,jax gpt2".
"""

from typing import Any

from absl import flags

from benchmarks import turns
from benchmarks.turns import Ready
from crate_jax import cli

ALL = ["jax crate", "jax gpt2", "uncached crate", "uncached gpt2", "torch gpt2"]

CONTESTANTS = flags.DEFINE_list("contestants", ALL, "What is timed.")
PROMPTS = flags.DEFINE_integer("prompts", 1, "That are continued side by side.", lower_bound=1)
LENGTH = flags.DEFINE_integer("length", 128, "Tokens added to each, half a context at most.")
PROMPT = 32  # tokens of the longest prompt; the others are shorter by one each, down to 1


def main() -> None:
  """Lets all contestants compile, then times them in turns."""
  if turns.AS.value:
    return turns.contend(_make)
  arguments = f"--prompts={PROMPTS.value}", f"--length={LENGTH.value}"
  started = [turns.Contestant(__file__, name, *arguments) for name in CONTESTANTS.value]
  _report(*turns.measure(started))


def _make() -> Ready:
  framework, what = turns.AS.value.split()
  if framework == "torch":
    return _torch()
  return _jax(what, cached=framework == "jax")


def _prompts() -> list[list[int]]:
  sizes = [max(PROMPT - row, 1) for row in range(PROMPTS.value)]
  return [[7 + place for place in range(size)] for size in sizes]


def _jax(what: str, *, cached: bool) -> Ready:
  import jax
  import jax.numpy as jnp
  import numpy as np

  from crate_jax.model import lm, sampling
  from crate_jax.training import program

  c = turns.config(what)
  model = program.build(c).model
  params = jax.jit(lambda: lm.init_params(model, jax.random.key(0)))()
  prompts = [np.array(prompt, np.int32) for prompt in _prompts()]
  vocabulary, length = c.model.vocab_size, LENGTH.value

  def sample(times: int) -> None:
    for _ in range(times):
      sampling.sample(
        model, {"params": params}, prompts, length, jax.random.key(0),
        temperature=1.0, top_k=0, vocab_size=vocabulary,
      )  # fmt: skip

  window_BS = np.zeros((len(prompts), c.model.context), np.int32)
  for row_S, prompt in zip(window_BS, prompts, strict=True):
    row_S[: len(prompt)] = prompt
  seen_B = np.array([len(prompt) for prompt in prompts])

  @jax.jit
  def fill_by_whole_passes(params: Any, window_BS: jax.Array) -> jax.Array:
    def body(number: jax.Array, window_BS: jax.Array) -> jax.Array:
      logits_B1V: Any = model.apply({"params": params}, window_BS, None, seen_B - 1 + number)
      key = jax.random.fold_in(jax.random.key(0), number)
      next_B = jax.random.categorical(key, logits_B1V[:, 0])
      return window_BS.at[jnp.arange(len(seen_B)), seen_B + number].set(next_B)

    return jax.lax.fori_loop(0, length, body, window_BS)

  def sample_by_whole_passes(times: int) -> None:
    for _ in range(times):
      fill_by_whole_passes(params, window_BS).block_until_ready()

  device = jax.devices()[0]
  _, cache = jax.eval_shape(
    lambda: model.apply({"params": params}, window_BS, jnp.zeros_like(window_BS), mutable=["cache"])
  )
  held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache)) // window_BS.size
  facts = {"device": device.device_kind, "jax": jax.__version__}
  facts |= {"cached_bytes": held} if cached else {}
  take = sample if cached else sample_by_whole_passes
  return Ready(facts, take, lambda: (device.memory_stats() or {}).get("peak_bytes_in_use"))


def _torch() -> Ready:
  import torch
  import transformers

  one = turns.shape()
  gpu = torch.cuda.is_available()
  device = torch.device("cuda" if gpu else "cpu")
  torch.manual_seed(0)
  config = transformers.GPT2Config(
    n_layer=one.layers, n_embd=one.width, n_head=one.heads, n_positions=one.context,
    vocab_size=one.vocabulary, activation_function="relu", bos_token_id=0, eos_token_id=None,
    pad_token_id=0,
  )  # fmt: skip
  dtype = getattr(torch, one.dtype)
  model: Any = transformers.GPT2LMHeadModel(config)
  model = model.to(device, dtype).eval()
  rows = [[0] * (PROMPT - len(prompt)) + prompt for prompt in _prompts()]
  tokens = torch.tensor(rows, device=device)
  seen = torch.tensor([[0] * row.count(0) + [1] * (PROMPT - row.count(0)) for row in rows])
  seen = seen.to(device)

  @torch.no_grad()
  def sample(times: int) -> None:
    for _ in range(times):
      model.generate(
        tokens, attention_mask=seen, max_new_tokens=LENGTH.value, min_new_tokens=LENGTH.value,
        do_sample=True, temperature=1.0, top_k=0,
      ).cpu()  # fmt: skip

  with torch.no_grad():
    layers = model(tokens, attention_mask=seen).past_key_values.layers
  held = sum(x.nbytes for layer in layers for x in (layer.keys, layer.values)) // tokens.numel()
  name = torch.cuda.get_device_name() if gpu else "cpu"
  versions = {"torch": torch.__version__, "transformers": transformers.__version__}
  facts = {"device": name, **versions, "cached_bytes": held}
  return Ready(facts, sample, lambda: torch.cuda.max_memory_allocated() if gpu else None)


def _report(facts: turns.Facts, seconds: turns.Seconds) -> None:
  from crate_jax.training import report

  one, count = turns.shape(), PROMPTS.value * LENGTH.value
  lines = [
    f"{one.layers} layers, width {one.width}, {one.heads} heads, context {one.context}, vocabulary "
    f"{one.vocabulary:,}, {one.dtype}. {LENGTH.value} tokens are drawn for each of "
    f"{PROMPTS.value} prompts of up to {PROMPT} tokens. Medians of {turns.ROUNDS.value} rounds in "
    "turns, lowest to highest in brackets; a ratio is of two turns of one round.",
    "",
    "| | tokens/s | times jax crate | ms a token of each | bytes cached a token | memory |",
    "|---|---|---|---|---|---|",
  ]
  for name, times in seconds.items():
    fact = facts[name]
    cells = [
      turns.spread([count / t for t in times], 0),
      turns.spread(turns.ratios(seconds, name, "jax crate")) if "jax crate" in seconds else "",
      turns.spread([1e3 * t / LENGTH.value for t in times]),
      f"{fact['cached_bytes']:,}" if "cached_bytes" in fact else "none",
      report.size(fact["peak_bytes"]) if fact["peak_bytes"] else "",
    ]
    lines.append(f"| {name} | {' | '.join(cells)} |")
  stem = f"decoding-{turns.SHAPE.value}-{PROMPTS.value}"
  turns.write(stem, "Writing text", lines, {"seconds": seconds, "contestants": facts})


if __name__ == "__main__":
  cli.run(main, required=[])
