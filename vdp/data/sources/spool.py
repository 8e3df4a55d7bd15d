"""Videos in memory, written to files one at a time, so that a training holds one of them."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from vdp.core.errors import UserError, one_line
from vdp.core.files import write_text
from vdp.data.sources.arrays import ArraySource, Video
from vdp.data.sources.protocols import Frame, Pace
from vdp.data.stores.clips import Pixels
from vdp.data.video.resize import Fit, resize_frame, resize_mask

INDEX = "videos.json"
PARTS = ("frames", "masks", "conditions")


@dataclass
class SpooledSource:
    """Videos that `spool_videos` wrote: arrays of one frame size, memory-mapped when they are read."""

    layout: ClassVar[str] = ArraySource.layout
    precut: ClassVar[bool] = False
    folder: Path
    name: str  # of the videos in messages
    hashes: dict[str, str] = field(default_factory=dict)  # of the content, by video
    reasons: dict[str, str] = field(default_factory=dict)  # of videos that cannot be used

    def items(self) -> list[str]:
        return sorted([*self.hashes, *self.reasons])

    def label(self, item: str) -> str:
        return f"{self.name}[{int(item.removeprefix('video_'))}]"

    def files(self, item: str) -> list[Path]:
        paths = (self.folder / f"{item}.{part}.npy" for part in PARTS)
        return [path for path in paths if path.is_file()]

    def count(self, item: str) -> int:
        path = self.folder / f"{item}.frames.npy"
        return 0 if item in self.reasons else len(np.load(path, mmap_mode="r"))

    def frames(self, item: str, pace: Pace) -> Iterator[Frame]:
        if item in self.reasons:
            raise ValueError(self.reasons[item])
        arrays = {path.name.split(".")[1]: np.load(path, mmap_mode="r") for path in self.files(item)}
        yield from _source(int(item.removeprefix("video_")), arrays).frames(item, pace)


def spool_videos(
    videos: Iterable[Video], folder: Path, size: tuple[int, int], fit: Fit, keep_files: bool
) -> SpooledSource:
    """Write videos to a folder at one frame size; each is released before the next is asked for.

    A folder that an interrupted call left is completed: its videos have to be the same.

    Args:
        videos: as of `ArraySource`; consumed once.
        folder: of the files and their index; its name is that of the videos in messages.
        size: height and width, pixels.
        keep_files: False: only compare the videos with an index that is complete.

    Raises:
        UserError: if a video differs from the one in the folder.
    """
    index = folder / INDEX
    known: dict[str, str] = json.loads(index.read_text()) if index.is_file() else {}
    source = SpooledSource(folder, folder.name)
    for number, video in enumerate(videos):
        name = f"video_{number:05d}"
        try:
            arrays = _arrays(video, number, size, fit)
        except ValueError as error:
            source.reasons[name] = one_line(error).replace("videos[", f"{folder.name}[")
            continue
        finally:
            del video  # released before the next one is asked for
        digest = hashlib.sha256()
        for part, array in arrays.items():
            digest.update(f"{part} {array.shape}".encode() + array.tobytes())
        source.hashes[name] = digest.hexdigest()
        if known.get(name, source.hashes[name]) != source.hashes[name]:
            raise UserError(
                f"{source.label(name)}: differs from that of the interrupted training; use force to restart"
            )
        if keep_files:
            folder.mkdir(parents=True, exist_ok=True)
            for part, array in arrays.items():
                _save(folder / f"{name}.{part}.npy", array)
            known[name] = source.hashes[name]
            write_text(index, json.dumps(known, indent=1) + "\n")
    if missing := known.keys() - source.hashes.keys():
        raise UserError(
            f"{folder.name}: {len(missing)} of the interrupted training are missing; use force to restart"
        )
    return source


def _arrays(video: Video, number: int, size: tuple[int, int], fit: Fit) -> dict[str, Pixels]:
    """Frames, and masks and conditions where given, at the frame size; a ValueError names the video."""
    source = _source(number, video)
    frames = [
        (
            _resized(frame.pixels, size, fit),
            None if frame.mask is None else resize_mask(frame.mask, *size, fit),
            None if frame.condition is None else _resized(frame.condition, size, fit),
        )
        for frame in source.frames(f"video_{number:05d}", Pace())
    ]
    columns = dict(zip(PARTS, zip(*frames, strict=True), strict=True))
    return {part: np.stack(column) for part, column in columns.items() if column[0] is not None}


def _source(number: int, video: Video) -> ArraySource:
    """Return a source with a video at its number, which its messages name."""
    return ArraySource([*[()] * number, video])


def _resized(frame: Pixels, size: tuple[int, int], fit: Fit) -> Pixels:
    return frame if frame.shape[:2] == size else resize_frame(frame, *size, fit)


def _save(path: Path, array: Pixels) -> None:
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        np.save(file, array)
    part.replace(path)
