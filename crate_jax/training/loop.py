"""The training loop, top to bottom: text, build, restore, step, evaluate, save, report."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from crate_jax import config as config_lib
from crate_jax.config import Config, Configuration
from crate_jax.data import pipeline
from crate_jax.data.tokenizer import Tokenizer
from crate_jax.errors import UserError
from crate_jax.evaluation import loss as loss_lib
from crate_jax.evaluation import references
from crate_jax.model import lm
from crate_jax.training import checkpoint, optim, report, sharding
from crate_jax.training import workdir as files
from crate_jax.training.step import TrainState, UpdateFn, make_update


def train(config: Configuration, workdir: Path) -> dict[str, Any]:
  """Trains a model to the end of its config, resuming what the work directory holds.

  Args:
    config: a config file's `get_config()`, overrides applied.
    workdir: the run's folder; made if it is not there.

  Returns:
    What result.json holds.

  Raises:
    UserError: the config, the text, or the state of the work directory does not allow it.
  """
  # --- What is there ------------------------------------------------------------------------
  config_lib.resolve(config, vocab_size=1)  # wrong keys are named before any text is read
  if workdir.exists() and not workdir.is_dir():
    raise UserError(f"--workdir={workdir} is a file, not a folder.")
  resume = files.find_resume(workdir, config)
  result = files.read_result(workdir, resume.step) if resume else None
  if resume and result and resume.asked == resume.saved and resume.step == resume.saved.train.steps:
    report.say(f"The run in {workdir} is finished: train.steps={result['steps']} are done.")
    report.after(result, workdir)
    return result
  clock = report.Clock(resume.clock if resume else {})

  # --- Text -----------------------------------------------------------------------------------
  corpus = _load_corpus(config, resume.tokenizer if resume else None)
  c = config_lib.resolve(config, corpus.tokenizer.vocab_size)
  if resume:
    files.check_text(workdir, resume.data, corpus.facts)

  # --- Build and restore ------------------------------------------------------------------
  program = build(c)
  report.before(c, corpus.facts)
  batches = pipeline.batches(
    corpus.train,
    context=c.model.context,
    batch_size=c.train.batch_size,
    seed=c.seed,
    start=resume.step if resume else 0,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
  state = program.init(jax.random.key(c.seed))
  if resume:
    with checkpoint.Checkpoints(workdir) as store:
      state = store.restore(resume.step, state)
    report.say(f"resumed at step {resume.step:,}")
  elif c.init_from:
    params = files.source_params(c.init_from, state.params)
    state = dataclasses.replace(state, params=params)
  scored = corpus.validation[: c.evaluation.tokens + 1 if c.evaluation.tokens else None]
  evaluate = functools.partial(
    loss_lib.text_loss,
    program.model,
    byte_lengths=corpus.tokenizer.byte_lengths(),
    context=c.model.context,
    batch_size=c.train.batch_size // c.train.accumulation,
    sharding=program.batch_sharding,
  )
  val_loss: loss_lib.Loss | None = None

  # --- Steps ------------------------------------------------------------------------------
  files.write_description(workdir, c, corpus)
  (workdir / files.RESULT).unlink(missing_ok=True)  # of a shorter run, if there was one
  step = int(state.step)
  policy = checkpoint.SavePolicy(c.checkpoint)
  axes = lm.logical_axes(program.model)
  description = {"config": config_lib.to_dict(c), "data": corpus.facts, "axes": axes}
  with (
    report.Reporter(workdir / files.METRICS, c, step, clock) as reporter,
    checkpoint.Checkpoints(workdir, c.checkpoint) as store,
  ):
    while step < c.train.steps:
      batch = jax.make_array_from_process_local_data(program.batch_sharding, next(batches))
      state, metrics = program.update(state, batch)
      step += 1
      reporter.step(step, metrics)  # says the step before this one, so the device never waits

      last = step == c.train.steps
      if last or step % c.evaluation.every_steps == 0:
        reporter.flush()
        with clock.paused():
          val_loss = evaluate(state.params, tokens=scored)
          reporter.evaluation(step, val_loss)
      if last or policy.due(step):
        reporter.flush()
        with clock.paused():
          store.save(state, {**description, "clock": clock.totals()})

  # --- The end ----------------------------------------------------------------------------
  val_loss = val_loss or evaluate(state.params, tokens=scored)
  V = corpus.tokenizer.vocab_size
  result = {
    **report.model_facts(c),
    "steps": step,
    "tokens": step * c.train.batch_size * c.model.context,
    "train_loss": evaluate(state.params, tokens=corpus.train[: len(scored)]).nats,
    "val_loss": val_loss.nats,
    "bits_per_byte": val_loss.bits_per_byte,
    "val_tokens": val_loss.tokens,
    "unigram_loss": references.unigram_loss(corpus.train, scored, V),
    "bigram_loss": references.bigram_loss(corpus.train, scored, V),
    "tokens_per_second": c.train.batch_size * c.model.context / clock.seconds_per_step(),
    "seconds": clock.totals()["seconds"],
    **report.environment(),
    "data": corpus.facts,
    "config": config_lib.to_dict(c),
  }
  result = report.finite(result)
  files.write_json(workdir / files.RESULT, result)
  report.after(result, workdir)
  return result


@dataclasses.dataclass(frozen=True)
class Program:
  """The compiled pieces of a run.

  Attributes:
    model: the model.
    init: key -> fresh state, laid out on the mesh.
    update: (state, tokens_BT1) -> (state, metrics); consumes the state it is given.
    batch_sharding: how a batch is laid out.
  """

  model: lm.LM
  init: Callable[[jax.Array], TrainState]
  update: UpdateFn
  batch_sharding: NamedSharding


def build(config: Config) -> Program:
  """Everything that is jitted, with shardings in and out and the state donated.

  Raises:
    UserError: the mesh does not fit the devices or the batch, the schedule not the steps, or the
      model is float64 and JAX is not.
  """
  c = config
  if c.model.dtype == "float64" and not jax.config.read("jax_enable_x64"):
    raise UserError('model.dtype="float64" needs the environment variable JAX_ENABLE_X64=1.')
  mesh = sharding.make_mesh(c.mesh)
  model = lm.LM(c.model)
  axes = lm.logical_axes(model)
  optimizer = optim.make_optimizer(c.optimizer, c.train.steps, axes)
  schedule = optim.make_schedule(c.optimizer, c.train.steps)

  def init(key: jax.Array) -> TrainState:
    params = lm.init_params(model, key)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

  abstract = jax.eval_shape(init, jax.random.key(0))
  state_sharding = sharding.state_shardings(abstract, optimizer, axes, mesh)
  batch_sharding = sharding.batch_sharding(mesh, c.train.batch_size // c.train.accumulation)
  update = jax.jit(
    make_update(model, optimizer, schedule, c.train.accumulation),
    in_shardings=(state_sharding, batch_sharding),
    out_shardings=(state_sharding, sharding.replicated(mesh)),
    donate_argnums=0,
  )
  return Program(model, jax.jit(init, out_shardings=state_sharding), update, batch_sharding)


def _load_corpus(config: Configuration, tokenizer: Tokenizer | None) -> pipeline.Corpus:
  """The text of the config, in the run's tokenizer, that of `init_from`, or the config's."""
  data = config_lib.data_config(config)
  init_from = config_lib.as_dict(config).get("init_from")
  if tokenizer is None and init_from:
    tokenizer = files.source_tokenizer(init_from)
  corpus = pipeline.load_corpus(
    train=data.train,
    validation=data.validation,
    validation_fraction=data.validation_fraction,
    tokenizer=tokenizer or data.tokenizer,
    bpe_vocab_size=data.bpe_vocab_size,
    cache=data.cache,
  )
  if len(corpus.validation) < 2:
    raise UserError(
      "Fewer than two tokens of validation text, from data.validation or set aside from "
      "data.train: nothing can be scored, more text is needed."
    )
  return corpus
