"""Errors that a user can cause, and their messages on one line."""

import re

LINE_BREAKS = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")


class UserError(ValueError):
    """A user error, reported in one line: `key=value: expected ...; next step`."""


class Interrupted(KeyboardInterrupt):
    """A training was stopped by a signal and can be resumed.

    Only the main process prints the message and exits with 128 + signal. The others exit with 0, as a
    launcher kills the main process if another one fails.
    """

    def __init__(self, signal: int, message: str, is_main: bool) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal if is_main else 0
        self.is_main = is_main


def one_line(error: ValueError | OSError) -> str:
    """Return the message of an error on one line."""
    text = str(error)
    if isinstance(error, FileNotFoundError) and error.filename:
        text = f"{error.filename}: no such file or folder"
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename or ''}: {error.strerror.lower()}".removeprefix(": ")
    return printable(text) or type(error).__name__


def printable(text: str) -> str:
    """Join the lines of a text and escape the characters that a terminal does not print."""
    joined = LINE_BREAKS.sub(" ", text).strip()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in joined)
