"""The training loop, top to bottom: text, build, restore, step, evaluate, save, report."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from crate_jax import config as config_lib
from crate_jax.config import Config, Configuration
from crate_jax.data import pipeline
from crate_jax.data.tokenizer import Tokenizer
from crate_jax.errors import Stopped, UserError
from crate_jax.evaluation import loss as loss_lib
from crate_jax.evaluation import references
from crate_jax.model import lm, sampling
from crate_jax.model.features.ista import eta_sigma2, step_sizes
from crate_jax.training import checkpoint, curve, metrics, plan, processes, report, sharding
from crate_jax.training import program as program_lib
from crate_jax.training import workdir as files
from crate_jax.training.profiler import Profiler
from crate_jax.training.program import Program

SAMPLE_TOKENS = 200  # of the text that a run ends with
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
    UserError: the config, the text, or the state of the work directory does not allow it.
    Stopped: a SIGTERM ended it, once a checkpoint was saved.
  """
  # --- What is there ------------------------------------------------------------------------
  processes.agree("config", json.dumps(config_lib.as_dict(config), sort_keys=True))
  config_lib.resolve(config, vocab_size=1)  # wrong keys are named before any text is read
  if wandb:
    metrics.require_wandb()
  if workdir.exists() and not workdir.is_dir():
    raise UserError(f"--workdir={workdir} is a file, not a folder.")
  profiler = Profiler.parse(workdir, profile)
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
  program = program_lib.build(c)
  if c.init_from and not resume:
    files.check_source(c.init_from, lm.abstract_params(program.model))
  report.say(f"compiling the step of {c.model.architecture} and trying it ...")
  measured = plan.measure(program, c)
  report.before(c, corpus.facts, measured, workdir, step=resume.step if resume else 0)
  if not measured.fits and not dry_run:
    raise UserError(
      "The step does not fit the device's memory: raise train.accumulation (parts that a batch is "
      "computed in), lower train.batch_size or model.context, or use more devices."
    )
  if dry_run:
    report.say("dry run: nothing was trained, and nothing was written to the run's folder.")
    return {}
  state = program.init(jax.random.key(c.seed))
  if resume:
    with checkpoint.Checkpoints(workdir) as store:
      state = store.restore(resume.step, state)
    report.say(f"resumed at step {resume.step:,}")
  elif c.init_from:
    params = files.source_params(c.init_from, state.params)
    state = dataclasses.replace(state, params=params)
  layout, rows = program.batch_sharding, c.train.batch_size
  batches = pipeline.batches(
    corpus.train,
    context=c.model.context,
    batch_size=rows,
    seed=c.seed,
    examples=resume.examples if resume else 0,
    rows=sharding.own_rows(layout, rows).tolist(),
  )
  limit = c.evaluation.tokens + 1 if c.evaluation.tokens else None
  scored = pipeline.first(corpus.validation, limit)
  evaluate = _evaluator(program, c, corpus.tokenizer)
  val_loss: loss_lib.Loss | None = None

  # --- Steps ------------------------------------------------------------------------------
  if report.is_lead():
    files.write_description(workdir, c, corpus)
  processes.agree(SHARED, processes.written_by_first(workdir / files.CONFIG))
  step, examples = int(state.step), resume.examples if resume else 0
  policy = checkpoint.SavePolicy(c.checkpoint, agree_every=c.train.log_every_steps)
  axes = lm.logical_axes(program.model)
  description = {"config": config_lib.to_dict(c), "data": corpus.facts, "axes": axes}
  with (
    metrics.Reporter(workdir, c, step, clock, wandb=wandb) as reporter,
    checkpoint.Checkpoints(workdir, c.checkpoint) as store,
    processes.Stopping() as stopping,
    profiler,
  ):
    if report.is_lead():
      (workdir / files.RESULT).unlink(missing_ok=True)  # of a shorter run, if there was one
    while step < c.train.steps:
      batch = sharding.assemble(next(batches), layout, rows)
      profiler.before(step + 1)
      state, measurements = measured.update(state, batch)
      step, examples = step + 1, examples + rows
      if profiler.ends_with(step):
        with clock.paused():
          profiler.stop(measurements)
      # Says the step before this one, so that the device never waits.
      reporter.step(step, examples, measurements)

      last = step == c.train.steps
      stop = stopping.after(step) and not last
      if last or (step % c.evaluation.every_steps == 0 and not stop):
        reporter.flush()
        with clock.paused():
          val_loss = evaluate(state.params, scored)
          values = _evaluation(val_loss, c, state.params)
          reporter.evaluation(step, {**values, "tokens": examples * c.model.context})
      if last or stop or policy.due(step):
        reporter.flush()
        with clock.paused():
          store.save(state, {**description, "examples": examples, "clock": clock.totals()})
      if stop:
        raise Stopped(
          f"Stopped by SIGTERM after step {step}, which is saved; the same command goes on from it."
        )

  # --- The end ----------------------------------------------------------------------------
  val_loss = val_loss or evaluate(state.params, scored)
  V, counted = corpus.tokenizer.vocab_size, pipeline.first(corpus.train, REFERENCE_TOKENS)
  result = {
    **report.model_facts(c),
    "steps": step,
    "tokens": examples * c.model.context,
    "train_loss": evaluate(state.params, pipeline.first(corpus.train, len(scored))).nats,
    **_evaluation(val_loss, c, state.params),
    "val_tokens": val_loss.tokens,
    "unigram_loss": references.unigram_loss(counted, scored, V),
    "bigram_loss": references.bigram_loss(counted, scored, V),
    "tokens_per_second": c.train.batch_size * c.model.context / clock.seconds_per_step(),
    "seconds": clock.totals()["seconds"],
    "sample": _sample(program.model, state.params, corpus.tokenizer),
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


def _evaluator(
  program: Program, config: Config, tokenizer: Tokenizer
) -> Callable[[lm.Params, np.ndarray], loss_lib.Loss]:
  """(params, tokens) -> loss, computed as the batches are: over all devices."""
  byte_lengths = tokenizer.byte_lengths()

  def evaluate(params: lm.Params, tokens: np.ndarray) -> loss_lib.Loss:
    return loss_lib.text_loss(
      program.model,
      params,
      tokens,
      byte_lengths,
      context=config.model.context,
      batch_size=config.train.batch_size // config.train.accumulation,
      sharding=program.batch_sharding,
    )

  return evaluate


def _evaluation(loss: loss_lib.Loss, config: Config, params: lm.Params) -> dict[str, metrics.Value]:
  """What an evaluation reports: the loss, and per layer what shows how CRATE does."""
  values: dict[str, metrics.Value] = {
    "val_loss": loss.nats,
    "bits_per_byte": loss.bits_per_byte,
    "nonzero": list(loss.nonzero),
  }
  if config.model.features == "ista":
    features = params["blocks"]["features"]
    eta_L, lam_L = step_sizes(features, config.model)
    gauges = {"eta_sigma2": _eta_sigma2(features["dictionary"], eta_L)}
    if config.model.learned_eta:
      gauges["eta"] = eta_L
    if config.model.learned_lam:
      gauges["lam"] = lam_L
    for name, gauge in multihost_utils.process_allgather(gauges, tiled=True).items():
      values[name] = gauge.tolist()
  return values


_eta_sigma2 = jax.jit(eta_sigma2)


def _sample(model: lm.LM, params: lm.Params, tokenizer: Tokenizer) -> str:
  """What the model writes from the start of a document; the same for the same parameters."""
  tokens = sampling.sample(
    model,
    {"params": params},
    np.array([tokenizer.end_of_text], np.int32),
    SAMPLE_TOKENS,
    jax.random.key(0),
    temperature=0.8,
    top_k=0,
    vocab_size=tokenizer.vocab_size,
  )
  return tokenizer.decode(tokens[1:])
