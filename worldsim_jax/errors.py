"""The exceptions that a user is meant to read, and the exit codes of a run.

Codes of ours are those that sysexits.h has for the same meaning.
"""

BAD_INPUT = 2
LOST_HOST = 69  # EX_UNAVAILABLE: another process of the run is gone.
PREEMPTED = 75  # EX_TEMPFAIL: told to stop; the same command goes on.


class UserError(ValueError):
  """Bad input: one line that names what, where and what to do.

  `main` prints it without a traceback and exits with code 2. Library code that
  checks arguments raises plain `ValueError`; this class marks the errors that
  can only be found while running (a truncated file, a full disk).
  """


class Preempted(BaseException):
  """The run was told to stop, by SIGTERM or Ctrl-C; exit code 75.

  It may arrive anywhere, like KeyboardInterrupt, so it is no Exception.

  Attributes:
    agreed: whether all processes of the run raise it, at the same step.
  """

  def __init__(self, message: str, agreed: bool = False):
    super().__init__(message)
    self.agreed = agreed
