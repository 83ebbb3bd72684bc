"""How fast neurons are collected and explained, beside a plain forward pass.

All codes of all layers of a network with two layers of width 128 (a fresh init: its codes are
denser than a trained network's), on one text: the Python standard library's, in a
BPE of 4,096 tokens.

  forward     logits of every window
  codes       the same without the head, which looking at neurons does not need
  collecting  codes, and everything that `interpret.collect` keeps
  explaining  sums for rules (`rules.fit`)
  scoring     simulation and sums (`scores.sums`)

Rates are token-neurons a second. What was collected, fitted and scored is compared with NumPy on
some of the neurons in the same run.

  python benchmarks/neurons.py --out=benchmarks/interpret
"""

import sys
import time
from pathlib import Path

import jax
import numpy as np
from absl import flags

from configs import base
from crate_jax import cli
from crate_jax import config as config_lib
from crate_jax.data import sources
from crate_jax.data.tokenizer import make_tokenizer
from crate_jax.interpret import collect, excerpts, measure, rules, scores
from crate_jax.interpret.network import Network, batches, choose
from crate_jax.model import lm
from crate_jax.training import report
from crate_jax.training import workdir as files

OUT = flags.DEFINE_string("out", "", "A folder for speed.json and speed.md.")
WINDOWS = flags.DEFINE_integer("windows", 512, "Windows of 256 tokens.")
REPEATS = flags.DEFINE_integer("repeats", 3, "Of every measurement; the fastest counts.")
ROWS = 16
CHECKED = 5  # neurons that NumPy counts again


def main() -> None:
  """Measures, checks, prints and writes."""
  c = base.get_config("2L")
  c.model.width, c.model.heads, c.model.context, c.model.vocab_size = 128, 4, 256, 4096
  c.model.dtype = "float32"
  model = lm.LM(config_lib.resolve(c, 4096).model)
  params = jax.jit(lm.init_params, static_argnums=0)(model, jax.random.key(0))
  text = _text(WINDOWS.value)
  units_Ln = choose(model.config.codes, model.config.layers, 0, 0)
  network = Network(model, params, units_Ln)
  see, M = network.see(), units_Ln.size
  forward = jax.jit(lambda tokens_BT: model.apply({"params": params}, tokens_BT))
  held = [b._replace(a_LBTn=np.asarray(b.a_LBTn)) for b in batches(see, text, ROWS)]
  known = rules.pairs(text.tokens_NT, 4096)
  null_KM = np.stack([np.roll(np.arange(M), k) for k in range(1, measure.OTHERS + 1)])

  def plain() -> None:
    for first in range(0, WINDOWS.value, ROWS):
      jax.block_until_ready(forward(text.tokens_NT[first : first + ROWS]))

  def codes() -> None:
    for batch in batches(see, text, ROWS):
      jax.block_until_ready(batch.a_LBTn)

  def collecting() -> collect.Collected:
    collector = collect.Collector(WINDOWS.value)
    for _ in collector.through(batches(see, text, ROWS)):
      pass
    return collector.result()

  def explaining() -> rules.Tables:
    return rules.fit(held, known, M)

  def scoring() -> scores.Sums:
    return scores.sums(held, made, 1, null_KM)

  seconds, results = {}, {}
  steps = {"forward": plain, "codes": codes, "collecting": collecting, "explaining": explaining}
  for name, step in steps.items():
    seconds[name], results[name] = _timed(step)
  tables = results["explaining"]
  made = rules.rules(tables)
  seconds["scoring"], found = _timed(scoring)
  _check(held, results["collecting"], tables, made, found)
  count = text.tokens_NT.size * M
  facts = {
    "command": " ".join(["python benchmarks/neurons.py", *sys.argv[1:]]),
    "tokens": text.tokens_NT.size,
    "neurons": M,
    "seconds": seconds,
    "rates": {name: count / s for name, s in seconds.items()},
    "collecting_over_forward": seconds["collecting"] / seconds["forward"],
    "collecting_over_codes": seconds["collecting"] / seconds["codes"],
    "rule": count / (seconds["explaining"] + seconds["scoring"]),
    **report.environment(),
  }
  page = _markdown(facts)
  print(page)
  if OUT.value:
    out = Path(OUT.value)
    files.write_json(out / "speed.json", facts)
    (out / "speed.md").write_text(page)


def _text(windows: int) -> excerpts.Excerpts:
  """Consecutive windows of text, as one work: only speed is asked for."""
  documents = sources.read_documents("python_stdlib", "text")[:400]
  tokenizer = make_tokenizer("bpe", documents, [], 4096, Path.home() / ".cache" / "crate_jax")
  ids = tokenizer.encode_documents(documents)[: windows * 256]
  if len(ids) < windows * 256:
    raise flags.Error(f"--windows={windows} is more than the text has.")
  zeros = np.zeros(windows, int)
  return excerpts.Excerpts(ids.reshape(windows, 256), zeros, zeros, ("stdlib",), 0)


def _timed(step):
  step()  # compiles
  best, result = float("inf"), None
  for _ in range(REPEATS.value):
    start = time.perf_counter()
    result = step()
    best = min(best, time.perf_counter() - start)
  return best, result


def _check(held, collected, tables, made, found) -> None:
  """The numbers of some neurons, once more by NumPy in float64."""
  tokens_N = np.concatenate([b.tokens_BT.ravel() for b in held])
  a_LNTn = np.concatenate([b.a_LBTn for b in held], axis=1)
  L, _, _, n = a_LNTn.shape
  simulated = made.simulate(np.concatenate([b.tokens_BT for b in held]))[1]
  got = scores.pearson(found.pair_WMS.sum(0), found.tokens_W.sum())
  for m in np.random.default_rng(0).choice(L * n, CHECKED, replace=False):
    a_N = a_LNTn[m // n, ..., m % n].ravel().astype(np.float64)
    np.testing.assert_allclose(collected.state.means_PLn[0].ravel()[m], a_N.mean(), rtol=1e-4)
    variance = collected.state.means_PLn[1].ravel()[m]
    np.testing.assert_allclose(variance, a_N.var(), rtol=1e-4)
    wanted = np.bincount(tokens_N, a_N, len(tables.count_V))
    np.testing.assert_allclose(tables.sum_VM[:, m], wanted, rtol=1e-4, atol=1e-4)
    correlation = np.corrcoef(a_N, simulated[..., m].ravel())[0, 1]
    np.testing.assert_allclose(got[m], correlation, atol=1e-4)


def _markdown(f: dict) -> str:
  lines = [
    "# Neurons: speed",
    "",
    f"{f['neurons']:,} neurons (two layers of width 128) on {f['tokens']:,} tokens; the fastest of "
    f"{REPEATS.value}. {CHECKED} neurons agree with NumPy.",
    "",
    "| step | seconds | token-neurons a second |",
    "| --- | --- | --- |",
    *(f"| {k} | {s:.2f} | {f['rates'][k]:.3g} |" for k, s in f["seconds"].items()),
    "",
    f"Collecting takes {f['collecting_over_forward']:.2f} times a plain forward pass, "
    f"{f['collecting_over_codes']:.2f} times one without the head. Rules are made and scored at "
    f"{f['rule']:.3g} token-neurons a second.",
    "",
    f"{f['device']}, Python {f['python']}, jax {f['jax']}, commit {f['commit']}:",
    "",
    "```",
    f["command"],
    "```",
    "",
  ]
  return "\n".join(lines)


if __name__ == "__main__":
  cli.run(main, required=[])
