"""Source of clip files at any depth: videos of any container that decodes, and arrays (npy, npz)."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from vdp.data.sources.protocols import Frame, Pace
from vdp.data.sources.walk import join, walk
from vdp.data.video.decode import decode_frames, estimate_frames
from vdp.data.video.discover import SHOWN, is_clip_file
from vdp.data.video.picture import holds_clip


class VideoSource:
    """The video files of a folder, or one video file, without masks."""

    layout: ClassVar[str] = f"video files ({SHOWN})"
    precut: ClassVar[bool] = False

    def __init__(self, path: Path) -> None:
        self.path = path

    def items(self) -> list[str]:
        if self.path.is_file():
            return [self.path.name] if is_clip_file(self.path) or holds_clip(self.path) else []
        found = [join(folder, name) for folder, _, files in walk(self.path) for name in files]
        return [name for name in found if is_clip_file(self.path / name)]

    def label(self, item: str) -> str:
        return str(self._file(item))

    def files(self, item: str) -> list[Path]:
        return [self._file(item)]

    def count(self, item: str) -> int:
        return estimate_frames(self._file(item))

    def frames(self, item: str, pace: Pace) -> Iterator[Frame]:
        return (Frame(number, pixels) for number, pixels in decode_frames(self._file(item), pace))

    def _file(self, item: str) -> Path:
        return self.path if self.path.is_file() else self.path / item
