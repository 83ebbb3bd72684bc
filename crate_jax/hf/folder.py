"""A folder that is there whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crate_jax.errors import UserError


def require_new(path: Path, flag: str) -> None:
  """Refuses a folder that already holds something, or a file of that name.

  Raises:
    UserError: it does.
  """
  if path.exists() and not path.is_dir():
    raise UserError(f"--{flag}={path} is a file, not a folder.")
  if path.exists() and any(path.iterdir()):
    raise UserError(f"--{flag}={path} is not empty: name a folder that is not there yet.")


@contextmanager
def new(path: Path, flag: str) -> Iterator[Path]:
  """A temporary folder beside `path` that takes its name at the end; nothing stays of a failure.

  Args:
    path: the folder to make; it may be there, empty.
    flag: what named it, for errors.
  """
  require_new(path, flag)
  path = path.absolute()
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  temporary.mkdir()
  try:
    yield temporary
    os.replace(temporary, path)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
