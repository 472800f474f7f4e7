"""The one exception that a user is meant to read."""


class UserError(ValueError):
  """Bad input: one line that names what, where and what to do.

  `main` prints it without a traceback and exits with code 2. Library code that
  checks arguments raises plain `ValueError`; this class marks the errors that
  can only be found while running (a truncated file, a full disk).
  """
