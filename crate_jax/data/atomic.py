"""Files that are written at once or not at all."""

import os
from pathlib import Path


def write(path: Path, data: bytes | str) -> None:
  """Writes a file, text as UTF-8, so that it is whole on the disk when this returns.

  A kill leaves the file that was there before; a power cut too, because the bytes are on the disk
  before the name is.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    with temporary.open("wb") as file:
      file.write(data.encode() if isinstance(data, str) else data)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
