"""What a user can be told in one line. The command line prints the text and exits with the code, without a traceback.

A text says what is wrong, where, and what to do.
"""


class UserError(Exception):
    """A mistake or a mishap that the user can do something about."""

    exit_code = 1


class DataError(UserError):
    """The data, a file or a check is bad."""


class UsageError(UserError):
    """The command, a key or a value is wrong."""

    exit_code = 2
