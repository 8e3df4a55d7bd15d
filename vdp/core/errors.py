"""Errors that a user can cause, and their messages on one line."""

import re

BROKEN = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")  # where a text goes on in the next line


class UserError(ValueError):
    """A mistake the user can put right, told in one line: what is wrong, what was expected, what to do."""


class Interrupted(KeyboardInterrupt):
    """Work was stopped by a signal; the message says how to go on.

    Of several processes one tells the message. The others end as if all were well: whoever has started them
    would else take it for a crash and kill that one.
    """

    def __init__(self, signal: int, message: str, tells: bool) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal if tells else 0
        self.tells = tells


def one_line(error: ValueError | OSError) -> str:
    """The message of an error, on one line."""
    text = str(error)
    if isinstance(error, FileNotFoundError) and error.filename:
        text = f"{error.filename}: no such file or folder"
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename or ''}: {error.strerror.lower()}".removeprefix(": ")
    return printable(text) or type(error).__name__


def printable(text: str) -> str:
    """The text on one line that a terminal can show: broken lines are joined, `\\x1b` is written out."""
    return "".join(c if c.isprintable() else _escaped(c) for c in BROKEN.sub(" ", text).strip())


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
