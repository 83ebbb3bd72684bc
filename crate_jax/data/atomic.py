"""Files that are written at once or not at all."""

import glob
import os
import platform
from pathlib import Path


def write(path: Path, data: bytes | str) -> None:
  """Writes a file, text as UTF-8, so that it is whole on the disk when this returns.

  A kill leaves the file that was there before; a power cut too, because the bytes are on the disk
  before the name is. The half file of a kill goes when this machine next writes the same file.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  begun = f".{path.name}.{platform.node()}."  # several machines may write the file, side by side
  for stale in path.parent.glob(f"{glob.escape(begun)}*.tmp"):
    if not _runs(stale.name.removeprefix(begun).removesuffix(".tmp")):
      stale.unlink(missing_ok=True)
  temporary = path.with_name(f"{begun}{os.getpid()}.tmp")
  try:
    with temporary.open("wb") as file:
      file.write(data.encode() if isinstance(data, str) else data)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise


def _runs(process: str) -> bool:
  try:
    os.kill(int(process), 0)
  except ProcessLookupError:
    return False
  except (PermissionError, ValueError):  # another user's; no process's number: not ours to judge
    pass
  return True
