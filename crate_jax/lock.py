"""One writer to a folder at a time."""

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

LOCK = "lock"  # says who holds it; whether it is held only the system knows


@contextmanager
def held(folder: Path, name: str) -> Iterator[None]:
  """Holds a folder, which it makes, against every other process that asks for it.

  The system lets go of the lock when the process ends, however it ends.

  Args:
    folder: where the file of the lock lies.
    name: what is held, in the words of whoever is refused.

  Raises:
    UserError: another process holds it.
  """
  file = _open(folder, name)
  try:
    yield
  finally:
    if file is not None:
      _let_go(folder, file)


def _open(folder: Path, name: str) -> int | None:
  """A locked file descriptor; None where the file system has no locks."""
  path = folder / LOCK
  while True:
    folder.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      os.close(file)
      if error.errno in (errno.EAGAIN, errno.EACCES):
        raise UserError(_refusal(folder, name)) from None
      print(f"{name} lies where files cannot be locked: let nothing else write to it.", flush=True)
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


def _refusal(folder: Path, name: str) -> str:
  try:
    who = json.loads((folder / LOCK).read_text())
    holder = f"process {who['pid']} on {who['host']}, since {who['since']}"
  except (OSError, ValueError, KeyError, TypeError):
    holder = "another process"
  return f"{name} is being written to by {holder}: wait for its end, or choose another folder."


def _let_go(folder: Path, file: int) -> None:
  with contextlib.suppress(OSError):  # it may have been taken away in the meantime
    if not set(os.listdir(folder)) - {LOCK}:  # one that wrote nothing leaves nothing
      (folder / LOCK).unlink()
      folder.rmdir()
  os.close(file)
