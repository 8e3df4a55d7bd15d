"""Source of video files (mp4, avi, mov, mkv, webm) at any depth."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from vdp.data.sources.protocols import Frame, Pace
from vdp.data.sources.walk import join, walk
from vdp.data.video.decode import SUFFIXES, count_frames, decode_frames


class VideoSource:
    """The video files of a folder, or one video file, without masks."""

    layout: ClassVar[str] = "video files (" + ", ".join(s.removeprefix(".") for s in SUFFIXES) + ")"
    precut: ClassVar[bool] = False

    def __init__(self, path: Path) -> None:
        self.path = path

    def items(self) -> list[str]:
        if self.path.is_file():
            found = [self.path.name]
        else:
            found = [join(folder, name) for folder, _, files in walk(self.path) for name in files]
        return [name for name in found if Path(name).suffix.lower() in SUFFIXES]

    def label(self, item: str) -> str:
        return str(self._file(item))

    def files(self, item: str) -> list[Path]:
        return [self._file(item)]

    def count(self, item: str) -> int:
        return count_frames(self._file(item))

    def frames(self, item: str, pace: Pace) -> Iterator[Frame]:
        return (Frame(number, pixels) for number, pixels in decode_frames(self._file(item), pace))

    def _file(self, item: str) -> Path:
        return self.path if self.path.is_file() else self.path / item
