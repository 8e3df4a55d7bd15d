"""A source of video files (mp4, avi, mov, mkv, webm), at any depth."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from vdp.data.sources.protocols import Frame, Pace
from vdp.data.sources.walk import walk
from vdp.data.video.decode import SUFFIXES, count_frames, decode_frames


class VideoSource:
    """The video files of a folder, or one video file, without masks; one item is one file."""

    expects: ClassVar[str] = "video files (" + ", ".join(s.removeprefix(".") for s in SUFFIXES) + ")"
    precut: ClassVar[bool] = False

    def __init__(self, path: Path) -> None:
        self.path = path

    def items(self) -> list[str]:
        """Paths of the video files below the folder; of a file, its name."""
        if self.path.is_file():
            return [self.path.name] if _is_video(self.path.name) else []
        return [
            name if folder == "." else f"{folder}/{name}"
            for folder, _, files in walk(self.path)
            for name in files
            if _is_video(name)
        ]

    def label(self, item: str) -> str:
        return str(self._file(item))

    def files(self, item: str) -> list[Path]:
        return [self._file(item)]

    def count(self, item: str) -> int:
        return count_frames(self._file(item))

    def frames(self, item: str, pace: Pace) -> Iterator[Frame]:
        for number, pixels in decode_frames(self._file(item), pace):
            yield Frame(number, pixels)

    def _file(self, item: str) -> Path:
        return self.path if self.path.is_file() else self.path / item


def _is_video(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES
