"""Everything that is measured of a network's neurons on one text."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from crate_jax.data.tokenizer import Tokenizer
from crate_jax.interpret import causal, concepts, rules, scores
from crate_jax.interpret.collect import Collected, Collector
from crate_jax.interpret.excerpts import Excerpts
from crate_jax.interpret.network import Batch, Network, See, batches
from crate_jax.interpret.rules import Rules, Tables
from crate_jax.interpret.statistics import Scored

OTHERS = 8  # of its layer, by whose rules each neuron is scored as a null
SAMPLE = 48  # windows of a set that all neurons share, whose activations are kept whole
# What is known of each neuron, in the order of the tables; and what it is.
COLUMNS = {
  "score": "Pearson correlation of the activation with the rule's, on the scoring works",
  "score_token": "the same of the rule by token",
  "score_pair": "the same of the rule by pair of tokens",
  "score_null": "the same of other neurons' rules by pair, their mean",
  "gain": "score_pair - score_token",
  "spearman": "rank correlation with the rule's, on the shared excerpts",
  "explained": "1 - E (a - s)^2 / Var a of the rule's simulation s",
  "purity": "share of its firing at its most frequent token",
  "effective_tokens": "2^entropy of the token where it fires",
  "information": "adjusted mutual information of firing and token",
  "kurtosis": "standardised excess kurtosis of the activation",
  "firing_rate": "share of the tokens at which it is not zero",
  "mean": "mean activation",
  "std": "standard deviation of the activation",
  "largest": "largest activation",
  "concept": "the concept that it tells best, as a number of concepts.NAMES; -1: none",
  "concept_area": "area under the ROC curve for that concept, on the scoring works",
  "agreement": "correlation of its effect on logits with its activation before each token",
  "added_loss": "nats per token that ablating it adds; NaN where it was not ablated",
}


@dataclasses.dataclass(frozen=True)
class Measured:
  """What is known of the neurons of a network; M = layers * neurons, flattened.

  Attributes:
    columns: `COLUMNS`, (M,) each.
    by_pair_M: which rule is a neuron's: that by pair, or that by token.
    scored: of the neurons' own rules, all layers.
    ranked: of the ranks on the first `SAMPLE` windows of the scoring works, by own rules.
    null: of other neurons' rules.
    collected: on the explaining and on the scoring works, by the set's name.
    tables: what the rules were made from.
    rules: they.
    sample_NTM: activations on the first `SAMPLE` windows of the explaining works.
  """

  columns: dict[str, np.ndarray]
  by_pair_M: np.ndarray
  scored: Scored
  ranked: Scored
  null: Scored
  collected: dict[str, Collected]
  tables: Tables
  rules: Rules
  sample_NTM: np.ndarray


def measure(
  see: See,
  excerpts: Excerpts,
  tokenizer: Tokenizer,
  *,
  layers: int,
  neurons: int,
  rows: int,
  seed: int,
) -> Measured:
  """Explains neurons on some works, and scores the explanations on others.

  Args:
    see: the network.
    excerpts: of a text.
    tokenizer: of the text.
    layers: L.
    neurons: of each layer.
    rows: windows at a time.
    seed: of which other neurons' rules are each one's nulls.
  """
  M = layers * neurons
  explain, calibrate, score = (excerpts.of(name) for name in ("explain", "calibrate", "score"))
  pairs = rules.pairs(explain.tokens_NT, tokenizer.vocab_size)
  samples = _Sample(), _Sample()
  collectors = {
    "explain": Collector(len(explain.tokens_NT)),
    "score": Collector(len(score.tokens_NT)),
  }
  explaining = samples[0].through(batches(see, explain, rows, "explaining"))
  tables = rules.fit(collectors["explain"].through(explaining), pairs, M)
  made = rules.rules(tables)
  null_KM = _others(layers, neurons, seed)
  works = len(excerpts.works)
  chosen = scores.sums(batches(see, calibrate, rows, "calibrating"), made, works, null_KM[:0])
  by_token, by_pair = (
    np.nan_to_num(scores.pearson(x.sum(0), chosen.tokens_W.sum()), nan=-1)
    for x in (chosen.token_WMS, chosen.pair_WMS)
  )
  by_pair_M = by_pair > by_token
  scoring = samples[1].through(batches(see, score, rows, "scoring"))
  final = scores.sums(collectors["score"].through(scoring), made, works, null_KM)
  own_WMS = np.where(by_pair_M[:, None], final.pair_WMS, final.token_WMS)
  scored, null = (Scored(x, final.tokens_W) for x in (own_WMS, final.null_WKMS))
  ranks = [_ranks(sample.result()) for sample in samples]
  simulated = made.simulate(score.tokens_NT[:SAMPLE])
  simulated_NTM = np.where(by_pair_M, simulated[1], simulated[0])
  work_N = np.repeat(score.work_N[:SAMPLE], score.tokens_NT.shape[1])
  ranked = Scored(*scores.rank_sums(ranks[1], _ranks(simulated_NTM), work_N, works))
  areas = [_areas(r, s, tokenizer) for r, s in zip(ranks, (explain, score), strict=True)]
  concept_M, area_M = concepts.probes(*areas)
  selectivity = scores.selectivity(tables)
  results = {name: collector.result() for name, collector in collectors.items()}
  collected = results["score"]
  moments = collected.state.means_PLn.reshape(4, M)
  total = final.tokens_W.sum()
  token, pair = (scores.pearson(x.sum(0), total) for x in (final.token_WMS, final.pair_WMS))
  columns = {
    "score": scored.scores(),
    "score_token": token,
    "score_pair": pair,
    "score_null": null.scores(),
    "gain": pair - token,
    "spearman": ranked.scores(),
    "explained": scores.explained_variance(own_WMS.sum(0), total),
    "purity": selectivity.purity_M,
    "effective_tokens": selectivity.effective_tokens_M,
    "information": selectivity.adjusted_information_M,
    "kurtosis": collected.kurtosis_Ln.ravel(),
    "firing_rate": collected.firing_rate_Ln.ravel(),
    "mean": moments[0],
    "std": np.sqrt(moments[1]),
    "largest": collected.state.largest_Ln.ravel(),
    "concept": concept_M,
    "concept_area": area_M,
    "agreement": np.full(M, np.nan),
    "added_loss": np.full(M, np.nan),
  }
  assert list(columns) == list(COLUMNS)
  sample_NTM = samples[0].result()
  return Measured(columns, by_pair_M, scored, ranked, null, results, tables, made, sample_NTM)


def effects(measured: Measured, network: Network) -> None:
  """Fills in the agreement of every neuron's effect on logits with what comes next."""
  n = network.units_Ln.shape[1]
  found = causal.logit_effects(network.model.config, network.params, network.units_Ln)
  for layer, effect_nV in enumerate(found):
    own = slice(layer * n, (layer + 1) * n)
    measured.columns["agreement"][own] = causal.agreement(effect_nV, measured.tables, layer * n)


