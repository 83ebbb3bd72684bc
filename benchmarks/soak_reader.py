"""A process that reads what may be damaged, for benchmarks/soak.py: its crash is an answer too."""

import contextlib
import functools
import hashlib
import io
import json
import multiprocessing
import os
import resource
import shutil
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SECONDS = 60  # in which a reading ends
Answer = dict[str, Any]  # "value", "refused" or "failed"; "said", what went to stderr


class Reader:
  """A process that reads, started anew after each death."""

  def __init__(self, memory: int = 8 << 30) -> None:
    """Notes how much memory reading may take, in bytes beyond those of JAX itself."""
    self._memory = memory
    self._process: Any = None
    self._pipe: Any = None

  def ask(self, what: str, *arguments: Any, seconds: float = SECONDS) -> Answer:
    """What a function of `READ` returns or raises, or how the process ended."""
    if self._process is None:
      context = multiprocessing.get_context("spawn")
      self._pipe, theirs = context.Pipe()
      self._process = context.Process(target=_serve, args=(theirs, self._memory), daemon=True)
      self._process.start()
      theirs.close()
      self._pipe.recv()  # it is ready
    try:
      self._pipe.send((what, arguments))
      if not self._pipe.poll(seconds):
        return {"failed": f"no answer in {seconds} s", "said": self._end()}
      return self._pipe.recv()
    except (EOFError, OSError):
      self._process.join()
      return {"failed": f"the process ended with {self._process.exitcode}", "said": self._end()}

  def _end(self) -> str:
    self._process.kill()
    self._process.join()
    self._process = None
    return ""

  def __enter__(self) -> "Reader":
    return self

  def __exit__(self, *exception: object) -> None:
    if self._process is not None:
      self._end()


def _serve(pipe: Connection, memory: int) -> None:
  os.environ["JAX_PLATFORMS"] = "cpu"
  import jax

  from crate_jax.errors import UserError

  jax.block_until_ready(jax.numpy.zeros(1) + 1)
  status = Path("/proc/self/statm")
  if status.exists():
    limit = int(status.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + memory
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
  pipe.send("ready")
  while True:
    try:
      what, arguments = pipe.recv()
    except EOFError:
      return
    answer: Answer = {}
    with contextlib.redirect_stderr(io.StringIO()) as said:
      try:
        answer["value"] = READ[what](*arguments)
      except UserError as error:
        answer["refused"] = str(error)
      except BaseException as error:
        answer["failed"] = f"{type(error).__name__}: {str(error)[:300]}"
    pipe.send({**answer, "said": said.getvalue()})


def _sha256(tree: Any) -> str:
  """Of all arrays of a tree, their paths, types and shapes; it owes nothing to training.digest."""
  import jax
  import numpy as np

  total = hashlib.sha256()
  for path, leaf in jax.tree.leaves_with_path(tree):
    array = np.asarray(leaf)
    total.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
    total.update(array.tobytes())
  return total.hexdigest()


def _read_state(workdir: Path, step: int | None = None) -> tuple[int, str]:
  """The step and the state that a run would go on from."""
  import jax

  from crate_jax.training import checkpoint
  from crate_jax.training import workdir as files

  program = _program(json.dumps(files.read_meta(workdir, step)["config"]))
  like = jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    jax.eval_shape(program.init, jax.random.key(0)),
    program.state_sharding,
  )
  at, state = checkpoint.read_newest(workdir, lambda store, s: store.restore(s, like), step)
  return at, _sha256((state.params, state.opt_state))


@functools.cache
def _program(config: str) -> Any:
  from crate_jax import config as config_lib
  from crate_jax.training import program

  return program.build(config_lib.from_dict(json.loads(config)))


def _read_run(workdir: Path, step: int | None = None) -> tuple[int, str]:
  """The step, and all of what `crate_jax.load` gives."""
  import crate_jax
  from crate_jax import config as config_lib

  run = crate_jax.load(workdir, step)
  facts = [run.step, run.data, config_lib.to_dict(run.config), run.tokenizer.digest()]
  return run.step, _sha256(run.params) + json.dumps(facts, sort_keys=True)


def _read_prepared(folder: Path, step: None = None) -> tuple[int, str]:
  """0, and all that prepared data holds."""
  from crate_jax.data import pipeline

  corpus = pipeline.load_corpus(
    prepared=str(folder),
    train="",
    validation="",
    validation_fraction=0.1,
    tokenizer="",
    bpe_vocab_size=0,
    cache=Path(),
  )
  tokens = [pipeline.first(streams) for streams in (corpus.train, corpus.validation)]
  facts = {key: value for key, value in corpus.facts.items() if key != "text"}  # the folder's name
  return 0, _sha256(tokens) + json.dumps(facts, sort_keys=True)


def _cost(folder: Path, size: str, rounds: int) -> tuple[int, dict[str, list[float]]]:
  """Bytes of the state, and seconds by what they were spent on."""
  import jax

  from configs import base
  from crate_jax import config as config_lib
  from crate_jax.training import checkpoint, digest
  from crate_jax.training import program as program_lib
  from crate_jax.training.step import TrainState

  c = config_lib.resolve_without_text(base.get_config(size))
  program = program_lib.build(c, jax.devices()[:1])
  state = program.init(jax.random.key(0))
  # Moments that are all zero, as they begin, would be packed into nothing.
  moments = jax.tree.map(
    lambda x: jax.random.normal(jax.random.key(1), x.shape) if x.ndim else x, state.opt_state
  )
  state = TrainState(state.step + 1, state.params, moments)
  like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
  times: dict[str, list[float]] = {}

  @contextlib.contextmanager
  def timed(name: str) -> Any:
    began = time.perf_counter()
    yield
    times.setdefault(name, []).append(time.perf_counter() - began)

  def both() -> None:
    digest.digests(state.params), digest.digests(state.opt_state)

  with timed("digests the first time"):
    both()
  real: Callable[[Any], dict[str, str]] = checkpoint.digests
  for number in range(rounds):
    with timed("digests"):
      both()
    for name, used in (("with", real), ("without", lambda tree: {})):
      checkpoint.digests = used  # type: ignore[assignment]
      run = folder / f"{name}-{number}"
      going_on = f"save {name}, until training goes on"
      with (
        timed(f"save {name}"),
        checkpoint.Checkpoints(run, c.checkpoint) as store,
        timed(going_on),
      ):
        store.save(state, {})
      with timed(f"restore {name}"), checkpoint.Checkpoints(run) as store:
        jax.block_until_ready(store.restore(1, like))
      shutil.rmtree(run)
  checkpoint.digests = real  # type: ignore[assignment]
  return sum(x.nbytes for x in jax.tree.leaves(state)), dict(sorted(times.items()))


READ: dict[str, Callable[..., Any]] = {
  "state": _read_state,
  "run": _read_run,
  "prepared": _read_prepared,
  "cost": _cost,
}
