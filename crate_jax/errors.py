"""The exceptions that are meant for a person: the ground floor, which every module may import."""


class Lost(Exception):
  """Another process of the job is gone; to be started again, and nothing to mend."""


class Stopped(Exception):
  """A signal ended the run after a whole step, whose checkpoint is saved; not an error.

  Attributes:
    status: what the process exits with, 128 and the signal's number.
  """

  def __init__(self, message: str, status: int) -> None:
    super().__init__(message)
    self.status = status


class UserError(Exception):
  """Something that whoever runs the program can mend.

  The message is one sentence that names the file, key or value at fault. Commands print it
  without a traceback and exit with status 1 (see `crate_jax.cli`).
  """


class Diverged(UserError):
  """Updates of a run are not finite, whatever is done: its rate is too high."""
