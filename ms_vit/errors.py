"""What a user can be told in one line. The command line prints the text and exits with the code, without a traceback.

A text says what is wrong, where, and what to do.
"""

MAX_LINE = 2000     # letters; a path may have 4,000 of them, and what a file says of itself any number


class UserError(Exception):
    """A mistake or a mishap that the user can do something about."""

    exit_code = 1


class DataError(UserError):
    """The data, a file or a check is bad."""


class UsageError(UserError):
    """The command, a key or a value is wrong."""

    exit_code = 2


def one_line(text: str) -> str:
    """A text fit for one line of a terminal, whatever files or their names brought into it."""
    text = text if len(text) <= MAX_LINE else f"{text[:MAX_LINE // 2]} ... {text[-MAX_LINE // 2:]}"
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
