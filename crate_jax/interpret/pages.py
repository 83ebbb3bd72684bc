"""What the page of a neuron shows, and its activations as other tools read them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from crate_jax.data.tokenizer import Tokenizer
from crate_jax.interpret import causal, collect, concepts
from crate_jax.interpret.collect import INTERVALS
from crate_jax.interpret.excerpts import Excerpts
from crate_jax.interpret.measure import Measured
from crate_jax.interpret.network import Network, batches
from crate_jax.interpret.record import INIT, TRAINED, Record

BEFORE, AFTER = 24, 8  # tokens of an excerpt around its peak
TOP, OF_INTERVAL, RANDOM = 8, 2, 10  # excerpts shown of each kind
LEVELS = 9  # of shade
_LOGITS = 8  # tokens that a neuron raises most, and as many that it lowers
_ROWS = 16


def activations(
  network: Network, excerpts: Excerpts, state: collect.State, shown_Lk: np.ndarray
) -> tuple[dict[int, np.ndarray], list[list[list[int]]]]:
  """The shown neurons on the windows that were kept for them, and on the random ones.

  Args:
    network: the trained one.
    excerpts: the windows of a set.
    state: what was collected on them.
    shown_Lk: places of the shown neurons among each layer's.

  Returns:
    a_LkT of every window that any of them needs, and each neuron's windows.
  """
  random = list(range(min(RANDOM, len(excerpts.tokens_NT))))
  of = [
    [sorted({*collect.windows_of(state, layer, int(i)), *random}) for i in row]
    for layer, row in enumerate(shown_Lk)
  ]
  needed = sorted({window for layer in of for windows in layer for window in windows})
  units_Lk = np.take_along_axis(network.units_Ln, shown_Lk, axis=1)
  see = network._replace(units_Ln=units_Lk).see()
  chosen = Excerpts(
    excerpts.tokens_NT[needed], excerpts.work_N[needed], excerpts.set_N[needed], (), 0
  )
  found: dict[int, np.ndarray] = {}
  for batch in batches(see, chosen, _ROWS, "excerpts"):
    for a_LTk in np.moveaxis(np.asarray(batch.a_LBTn), 1, 0):
      found[needed[len(found)]] = np.moveaxis(a_LTk, 1, 2)
  return found, of


def latents(
  found: dict[int, np.ndarray],
  of: Sequence[Sequence[Sequence[int]]],
  excerpts: Excerpts,
  units_Lk: np.ndarray,
) -> list[dict[str, np.ndarray]]:
  """delphi's arrays of each layer: what is not zero of the shown neurons on their windows.

  locations are (window, token, neuron), and the windows of `tokens` are those of the set.
  """
  arrays = []
  for layer, units in enumerate(units_Lk):
    places, values = [], []
    for k, unit in enumerate(units):
      for window in of[layer][k]:
        a_T = found[window][layer, k]
        at = np.flatnonzero(a_T)
        places.append(np.stack([np.full(len(at), window), at, np.full(len(at), unit)], 1))
        values.append(a_T[at])
    of_layer: dict[str, np.ndarray] = {
      "locations": np.concatenate(places).astype(np.int64),
      "activations": np.concatenate(values).astype(np.float16),
      "tokens": excerpts.tokens_NT.astype(np.int64),
    }
    arrays.append(of_layer)
  return arrays


def pages(
  network: Network,
  measured: Measured,
  record: Record,
  excerpts: Excerpts,
  tokenizer: Tokenizer,
  shown_Lk: np.ndarray,
  found: dict[int, np.ndarray],
) -> dict[str, Any]:
  """What pages show, of JSON's types: {"tokens": {id: text}, "neurons": [...]} in random order."""
  used: set[int] = set()
  neurons = []
  effects = causal.logit_effects(network.model.config, network.params, network.units_Ln)
  for layer, (row, effect_nV) in enumerate(zip(shown_Lk, effects, strict=True)):
    own = record.of_layer(layer)
    columns = {name: x[own] for name, x in record.states[TRAINED].columns.items()}
    init = record.states[INIT].columns["score"][own]
    for k, i in enumerate(row):
      effect_V = effect_nV[i][: tokenizer.vocab_size]
      order = np.argsort(effect_V)
      raised, lowered = order[::-1][:_LOGITS], order[:_LOGITS]
      used.update(map(int, (*raised, *lowered)))
      groups = _groups(measured, layer, int(i))
      shown = []
      for name, windows in groups:
        for window in windows:
          shown.append(_excerpt(name, excerpts.tokens_NT[window], found[window][layer, k]))
          used.update(shown[-1]["tokens"])
      concept = int(columns["concept"][i])
      neurons.append(
        {
          "layer": layer,
          "unit": int(record.units_Ln[layer, i]),
          "rule": record.states[TRAINED].rules[own][i],
          "numbers": {name: _number(x[i]) for name, x in columns.items() if name != "concept"},
          "concept": concepts.NAMES[concept] if concept >= 0 else "",
          "init_score": _number(init[i]),
          "percentile": _percentile(columns["score"], int(i)),
          "histogram": measured.collected["score"].state.counts_LnB[layer, i].tolist(),
          "bin": _number(measured.collected["score"].scale.width_Ln[layer, i]),
          "raised": [[int(v), _number(effect_V[v])] for v in raised],
          "lowered": [[int(v), _number(effect_V[v])] for v in lowered],
          "excerpts": shown,
        }
      )
  order = np.random.default_rng([record.facts["seed"], len(neurons)]).permutation(len(neurons))
  return {
    "tokens": {str(v): tokenizer.decode([v]) for v in sorted(used)},
    "neurons": [neurons[i] for i in order],
  }


def _groups(measured: Measured, layer: int, neuron: int) -> list[tuple[str, list[int]]]:
  """Windows by what they are shown as: the top, the intervals from high to low, the random."""
  state = measured.collected["score"].state
  groups = [("top", state.top_at_LnK[layer, neuron][:TOP].tolist())]
  for i in reversed(range(INTERVALS)):
    share = state.in_interval_LnI[layer, neuron, i] / state.windows
    if share:
      groups.append(
        (
          f"peak in interval {i + 1} of {INTERVALS}, {share:.1%} of the windows",
          state.interval_LnIR[layer, neuron, i][:OF_INTERVAL].tolist(),
        )
      )
  groups.append(("random, the same for every neuron", list(range(min(RANDOM, int(state.windows))))))
  return [(name, [w for w in windows if w >= 0]) for name, windows in groups]


def _excerpt(group: str, tokens_T: np.ndarray, a_T: np.ndarray) -> dict[str, Any]:
  """The tokens round the peak; of a random window those in its middle, wherever the peak is."""
  peak = len(a_T) // 2 if group.startswith("random") else int(a_T.argmax())
  start = max(0, min(peak - BEFORE, len(a_T) - BEFORE - AFTER))
  part = slice(start, start + BEFORE + AFTER)
  return {
    "group": group,
    "tokens": tokens_T[part].tolist(),
    "values": [_number(a) for a in a_T[part]],
  }


def _percentile(scores: np.ndarray, i: int) -> float | None:
  """Share of the layer's defined scores that lie below a neuron's, in percent."""
  defined = scores[~np.isnan(scores)]
  return None if np.isnan(scores[i]) else round(100 * float((defined < scores[i]).mean()), 1)


def _number(value: float) -> float | None:
  """Three digits that count; None for what is no number, as JSON has none."""
  return float(f"{value:.3g}") if np.isfinite(value) else None