class _Sample:
  """The first windows' activations, kept whole while a text goes by."""

  def __init__(self) -> None:
    self._kept: list[np.ndarray] = []

  def through(self, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Looks at every batch and hands it on."""
    for batch in batches:
      if (room := SAMPLE - sum(map(len, self._kept))) > 0:
        a_BTLn = np.moveaxis(np.asarray(batch.a_LBTn[:, :room]), 0, 2)
        self._kept.append(a_BTLn.reshape(*a_BTLn.shape[:2], -1))
      yield batch

  def result(self) -> np.ndarray:
    """The activations, (N, T, M)."""
    return np.concatenate(self._kept)


def _others(layers: int, neurons: int, seed: int) -> np.ndarray:
  """For each neuron up to `OTHERS` of its layer, (K, M); every one as often as any other."""
  found = []
  for layer in range(layers):
    order = np.random.default_rng([seed, layer]).permutation(neurons)
    other_Kn = np.empty((min(OTHERS, neurons - 1), neurons), int)
    for k, other_n in enumerate(other_Kn, 1):
      other_n[order] = np.roll(order, k)
    found.append(layer * neurons + other_Kn)
  return np.concatenate(found, axis=1)


def _ranks(x_NTM: np.ndarray) -> np.ndarray:
  return scores.ranks(x_NTM.reshape(-1, x_NTM.shape[-1]))


def _areas(ranks_NM: np.ndarray, excerpts: Excerpts, tokenizer: Tokenizer) -> np.ndarray:
  """Areas for every concept on the first windows."""
  holds_NTQ = concepts.concepts(excerpts.tokens_NT[:SAMPLE], tokenizer)
  return concepts.areas(ranks_NM, holds_NTQ.reshape(-1, holds_NTQ.shape[-1]))
