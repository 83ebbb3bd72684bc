"""Files that are written at once or not at all."""

import functools
import glob
import os
import platform
from pathlib import Path


def write(path: Path, data: bytes | str) -> None:
  """Writes a file, text as UTF-8, so that it is whole on the disk when this returns.

  A kill leaves the file that was there before; a power cut too, because the bytes are on the disk
  before the name is. The half file of a kill goes when another process of this machine writes in
  the folder.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  _clean(path.parent.resolve())
  temporary = path.with_name(f".{path.name}{_mark()}{os.getpid()}.tmp")
  try:
    with temporary.open("wb") as file:
      file.write(data.encode() if isinstance(data, str) else data)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise


@functools.cache
def _clean(folder: Path) -> None:
  """Once in a process: a folder of shards may be long."""
  for stale in folder.glob(f".*{glob.escape(_mark())}*.tmp"):
    if not _runs(stale.name.removesuffix(".tmp").rpartition("@")[2]):
      stale.unlink(missing_ok=True)


def _mark() -> str:
  """Between a file's name and its process: several machines may write in a folder, and several
  containers of one machine, which do not see each other's processes."""
  namespace = Path("/proc/self/ns/pid")
  space = namespace.stat().st_ino if namespace.exists() else 0
  return f"@{platform.node()}-{space}@"


def _runs(process: str) -> bool:
  try:
    os.kill(int(process), 0)
  except ProcessLookupError:
    return False
  except (PermissionError, ValueError):  # another user's; no process's number: not ours to judge
    pass
  return True
