"""What the token mixing of each model can learn: two synthetic probes, small models from scratch.

  induction  r distinct random tokens (r drawn for each sequence, so that a position alone does not
             tell where to look), then the same again, and again to the window's end; scored at
             every token of the second round but its first
  recall     n pairs k1 v1 k2 v2 ... drawn afresh for each sequence, distinct keys from one half of
             the vocabulary, values from the other; then every key once more, shuffled, each
             followed by its value; scored at those values (multi-query associative recall, Arora
             et al. 2023, arXiv 2312.04927)

Trains every (model, seed) by the same recipe on batches made on the fly, half of them sequences of
each probe (trained on one alone, at rates of 1e-3 to 1e-2, gpt2 had learned neither when it was
stopped after 1,500 to 3,000 steps), and writes, after each, OUT/probes.json and its table,
OUT/probes.md. Run again it skips what is there by the same settings; what was made by others stays,
in a table of its own.

  python benchmarks/probes.py --out=benchmarks/probes
  python benchmarks/probes.py --out=benchmarks/probes --architectures=crate --steps=8000

A model is a preset, or PRESET+MIXING with its token mixing swapped: crate+mssa_query.
"""

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from crate_jax import cli
from crate_jax.model.presets import PRESETS

if TYPE_CHECKING:
  from crate_jax.config import Config
  from crate_jax.training.program import Program

VOCABULARY = 64
WINDOW = 32  # tokens of a sequence, the last of which is only a target
ROUNDS = (8, 16)  # fewest and most tokens of an induction sequence's first round
PAIRS = WINDOW // 4  # of a recall sequence
HELD_OUT = 2048  # sequences scored
POINTS = 16  # of the learning curve

Batch = tuple[np.ndarray, np.ndarray]  # tokens_NT, and scored_NT: True where a token is scored

OUT = flags.DEFINE_string("out", "", "Folder of the table, made if it is not there.")
ARCHITECTURES = flags.DEFINE_list(
  "architectures", [*PRESETS, "crate+mssa_query"], "Models: PRESET or PRESET+MIXING."
)
STEPS = flags.DEFINE_integer("steps", 4000, "Updates of the parameters.", lower_bound=1)
LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-3, "Peak rate of AdamW.", lower_bound=0)
SEEDS = flags.DEFINE_integer("seeds", 1, "Seeds 0, 1, ... of each model.", lower_bound=1)


def induction(rng: np.random.Generator, count: int) -> Batch:
  """`count` sequences of repeated tokens, and which of their tokens are scored."""
  r_N1 = rng.integers(ROUNDS[0], ROUNDS[1], (count, 1), endpoint=True)
  order_NV = rng.permuted(np.tile(np.arange(VOCABULARY), (count, 1)), axis=1)
  t_T = np.arange(WINDOW)
  tokens_NT = np.take_along_axis(order_NV, t_T % r_N1, axis=1)
  return tokens_NT.astype(np.int32), (t_T > r_N1) & (t_T < 2 * r_N1)


def recall(rng: np.random.Generator, count: int) -> Batch:
  """`count` sequences of key-value pairs and queries, and which of their tokens are scored."""
  half = VOCABULARY // 2
  keys_NP = rng.permuted(np.tile(np.arange(half), (count, 1)), axis=1)[:, :PAIRS]
  values_NP = rng.integers(half, VOCABULARY, (count, PAIRS))
  pairs_NP2 = np.stack([keys_NP, values_NP], axis=2)
  order_NP = rng.permuted(np.tile(np.arange(PAIRS), (count, 1)), axis=1)
  queries_NP2 = np.take_along_axis(pairs_NP2, order_NP[:, :, None], axis=1)
  tokens_NT = np.concatenate([pairs_NP2, queries_NP2], axis=1).reshape(count, WINDOW)
  t_T = np.arange(WINDOW)
  scored_T = (t_T >= 2 * PAIRS) & (t_T % 2 == 1)
  return tokens_NT.astype(np.int32), np.tile(scored_T, (count, 1))


