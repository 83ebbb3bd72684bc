"""How every command starts: flags, one-sentence errors, exit codes.

Exit codes: 0 done, 1 an error that one sentence explains, 2 wrong flags, 130 ended by Ctrl-C, 134
another process of the job is gone (JAX's own abort says the same) or nothing moved any more, 143
ended by a SIGTERM. A training run that was asked to stop by one of these two signals has saved what
it had. Those above 127 are worth another start.
"""

import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import flags
from ml_collections import config_flags

from crate_jax import config as config_lib
from crate_jax import memory
from crate_jax.errors import Lost, Stopped, UserError


def run(command: Callable[[], None], required: Sequence[str], instead: str = "") -> NoReturn:
  """Parses the flags, runs the command, and exits.

  Args:
    command: what to do once the flags are parsed.
    required: names of the flags without which there is nothing to do.
    instead: a flag with which only the first of those is needed.
  """
  memory.keep_freed()
  try:
    _parse(sys.argv, required, instead)
    command()
  except Lost as lost:
    _fail(str(lost), 134)
  except Stopped as stopped:
    _fail(str(stopped), stopped.status, kind="")
  except UserError as error:
    _fail(str(error), 1)
  except OSError as error:  # a full disk, a folder that may not be written: it names the file
    _fail(f"{error}.", 1)
  except flags.Error as error:
    _fail(str(error), 2)
  except KeyboardInterrupt:
    _fail("Interrupted; a training run goes on from its newest checkpoint, if it has one yet.", 130)
  sys.exit(0)


def python() -> str:
  """How the running Python is called from the current folder, to type a command with."""
  here = os.path.relpath(sys.executable)
  return sys.executable if here.startswith("..") else here


def _fail(message: str, code: int, kind: str = "error: ") -> NoReturn:
  sys.stdout.flush()
  print(f"{kind}{message}", file=sys.stderr, flush=True)
  # Not sys.exit: threads of an aborted run (reading ahead, saving) must not hold the exit up.
  os._exit(code)


def _parse(argv: list[str], required: Sequence[str], instead: str) -> None:
  if any(argument in ("--help", "-h", "-help", "--helpfull") for argument in argv[1:]):
    main = sys.modules["__main__"]
    text = (main.__doc__ or "").strip().replace("  python -m", f"  {python()} -m")
    print(f"{text}\n\nFlags:\n{flags.FLAGS.main_module_help()}")
    sys.exit(0)
  if "config" in flags.FLAGS:
    _check_config(argv)
  rest = flags.FLAGS(argv)
  if len(rest) > 1:
    raise flags.Error(f"Unexpected argument {rest[1]!r}: flags are written --name=value.")
  for name in required[:1] if instead and flags.FLAGS[instead].value else required:
    if flags.FLAGS[name].value in (None, ""):
      raise flags.Error(f"The flag --{name} is required; --help shows an example.")


def _check_config(argv: list[str]) -> None:
  """Says what ml_collections says late or in a traceback: a missing file, an unknown key."""
  value, keys = "", []
  for argument, following in zip(argv[1:], [*argv[2:], ""], strict=False):
    if match := re.fullmatch(r"--?config(?:=(.*))?", argument):
      value = following if match[1] is None else match[1]
    elif match := re.match(r"--?(?:no)?config\.([^=]+)", argument):
      keys.append(match[1])
  if not value:
    return
  path = value.split(":")[0]
  if not os.path.isfile(path):
    raise UserError(f"--config={path}: there is no such file.")
  parser = config_flags.config_flags.ConfigFileFlagParser(name="config", lock_config=True)
  try:
    known = config_lib.flatten(config_lib.as_dict(parser.parse(value)))
  except UserError:
    raise
  except Exception as error:  # whatever a file that is no config, or a broken one, raises
    kind = type(error).__name__
    reason = (str(error).strip() or "nothing more").splitlines()[-1].removeprefix(f"{kind}: ")
    raise UserError(f"--config={value} is not a config: {kind}: {reason}.") from error
  groups = {key.rsplit(".", 1)[0] for key in known if "." in key}
  for key in keys:
    if key not in known and key not in groups:
      raise config_lib.unknown_key(key, [*known, *groups])
