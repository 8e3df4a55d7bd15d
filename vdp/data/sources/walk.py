"""Look through a user's folder: natural order, hidden names left out, links followed once."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

NUMBER = re.compile(r"([0-9]+)")


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorting key in which numbers count as numbers: image_2 before image_10, and as late as image_02."""
    return tuple(
        _number(part) if part.isdecimal() and part.isascii() else (1, 0, part) for part in NUMBER.split(name)
    )


def in_order(names: list[str]) -> list[str]:
    """The names in natural order; names that differ in leading zeros alone have a fixed order too."""
    return sorted(sorted(names), key=natural)


def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Path of each folder at or below `folder` relative to it ('.' first), its folders and its files.

    Names are in natural order; names that begin with a dot are left out, and so are pipes and devices. A link
    that leads nowhere counts as a file: what reads it says so, where a frame would be missing without a word.
    Linked folders are entered, but none twice on one path, so that a loop of links ends. Folders taken out of
    the list of folders are not entered, as with `os.walk`.

    Raises:
        OSError: if a folder cannot be looked into; names it.
    """
    # a list, not a recursion: folders may lie deeper than Python's calls
    todo: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while todo:
        path, above = todo.pop()
        status = (folder / path).stat()
        here = (status.st_dev, status.st_ino)
        if here in above:
            continue
        folders, files = list_folder(folder / path)
        yield path or ".", folders, files
        above |= {here}
        todo += [(f"{path}/{name}" if path else name, above) for name in reversed(folders)]


def list_folder(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files of one folder, as `walk` gives them."""
    folders, files = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            # for a link that leads back to itself an entry raises an error, a path says that nothing is there
            kind = Path(entry) if entry.is_symlink() else entry
            if kind.is_dir():
                folders.append(entry.name)
            elif kind.is_file() or (entry.is_symlink() and not Path(entry).exists()):
                files.append(entry.name)
    return in_order(folders), in_order(files)


def _number(digits: str) -> tuple[int, int, str]:
    """Compares as the number does; `int` refuses numbers of thousands of digits."""
    digits = digits.lstrip("0")
    return 0, len(digits), digits
