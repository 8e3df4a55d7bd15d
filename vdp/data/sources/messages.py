"""Parts of error messages that the sources share."""

import reprlib

MAX_SHOWN = 60  # characters of a value
MAX_ERROR = 300  # characters of another library's message


def shown(value: object) -> str:
    """Return a value as text of bounded length."""
    text = reprlib.repr(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."


def joined(error: BaseException) -> str:
    """Return the message of another library on one line of bounded length."""
    return " ".join(str(error).split())[:MAX_ERROR]


def check_size(name: str, shape: tuple[int, ...], first: tuple[int, ...]) -> None:
    """Raise a ValueError if the frame or mask `name` has not the height and width of the first frame."""
    if shape[:2] != first[:2]:
        expected, got = (f"{width}x{height}" for height, width in (first[:2], shape[:2]))
        raise ValueError(
            f"{name}: expected the size of the first frame, {expected}, got {got}; resize or remove it"
        )
