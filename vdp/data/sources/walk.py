"""Walk a user's folder in natural order; hidden names are skipped, links are followed."""

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LARGE_FOLDER = 1000  # files of a folder whose listing is kept
KEPT_LISTINGS = 4  # of large folders
SETTLED = 2 * 10**9  # nanoseconds since the last change of a folder whose listing is kept
NUMBER = re.compile(r"([0-9]+)")


@dataclass(frozen=True)
class Listing:
    """Names in one folder; `folders` and `files` are in natural order."""

    folders: tuple[str, ...]
    files: tuple[str, ...]
    hidden: tuple[str, ...]
    special: tuple[str, ...]  # pipes, sockets and devices


# of large folders, with device, inode and time of the folder
_listings: dict[str, tuple[tuple[int, int, int], Listing]] = {}


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return the key of the natural order: image_2 before image_10 and equal to image_02."""
    return tuple(_number(part) if n % 2 else (1, 0, part) for n, part in enumerate(NUMBER.split(name)))


def in_order(names: list[str]) -> list[str]:
    """Sort names in natural order; names that differ only in leading zeros alphabetically."""
    return sorted(sorted(names), key=natural)


def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield the relative path ('.' first), subfolders and files of `folder` and each folder below it.

    As `os.walk`: subfolders removed from the list are not entered. Names are in natural order. Hidden names,
    pipes and devices are skipped. A broken link counts as a file, so that reading it fails instead of a frame
    being dropped silently. Linked folders are entered, but not again below themselves.
    """
    # a stack, not a recursion: folders may be nested deeper than Python's recursion limit
    todo: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while todo:
        path, above = todo.pop()
        status = (folder / path).stat()
        here = (status.st_dev, status.st_ino)
        if here in above:
            continue
        folders, files = list_folder(folder / path)
        yield path or ".", folders, files
        todo += [(join(path, name), above | {here}) for name in reversed(folders)]


def join(path: str, name: str) -> str:
    """Join a path of `walk` and a name in it."""
    return name if path in ("", ".") else f"{path}/{name}"


def list_folder(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the subfolders and the files of one folder, as `walk`."""
    found = read_listing(folder)
    return list(found.folders), list(found.files)


def read_listing(folder: Path) -> Listing:
    """List one folder. A large folder is listed once, and again where it has changed."""
    status = folder.stat()
    key, version = os.path.abspath(folder), (status.st_dev, status.st_ino, status.st_mtime_ns)
    if key in _listings and _listings[key][0] == version:
        return _listings[key][1]
    found = _scan(folder)
    _listings.pop(key, None)
    # a folder that has just changed may change again within the resolution of its time
    if len(found.files) >= LARGE_FOLDER and time.time_ns() - status.st_mtime_ns > SETTLED:
        while len(_listings) >= KEPT_LISTINGS:
            _listings.pop(next(iter(_listings)))
        _listings[key] = (version, found)
    return found


def _scan(folder: Path) -> Listing:
    folders, files, hidden, special = [], [], [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                hidden.append(entry.name)
                continue
            # for a link to itself an entry raises an error, a path returns False
            kind = Path(entry) if entry.is_symlink() else entry
            if kind.is_dir():
                folders.append(entry.name)
            elif kind.is_file() or (entry.is_symlink() and not Path(entry).exists()):
                files.append(entry.name)
            else:
                special.append(entry.name)
    return Listing(*(tuple(in_order(names)) for names in (folders, files, hidden, special)))


def _number(digits: str) -> tuple[int, int, str]:
    """Key that compares as the number; `int` rejects thousands of digits."""
    digits = digits.lstrip("0")
    return 0, len(digits), digits
