"""Find out what a user's folder holds."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Protocol

from vdp.data.clips import Clip
from vdp.data.sources.competition import CompetitionSource
from vdp.data.sources.rule import ClipRule
from vdp.data.sources.videos import VideoSource


class Source(Protocol):
    """A folder that clips can be read from, item by item, in any process and in any order."""

    expects: ClassVar[str]  # what the folder has to hold, for messages
    folder: Path

    def __init__(self, folder: Path) -> None: ...

    def items(self) -> list[str]:
        """Names of what is read at once (a video), in a fixed order; empty for a folder of another kind."""
        ...

    def read(self, item: str, rule: ClipRule) -> Iterator[Clip]:
        """Clips of one item, all labelled or all not. ValueError names the file that cannot be used."""
        ...


SOURCES: tuple[type[Source], ...] = (CompetitionSource, VideoSource)


def detect_source(folder: Path, key: str) -> Source:
    """The source that a folder is.

    Args:
        folder: the user's folder of one split or test set (`test`, `hidden` or any other name).
        key: the key of params.yaml that names it, for messages.

    Raises:
        FileNotFoundError: if the folder is not there, or holds no usable videos.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{key}: folder {folder} is not there{_hint(_folders(folder.parent))}")
    for kind in SOURCES:
        source = kind(folder)
        if source.items():
            return source
    expected = " or ".join(kind.expects for kind in SOURCES)
    raise FileNotFoundError(
        f"{key}: no usable videos in {folder}: expected {expected}{_hint(_folders(folder))}"
    )


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def _hint(folders: list[Path]) -> str:
    if not folders:
        return ""
    shown = ", ".join(map(str, folders[:6])) + (", ..." if len(folders) > 6 else "")
    return f"; did you mean one of {shown}?"
