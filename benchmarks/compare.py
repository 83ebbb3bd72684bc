"""Architectures side by side by one config: the same text, recipe and tokens, over several seeds.

Reads the config and its text; trains every (architecture, seed) with the main loop, one after the
other, in WORKDIR/ARCHITECTURE-SEED (stopped and run again it goes on), then times a training step
of each, in turn on the same machine; writes a table, OUT/compare.md, and OUT/compare.json.

  python benchmarks/compare.py --config=configs/shakespeare_char.py --seeds=3 \\
    --config.data.train=input.txt --workdir=runs/shakespeare --out=benchmarks/shakespeare_char
"""

import math
import statistics
import sys
import time
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from crate_jax import cli

COLUMNS = {
  "val_loss": "validation loss",
  "train_loss": "training loss",
  "bits_per_byte": "bits per byte",
}

CONFIG = config_flags.DEFINE_config_file("config", None, "As of crate_jax.main.")
WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the runs.")
OUT = flags.DEFINE_string("out", "", "Folder of the table, made if it is not there.")
ARCHITECTURES = flags.DEFINE_list("architectures", ["crate", "gpt2"], "Presets to compare.")
SEEDS = flags.DEFINE_integer("seeds", 1, "Seeds 0, 1, ... of each architecture.", lower_bound=1)


def main() -> None:
  """Trains and tabulates."""
  from crate_jax.training import workdir as files
  from crate_jax.training.loop import train

  runs = []
  for seed in range(SEEDS.value):
    for architecture in ARCHITECTURES.value:  # side by side: drift of the machine is shared
      config = CONFIG.value.copy_and_resolve_references()
      config.model.architecture, config.seed = architecture, seed
      workdir = Path(WORKDIR.value).expanduser() / f"{architecture}-{seed}"
      run = train(config, workdir)
      lines = [line for line in files.read_metrics(workdir) if "val_loss" in line]
      run["evaluations"] = [[line["tokens"], line["val_loss"]] for line in lines]
      runs.append(run)
  out = Path(OUT.value).expanduser()
  out.mkdir(parents=True, exist_ok=True)
  speeds = _speeds([run["config"] for run in runs if run["config"]["seed"] == 0])
  for run in runs:
    run["step_tokens_per_second"] = speeds[run["architecture"]]
  files.write_json(out / "compare.json", runs)
  (out / "compare.md").write_text(_table(runs))
  print(_table(runs))


def _speeds(configs: list[dict], rounds: int = 7, steps: int = 10) -> dict[str, list[float]]:
  """Training tokens per second of each architecture, one value a round.

  The step alone, on random tokens, all architectures in turn in every round, so that two values of
  one round were measured on the same machine in the same minute.
  """
  import jax
  import numpy as np

  from crate_jax import config as config_lib
  from crate_jax.training import program

  ready: dict[str, tuple] = {}
  for tree in configs:
    c = config_lib.from_dict(tree)
    built = program.build(c)
    shape = (c.train.batch_size, c.model.context + 1)
    tokens = np.random.default_rng(0).integers(0, c.model.vocab_size, shape, dtype=np.int32)
    batch = jax.device_put(tokens, built.batch_sharding)
    state, _ = built.update(built.init(jax.random.key(0)), batch)  # compiles
    ready[c.model.architecture] = (built, state, batch, steps * batch[:, 1:].size)
  speeds: dict[str, list[float]] = {name: [] for name in ready}
  for _ in range(rounds):
    for name, (built, state, batch, count) in ready.items():
      start = time.perf_counter()
      for _ in range(steps):
        state, _ = built.update(state, batch)
      jax.block_until_ready(state)
      speeds[name].append(count / (time.perf_counter() - start))
      ready[name] = (built, state, batch, count)
  return speeds


