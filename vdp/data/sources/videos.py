"""A source of video files (mp4, avi, mov, mkv, webm), at any depth: unlabelled clips, cut at a stride."""

import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from vdp.data.clips import Clip
from vdp.data.resize import resize_frame
from vdp.data.sources.rule import ClipRule

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")
HONEST = (
    0.95  # a header that counts more frames than these of 1 decode is reported: counts are often 1 or 2 off
)


class VideoSource:
    """Clips of a folder of video files; one item is one file."""

    expects: ClassVar[str] = "video files (" + ", ".join(s.removeprefix(".") for s in SUFFIXES) + ")"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def items(self) -> list[str]:
        """Paths of the video files below the folder, in the order of their names."""
        found = (p for p in self.folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        return sorted(p.relative_to(self.folder).as_posix() for p in found)

    def read(self, item: str, rule: ClipRule) -> Iterator[Clip]:
        """Clips of one file, each `rule.stride` taken frames after the last; holds one clip in memory.

        A clip is named after the file and the 0-based number of its first frame in the file. A file that
        breaks off early gives the clips of what decodes.

        Raises:
            ValueError: if the file cannot be read or is too short; names the file.
        """
        path = self.folder / item
        stem = Path(item).with_suffix("").as_posix().replace("/", "_")
        window: deque[NDArray[np.uint8]] = deque(maxlen=rule.frames)
        taken = 0
        for frame in _decode(path, rule.interval):
            window.append(resize_frame(frame, rule.height, rule.width, rule.fit))
            taken += 1
            start = taken - rule.frames
            if start >= 0 and start % rule.stride == 0:
                yield Clip(f"{stem}_{start * rule.interval:06d}", np.stack(window), None)
        length = rule.length(taken, path)
        if length < rule.frames:
            yield Clip(f"{stem}_000000", np.stack(window)[:length], None)


def _decode(path: Path, interval: int) -> Iterator[NDArray[np.uint8]]:
    """Every `interval`-th frame of a video, (H, W, 3) RGB. Frames between are decoded but not converted."""
    video = cv2.VideoCapture(str(path))
    try:
        decoded = 0
        while video.grab():
            if decoded % interval == 0:
                ok, frame = video.retrieve()
                if not ok:
                    break
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
            decoded += 1
        if not decoded:
            raise ValueError(f"{path}: not a readable video; convert it to mp4 (H.264) or remove it")
        promised = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        if decoded < HONEST * promised:
            sys.stderr.write(f"{path}: the header says {promised} frames, {decoded} decode; these are used\n")
    finally:
        video.release()
