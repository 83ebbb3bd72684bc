"""The exceptions that are meant for a person: the ground floor, which every module may import."""


class Lost(Exception):
  """Another process of the job is gone; to be started again, and nothing to mend."""


class Stopped(Exception):
  """A SIGTERM ended the run after a whole step, whose checkpoint is saved; not an error."""


class UserError(Exception):
  """Something that whoever runs the program can mend.

  The message is one sentence that names the file, key or value at fault. Commands print it
  without a traceback and exit with status 1 (see `crate_jax.cli`).
  """
