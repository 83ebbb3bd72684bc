"""The training loop, top to bottom: text, build, restore, step, evaluate, save, report."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from crate_jax import config as config_lib
from crate_jax.config import Config, Configuration
from crate_jax.data import pipeline
from crate_jax.data.tokenizer import Tokenizer
from crate_jax.errors import Diverged, Stopped, UserError
from crate_jax.evaluation import loss as loss_lib
from crate_jax.evaluation import references
from crate_jax.model import lm
from crate_jax.training import (
  checkpoint,
  curve,
  metrics,
  plan,
  processes,
  report,
  scoring,
  sharding,
  sinks,
)
from crate_jax.training import program as program_lib
from crate_jax.training import workdir as files
from crate_jax.training.profiler import Profiler
from crate_jax.training.program import Program
from crate_jax.training.step import TrainState
from crate_jax.training.watchdog import Watchdog

SHARED = "run folder (--workdir must lie where all processes of the job see it)"
REFERENCE_TOKENS = 1 << 26  # of the training text, the first, that the bigram model is counted on


def train(
  config: Configuration,
  workdir: Path,
  *,
  wandb: str = "",
  profile: str = "",
  dry_run: bool = False,
) -> dict[str, Any]:
  """Trains a model to the end of its config, resuming what the work directory holds.

  Args:
    config: a config file's `get_config()`, overrides applied.
    workdir: the run's folder; made if it is not there.
    wandb: project on Weights & Biases to log to; "" for none.
    profile: "FIRST:COUNT", steps to record a profile of; "" for none.
    dry_run: end before the first step, once everything about it is said; nothing is written to
      the run's folder.

  Returns:
    What result.json holds; nothing after a dry run.

  Raises:
    UserError: the config, the text, or the state of the work directory does not allow it, or
      updates are not finite whatever is done.
    Stopped: a SIGTERM or Ctrl-C ended it, once a checkpoint was saved.
  """
  processes.agree("config", json.dumps(config_lib.as_dict(config), sort_keys=True))
  # Wrong keys are named before any text is read.
  watchdog = Watchdog(config_lib.resolve(config, vocab_size=1).train.stall_minutes)
  if wandb:
    sinks.require_wandb()
  if workdir.exists() and not workdir.is_dir():
    raise UserError(f"--workdir={workdir} is a file, not a folder.")
  profiler = Profiler.parse(workdir, profile)
  with contextlib.nullcontext() if dry_run else files.only_writer(workdir), watchdog:
    return _train(config, workdir, wandb, profiler, watchdog, dry_run=dry_run)


def _train(
  config: Configuration,
  workdir: Path,
  wandb: str,
  profiler: Profiler,
  watchdog: Watchdog,
  *,
  dry_run: bool,
) -> dict[str, Any]:
  # --- What is there ------------------------------------------------------------------------
  processes.agree(SHARED, str(checkpoint.steps(workdir)))
  resume = files.find_resume(workdir, config)
  result = files.read_result(workdir, resume.step) if resume else None
  if resume and result and resume.asked == resume.saved and resume.step == resume.saved.train.steps:
    report.say(f"The run in {workdir} is finished: train.steps={result['steps']} are done.")
    report.after(result, workdir)
    return result
  clock = metrics.Clock(resume.clock if resume else {})

  # --- Text -----------------------------------------------------------------------------------
  corpus = _load_corpus(config, resume.tokenizer if resume else None)
  c = config_lib.resolve(config, corpus.tokenizer.vocab_size)
  if resume:
    files.check_text(workdir, resume.data, corpus.facts)
  processes.agree("text", json.dumps(corpus.facts, sort_keys=True))

  # --- Build and restore ------------------------------------------------------------------
  watchdog.alive()  # from here on: reading and tokenising a text may take hours
  program = program_lib.build(c)
  if c.init_from and not resume:
    files.check_source(c.init_from, lm.abstract_params(program.model))
  report.say(f"compiling the step of {c.model.architecture} and trying it ...")
  measured = plan.measure(program, c)
  watchdog.alive()
  report.before(c, corpus.facts, measured, workdir, step=resume.step if resume else 0)
  if not measured.fits and not dry_run:
    raise UserError(
      "The step does not fit the device's memory: raise train.accumulation (parts that a batch is "
      "computed in), lower train.batch_size or model.context, or use more devices."
    )
  if dry_run:
    report.say("dry run: nothing was trained, and nothing was written to the run's folder.")
    return {}
  if resume:
    step, state = _restore(workdir, program)
    if step != resume.step:  # the newest is damaged
      resume = files.find_resume(workdir, config, step)
      assert resume
    report.say(f"resumed at step {step:,}")
    if report.is_lead():
      checkpoint.set_aside(workdir, after=step)
    point = _Point(state, resume.examples, resume.skipped)
  else:
    if report.is_lead():
      checkpoint.set_aside(workdir, after=0)
    point = _Point(_begin(program, c), 0, 0)
  watchdog.alive()
  layout, rows = program.batch_sharding, c.train.batch_size

  def batches_from(examples: int) -> Iterator[np.ndarray]:
    return pipeline.batches(
      corpus.train,
      context=c.model.context,
      batch_size=rows,
      seed=c.seed,
      examples=examples,
      rows=sharding.own_rows(layout, rows).tolist(),
    )

  batches = batches_from(point.examples)  # refuses a text that is too short, and nothing is written
  limit = c.evaluation.tokens + 1 if c.evaluation.tokens else None
  scored = pipeline.first(corpus.validation, limit)
  evaluate = scoring.evaluator(program, c, corpus.tokenizer, watchdog.alive)
  val_loss: loss_lib.Loss | None = None
  gone_back_to: int | None = None

  # --- Steps ------------------------------------------------------------------------------
  if report.is_lead():
    files.write_description(workdir, c, corpus)
  processes.agree(SHARED, processes.written_by_first(workdir / files.CONFIG))
  policy = checkpoint.SavePolicy(c.checkpoint, agree_every=c.train.log_every_steps)
  axes = lm.logical_axes(program.model)
  description = {"config": config_lib.to_dict(c), "data": corpus.facts, "axes": axes}

  def advance(start: _Point, batches: Iterator[np.ndarray]) -> _Point:
    """Trains to the end from a point, on the batches that follow it."""
    state, examples = start.state, start.examples
    step = int(state.step)  # once the updates under way are applied
    with (
      metrics.Reporter(workdir, c, step, clock, skipped=start.skipped, wandb=wandb) as reporter,
      checkpoint.Checkpoints(workdir, c.checkpoint) as store,
    ):

      def score() -> None:
        nonlocal val_loss
        with clock.paused():
          val_loss = evaluate(state.params, scored)
          values = scoring.evaluation(val_loss, c, state.params)
          reporter.evaluation(step, {**values, "tokens": examples * c.model.context})

      # A run that was asked to stop after this step saved it at once, and evaluated nothing.
      if step and step % c.evaluation.every_steps == 0 and not reporter.has_evaluated(step):
        score()
      while step < c.train.steps:
        batch = sharding.assemble(next(batches), layout, rows)
        profiler.before(step + 1)
        state, measurements = measured.update(state, batch)
        examples += rows
        # Says the update before this one, so that the device never waits.
        reporter.note(examples, measurements)
        step = reporter.steps + 1
        watchdog.alive()
        if profiler.ends_with(step):
          with clock.paused():
            profiler.stop(measurements)

        last = step == c.train.steps
        stop = stopping.now() and not last
        evaluating = last or (step % c.evaluation.every_steps == 0 and not stop)
        save = last or stop or policy.due(step)
        diverged = reporter.refused_in_a_row >= c.train.max_refused
        if evaluating or save or diverged:
          reporter.flush()
          if reporter.steps < step:  # this update was refused: nothing is new
            step, evaluating, save = reporter.steps, False, stop
        if diverged or reporter.refused_in_a_row >= c.train.max_refused:
          raise _Diverged(reporter.steps, examples, reporter.skipped)
        if evaluating:
          score()
        if save:
          with clock.paused():
            counts = {"examples": examples, "skipped": reporter.skipped}
            store.save(state, {**description, **counts, "clock": clock.totals()})
          policy.saved()
        watchdog.alive()
        if stop:
          store.finish()
          raise Stopped(
            f"Stopped by {stopping.asked_by.name} after step {step}, which is saved; the same "
            "command goes on from it.",
            128 + stopping.asked_by,
          )
    return _Point(state, examples, reporter.skipped)

  def go_back(diverged: _Diverged) -> _Point:
    """To the newest checkpoint, or the beginning, with the batches drawn since passed over."""
    nonlocal gone_back_to
    saved = checkpoint.steps(workdir)
    processes.agree(SHARED, str(saved))
    newest = max(saved, default=0)
    count, at = c.train.max_refused, diverged.step
    what = f"{count} updates in a row were not finite and not applied, at step {at:,}"
    if newest == gone_back_to:
      raise Diverged(
        f"{what}, again after going back to step {newest:,}: lower optimizer.learning_rate."
      )
    step, state = _restore(workdir, program) if newest else (0, _begin(program, c))
    watchdog.alive()
    gone_back_to = step
    if report.is_lead():
      checkpoint.set_aside(workdir, after=step)  # what is past it is damaged
    report.say(f"{what}: going back to step {step:,}, and past the batches since")
    return _Point(state, diverged.examples, diverged.skipped + diverged.step - step)

  with processes.Stopping() as stopping, profiler:
    if report.is_lead():
      (workdir / files.RESULT).unlink(missing_ok=True)  # of a shorter run, if there was one
    while True:
      try:
        point = advance(point, batches)
        break
      except _Diverged as diverged:
        point = go_back(diverged)
        batches = batches_from(point.examples)
  state, examples, step = point.state, point.examples, c.train.steps

  # --- The end ----------------------------------------------------------------------------
  val_loss = val_loss or evaluate(state.params, scored)
  V, counted = corpus.tokenizer.vocab_size, pipeline.first(corpus.train, REFERENCE_TOKENS)
  result = {
    **report.model_facts(c),
    "steps": step,
    "tokens": examples * c.model.context,
    "train_loss": evaluate(state.params, pipeline.first(corpus.train, len(scored))).nats,
    **scoring.evaluation(val_loss, c, state.params),
    "val_tokens": val_loss.tokens,
    "unigram_loss": references.unigram_loss(counted, scored, V),
    "bigram_loss": references.bigram_loss(counted, scored, V),
    "tokens_per_second": clock.tokens_per_second(),
    "seconds": clock.totals()["seconds"],
    "sample": scoring.sample(program.model, state.params, corpus.tokenizer),
    **report.environment(),
    "data": corpus.facts,
    "config": config_lib.to_dict(c),
  }
  result = report.finite(result)
  if report.is_lead():
    curve.draw(workdir / files.CURVE, files.read_metrics(workdir), result)
    files.write_json(workdir / files.RESULT, result)  # last: it says that the run is finished
  report.after(result, workdir)
  return result


@dataclasses.dataclass(frozen=True)
class _Point:
  """Where a run stands.

  Attributes:
    state: after the updates that were applied.
    examples: windows drawn.
    skipped: batches drawn whose updates were not applied.
  """

  state: TrainState
  examples: int
  skipped: int


class _Diverged(Exception):
  """Too many updates in a row were not finite."""

  def __init__(self, step: int, examples: int, skipped: int) -> None:
    super().__init__()
    self.step, self.examples, self.skipped = step, examples, skipped


def _begin(program: Program, config: Config) -> TrainState:
  """The state that a run starts from."""
  state = program.init(jax.random.key(config.seed))
  if not config.init_from:
    return state
  return dataclasses.replace(state, params=files.source_params(config.init_from, state.params))


def _restore(workdir: Path, program: Program) -> tuple[int, TrainState]:
  """The newest checkpoint that is whole: its step, and its state."""
  shapes = jax.eval_shape(program.init, jax.random.key(0))
  like = jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    shapes,
    program.state_sharding,
  )
  return checkpoint.read_newest(workdir, lambda store, step: store.restore(step, like))


def _load_corpus(config: Configuration, tokenizer: Tokenizer | None) -> pipeline.Corpus:
  """The text of the config, in the run's tokenizer, that of `init_from`, or the config's."""
  data = config_lib.data_config(config)
  init_from = config_lib.as_dict(config).get("init_from")
  if tokenizer is None and init_from:
    tokenizer = files.source_tokenizer(init_from)
  corpus = pipeline.load_corpus(
    prepared=data.prepared,
    train=data.train,
    validation=data.validation,
    validation_fraction=data.validation_fraction,
    tokenizer=tokenizer or data.tokenizer,
    bpe_vocab_size=data.bpe_vocab_size,
    cache=data.cache,
  )
  if sum(len(tokens) for tokens, _ in corpus.validation) < 2:
    raise UserError(
      "Fewer than two tokens of validation text, from data.validation or set aside from "
      "data.train: nothing can be scored, more text is needed."
    )
  return corpus
