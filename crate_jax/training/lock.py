"""One writer to a run's folder at a time."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crate_jax.errors import UserError
from crate_jax.training import processes, report

LOCK = "lock"  # holds who has it; whether it is held only the system knows


@contextmanager
def only_writer(workdir: Path) -> Iterator[None]:
  """Holds the run's folder, which it makes, against every other run.

  The system lets go of the lock when the process ends, however it ends. Of a job of several
  processes the first holds it for all.

  Raises:
    UserError: another run holds it.
  """
  file, refusal = None, ""
  if report.is_lead():
    try:
      file = _open(workdir)
    except (UserError, OSError) as error:
      refusal = str(error).rstrip(".") + "."
  if not processes.first_says(not refusal):
    raise UserError(refusal or f"Process 0 may not write to {workdir}: it says why.")
  try:
    yield
  finally:
    if file is not None:
      _let_go(workdir, file)


def _open(workdir: Path) -> int | None:
  """A locked file descriptor; None where the file system has no locks."""
  path = workdir / LOCK
  while True:
    workdir.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      os.close(file)
      if error.errno in (errno.EAGAIN, errno.EACCES):
        raise UserError(_refusal(workdir)) from None
      report.say(f"{workdir} lies where files cannot be locked: let no other run write to it.")
      return None
    try:
      same = os.stat(path).st_ino == os.fstat(file).st_ino
    except FileNotFoundError:
      same = False
    if same:
      break
    os.close(file)  # whoever held it has just removed it with an empty folder: again
  os.ftruncate(file, 0)
  who = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%F %T %Z")}
  os.write(file, json.dumps(who).encode())
  return file


def _refusal(workdir: Path) -> str:
  try:
    who = json.loads((workdir / LOCK).read_text())
    holder = f"process {who['pid']} on {who['host']}, since {who['since']}"
  except (OSError, ValueError, KeyError, TypeError):
    holder = "another process"
  return (
    f"--workdir={workdir} is being written to by {holder}: wait for its end, or choose another "
    "folder."
  )


def _let_go(workdir: Path, file: int) -> None:
  with contextlib.suppress(OSError):  # it may have been taken away in the meantime
    if not set(os.listdir(workdir)) - {LOCK}:  # a run that wrote nothing leaves nothing
      (workdir / LOCK).unlink()
      workdir.rmdir()
  os.close(file)