def _table(runs: list[dict]) -> str:
  first, many = runs[0], SEEDS.value
  model, data = first["config"]["model"], first["data"]

  def of_all(key: str) -> str:
    return " and ".join(sorted({run[key] for run in runs}))

  lines = [
    f"{model['layers']} layers, width {model['width']}, {model['heads']} heads, context "
    f"{model['context']}, batch {first['config']['train']['batch_size']}; "
    f"{first['steps']:,} steps, {first['tokens']:,} tokens; {many} seed{'s' * (many > 1)}. "
    f"Losses in nats per token on {first['val_tokens']:,} validation tokens"
    + ("; mean (lowest to highest seed)." if many > 1 else "."),
    "",
    "| | parameters (in blocks) | training FLOPs per token | "
    + " | ".join(COLUMNS.values())
    + f" | non-zero neurons by layer | tokens/s, of {ARCHITECTURES.value[0]}'s |",
    "|---|---|---|" + "---|" * (len(COLUMNS) + 2),
  ]
  base = first["step_tokens_per_second"]
  for architecture in ARCHITECTURES.value:
    mine = [run for run in runs if run["architecture"] == architecture]
    cells = [
      _spread([math.nan if run[key] is None else run[key] for run in mine]) for key in COLUMNS
    ]
    lines.append(
      f"| {architecture} | {mine[0]['parameters']:,} ({mine[0]['block_parameters']:,}) "
      f"| {mine[0]['flops_per_token']:,} | "
      + " | ".join(cells)
      + " | "
      + (", ".join(f"{share:.1%}" for share in mine[0]["nonzero"]) or "none")
      + f" | {_ratio(mine[0]['step_tokens_per_second'], base)} |"
    )
  lines += [
    f"| bigram, Kneser-Ney | | | {first['bigram_loss']:.4f} | | | | |",
    f"| unigram | | | {first['unigram_loss']:.4f} | | | | |",
    "",
    f"Speed: a training step alone, all in turn in each of {len(base)} rounds; the median of the "
    f"rounds' ratios (lowest to highest). {ARCHITECTURES.value[0]} itself took "
    f"{statistics.median(base):,.0f} tokens/s. Non-zero neurons are those of seed 0.",
    "",
    *_equal_losses(runs),
    f"Text: sha256 {data['train_sha256'][:12]}, {data['train_tokens']:,} training tokens, "
    f"vocabulary {model['vocab_size']:,}. {of_all('device')}, Python {of_all('python')}, "
    f"jax {of_all('jax')}, flax {of_all('flax')}, commit {of_all('commit')}.",
    "",
    "Command (paths as seen from the repository's folder):",
    "",
    "```",
    "python benchmarks/compare.py " + " ".join(sys.argv[1:]),
    "```",
    "",
  ]
  return "\n".join(lines)


def _equal_losses(runs: list[dict]) -> list[str]:
  """What it takes to come to the same loss: of each seed the higher of the two lowest."""
  first, *others = ARCHITECTURES.value
  by_name = {(run["architecture"], run["config"]["seed"]): run for run in runs}
  lines = []
  for other in others:
    tokens, seconds = [], []
    for seed in range(SEEDS.value):
      pair = by_name[first, seed], by_name[other, seed]
      loss = max(min(value for _, value in run["evaluations"]) for run in pair)
      needed = [_tokens_to(loss, run["evaluations"]) for run in pair]
      speeds = [statistics.median(run["step_tokens_per_second"]) for run in pair]
      tokens.append(needed[1] / needed[0])
      seconds.append(tokens[-1] * speeds[0] / speeds[1])
    lines += [
      f"To the lowest validation loss that both come to, {other} takes {_spread(tokens, 2)} times "
      f"the tokens of {first}, and {_spread(seconds, 2)} times the time (evaluations not counted; "
      "between them the loss is taken to fall evenly).",
      "",
    ]
  return lines


def _tokens_to(loss: float, evaluations: list[tuple[int, float]]) -> float:
  """Tokens seen when a loss was first come to; between evaluations on a straight line."""
  before: tuple[int, float] | None = None
  for tokens, value in evaluations:
    if value <= loss:
      if before is None:
        return tokens
      share = (before[1] - loss) / (before[1] - value)
      return before[0] + share * (tokens - before[0])
    before = tokens, value
  return math.nan


def _spread(values: list[float], digits: int = 4) -> str:
  mean, *ends = (f"{x:.{digits}f}" for x in (statistics.mean(values), min(values), max(values)))
  return mean if len(values) == 1 else f"{mean} ({ends[0]} to {ends[1]})"


def _ratio(speeds: list[float], base: list[float]) -> str:
  ratios = [a / b for a, b in zip(speeds, base, strict=True)]
  return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
  cli.run(main, required=["config", "workdir", "out"])