# A probe's sequences, and among how many answers a guess without the context chooses.
PROBES: dict[str, tuple[Callable[[np.random.Generator, int], Batch], int]] = {
  "induction": (induction, VOCABULARY),
  "recall": (recall, VOCABULARY // 2),
}


def held_out(probe: str, seed: int) -> Batch:
  """The sequences scored, of a random stream of their own."""
  return PROBES[probe][0](np.random.default_rng([seed, 1]), HELD_OUT)


def batches(seed: int, size: int) -> Iterator[np.ndarray]:
  """Batches without end, tokens_BT, to train on: the same for every model."""
  rng = np.random.default_rng([seed, 0])
  while True:
    yield np.concatenate([make(rng, size // len(PROBES))[0] for make, _ in PROBES.values()])


def accuracy(predicted_NT: np.ndarray, batch: Batch) -> tuple[float, float]:
  """Mean over sequences of the share of the scored tokens predicted right, and its error.

  Args:
    predicted_NT: what the tokens before it say each token is; only read where it is scored.
    batch: the sequences.

  Returns:
    The mean, and its standard error over the sequences.
  """
  tokens_NT, scored_NT = batch
  right_N = ((predicted_NT == tokens_NT) & scored_NT).sum(1) / scored_NT.sum(1)
  return float(right_N.mean()), float(right_N.std(ddof=1) / math.sqrt(len(right_N)))


def elimination(batch: Batch) -> float:
  """Expected accuracy of who knows a sequence's answers, but not which belongs where.

  They guess among the answers that are not used up yet, as a model can that remembers which tokens
  came and binds nothing.
  """
  shares = []
  for tokens, scored in zip(*batch, strict=True):
    left, chances = list(tokens[scored]), []
    for answer in tokens[scored]:
      chances.append(left.count(answer) / len(left))
      left.remove(answer)
    shares.append(statistics.mean(chances))
  return statistics.mean(shares)


def main() -> None:
  """Trains what is missing, and tabulates after every model."""
  from crate_jax.training import report
  from crate_jax.training import workdir as files

  asked = [
    (model, config(model, seed, STEPS.value, LEARNING_RATE.value))
    for seed in range(SEEDS.value)
    for model in ARCHITECTURES.value
  ]
  out = Path(OUT.value).expanduser()
  out.mkdir(parents=True, exist_ok=True)
  runs = json.loads((out / "probes.json").read_text()) if (out / "probes.json").exists() else []
  done = [run["settings"] for run in runs]
  for model, c in asked:
    if settings(c) not in done:
      runs.append({"model": model, "seed": c.seed, **train(model, c)})
      files.write_json(out / "probes.json", runs)
    (out / "probes.md").write_text(table(runs))
  report.say(table(runs))


def config(model: str, seed: int, steps: int, learning_rate: float) -> "Config":
  """The resolved config of a model and the recipe, the same for all."""
  from configs import base
  from crate_jax import config as config_lib

  architecture, _, mixing = model.partition("+")
  c = base.get_config(f"2L,{architecture}")
  c.seed = seed
  c.model.width, c.model.heads = 64, 4
  c.model.context, c.model.vocab_size, c.model.dtype = WINDOW, VOCABULARY, "float32"
  if mixing:
    c.model.mixing = mixing
  c.optimizer.learning_rate, c.optimizer.warmup_steps = learning_rate, min(100, steps // 2)
  c.train.steps, c.train.batch_size = steps, 64
  return config_lib.resolve(c, VOCABULARY)


def settings(c: "Config") -> dict[str, Any]:
  """All that decides a run's numbers but the code and the machine."""
  from crate_jax import config as config_lib

  sizes = {"window": WINDOW, "rounds": list(ROUNDS), "pairs": PAIRS, "held_out": HELD_OUT}
  flat = config_lib.flatten(config_lib.to_dict(c))
  parts = ("seed", "model.", "optimizer.", "train.steps", "train.batch_size")
  return {**sizes, **{k: v for k, v in flat.items() if k.startswith(parts)}}


def train(model: str, c: "Config") -> dict[str, Any]:
  """Trains one model, and what it scored on the way and at the end."""
  import jax

  from crate_jax.training import program, report

  start = time.perf_counter()
  built = program.build(c)
  score = _scorer(built, {probe: held_out(probe, c.seed) for probe in PROBES})
  state = built.init(jax.random.key(c.seed))
  curve: list[dict[str, Any]] = []
  every, made = max(c.train.steps // POINTS, 1), batches(c.seed, c.train.batch_size)
  for step in range(1, c.train.steps + 1):
    state, metrics = built.update(state, jax.device_put(next(made), built.batch_sharding))
    if step % every == 0 or step == c.train.steps:
      curve.append({"step": step, "loss": float(metrics["loss"]), **score(state.params)})
      accuracies = ", ".join(f"{probe} {curve[-1][probe]['accuracy']:.1%}" for probe in PROBES)
      report.say(
        f"{model}, seed {c.seed}, step {step:,} of {c.train.steps:,}: loss "
        f"{curve[-1]['loss']:.3f}, {accuracies}; {report.duration(time.perf_counter() - start)}"
      )
  return {
    "parameters": report.model_facts(c)["parameters"],
    "tokens": c.train.steps * c.train.batch_size * (WINDOW - 1),
    "probes": {probe: curve[-1][probe] | references(probe, c.seed) for probe in PROBES},
    "curve": curve,
    "seconds": time.perf_counter() - start,
    "settings": settings(c),
    "environment": report.environment(),
    "command": "python benchmarks/probes.py " + " ".join(sys.argv[1:]),
  }


def references(probe: str, seed: int) -> dict[str, float]:
  """What guessing scores on the held-out sequences, without and with their answers known."""
  return {"chance": 1 / PROBES[probe][1], "elimination": elimination(held_out(probe, seed))}


def _scorer(
  built: "Program", sequences: dict[str, Batch]
) -> Callable[[Any], dict[str, dict[str, float]]]:
  """A function from parameters to their `accuracy` on each probe's sequences."""
  import jax

  logits = jax.jit(lambda params, x_NT: built.model.apply({"params": params}, x_NT))

  def score(params: Any) -> dict[str, dict[str, float]]:
    scores = {}
    for probe, batch in sequences.items():
      predicted_NT = np.asarray(logits(params, batch[0][:, :-1])).argmax(-1)
      mean, error = accuracy(np.pad(predicted_NT, ((0, 0), (1, 0))), batch)
      scores[probe] = {"accuracy": mean, "standard_error": error}
    return scores

  return score


def table(runs: list[dict[str, Any]]) -> str:
  """One table a recipe, with what its numbers belong to."""
  recipes: dict[tuple[int, float], list[dict[str, Any]]] = {}
  for run in runs:
    s = run["settings"]
    recipes.setdefault((s["train.steps"], s["optimizer.learning_rate"]), []).append(run)
  first = runs[0]["settings"]
  lines = [
    f"{first['model.layers']} layers, width {first['model.width']}, {first['model.heads']} heads; "
    f"sequences of {WINDOW} tokens, vocabulary {VOCABULARY}. Induction: {ROUNDS[0]} to {ROUNDS[1]} "
    f"distinct tokens, then the same again. Recall: {PAIRS} key-value pairs drawn afresh for each "
    f"sequence, then each key once more, shuffled, with its value. Accuracy on {HELD_OUT:,} fresh "
    "sequences of each, at the tokens that those before them decide.",
    "",
  ]
  for (steps, rate), mine in recipes.items():
    lines += [*_recipe(steps, rate, mine), ""]
  environments = [run["environment"] for run in runs]
  of = {key: " and ".join(sorted({e[key] for e in environments})) for key in environments[0]}
  return "\n".join(
    [
      *lines,
      f"{of['device']}, Python {of['python']}, jax {of['jax']}, flax {of['flax']}, commit "
      f"{of['commit']}.",
      "",
      "Commands (paths as seen from the repository's folder):",
      "",
      "```",
      *dict.fromkeys(run["command"] for run in runs),
      "```",
      "",
    ]
  )


def _recipe(steps: int, rate: float, runs: list[dict[str, Any]]) -> list[str]:
  """The table of the runs by one recipe."""
  s, many = runs[0]["settings"], len({run["seed"] for run in runs})
  lines = [
    f"{steps:,} steps of {s['train.batch_size']} sequences, half of each probe, "
    f"{runs[0]['tokens']:,} tokens; AdamW, learning rate {rate:g} (warm-up "
    f"{s['optimizer.warmup_steps']} steps, cosine); {many} seed{'s' * (many > 1)}. ± is the "
    "standard error over sequences.",
    "",
    "| | parameters | " + " | ".join(PROBES) + " | above 90 % from step (induction, recall) |",
    "|---|---|" + "---|" * (len(PROBES) + 1),
  ]
  for model in dict.fromkeys(run["model"] for run in runs):
    mine = [run for run in runs if run["model"] == model]
    cells = [_spread([run["probes"][probe] for run in mine]) for probe in PROBES]
    learned = ", ".join(_learned(mine[0]["curve"], probe) for probe in PROBES)
    lines.append(f"| {model} | {mine[0]['parameters']:,} | {' | '.join(cells)} | {learned} |")
  for key, label in [("elimination", "guess among the answers not used up"), ("chance", "chance")]:
    cells = [f"{runs[0]['probes'][probe][key]:.1%}" for probe in PROBES]
    lines.append(f"| {label} | | {' | '.join(cells)} | |")
  return lines


def _spread(scores: list[dict[str, float]]) -> str:
  """Accuracy and its standard error; of several seeds the mean, lowest and highest."""
  values = [score["accuracy"] for score in scores]
  if len(values) == 1:
    return f"{values[0]:.1%} ± {scores[0]['standard_error']:.1%}"
  return f"{statistics.mean(values):.1%} ({min(values):.1%} to {max(values):.1%})"


def _learned(curve: list[dict[str, Any]], probe: str, enough: float = 0.9) -> str:
  """The first point of a learning curve that is above `enough`."""
  steps = [point["step"] for point in curve if point[probe]["accuracy"] > enough]
  return f"{steps[0]:,}" if steps else "never"


if __name__ == "__main__":
  cli.run(main, required=["out"])
