"""Decode one clip file: a video, an animation, a stack of pictures or an array."""

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

import av
import cv2

from vdp.data.sources.protocols import Pace
from vdp.data.stores.clips import Pixels
from vdp.data.video.clip_frames import ClipFrame, ClipFrames, Measured
from vdp.data.video.container import indexed_frames, measure_stream, stream_frames, unreadable
from vdp.data.video.picture import HEAD, TIFF_MAGIC, is_animated_webp
from vdp.data.video.stacks import (
    array_frames,
    measure_array,
    measure_tiff,
    measure_webp,
    tiff_frames,
    webp_frames,
)

ARRAYS = (".npy", ".npz")
MASKS = ("mask.npy", "masks.npy")  # class ids beside frames; no clips


def quiet_decoder() -> None:
    """Use one thread per process and silence OpenCV and FFmpeg: the project reports a bad file by name."""
    av.logging.set_level(None)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    cv2.setNumThreads(1)


def decode_frames(path: Path, pace: Pace, exactly: int | None = None) -> Iterator[tuple[int, Pixels]]:
    """Yield number and pixels, (H, W, 3) uint8 RGB, of the frames that `pace` selects.

    The file is decoded to its end; frames that are not selected are not converted. Rotation and pixel aspect
    are applied. With `pace.fps` the frames are chosen by their times.

    Args:
        path: a video file of any format that FFmpeg decodes, a TIFF, WebP, PNG or GIF of several frames, or
            an array (.npy, .npz) of frames (T, H, W, 3) or (T, H, W).
        pace: selects the frames.
        exactly: number of frames of a whole file; None accepts any. A file that breaks off then yields the
            frames that decode, and a line on stderr.

    Raises:
        ValueError: if it is no such file, nothing or another number of frames than `exactly` decodes, or the
            pace does not fit; names the file.
        OSError: if there is no such file.
    """
    if pace.fps is not None and (measured := _measure(path)).frames:
        pace = pace.within(measured.rate, str(path))
    with closing(clip_frames(path)) as frames:
        every = frames if exactly is None else _require(frames, exactly, path)
        for frame in pace.select(every, _time):
            yield frame.number, frame.read()


def clip_frames(path: Path) -> ClipFrames:
    """Yield all frames of a clip file with their times; a frame is converted where it is read.

    Frames of TIFF pages and arrays, which have no times, are a second apart.

    Raises:
        ValueError, OSError: as `decode_frames`.
    """
    with closing(_reader(path).frames(path)) as frames:
        first = next(frames, None)
        if first is None:
            raise unreadable(path)
        yield first
        yield from frames


def count_frames(path: Path) -> int:
    """Number of frames in a clip file, counted without decoding; of a long video an estimate, 0 if unknown.

    Headers of videos are not trusted.
    """
    with suppress(ValueError):  # reported when it is read
        return _measure(path).frames
    return 0


def estimate_frames(path: Path) -> int:
    """As `count_frames`, at once where a file has an index; for what no result depends on."""
    with suppress(ValueError):
        return (_reader(path) is VIDEO and indexed_frames(path)) or _measure(path).frames
    return 0


def frame_rate(path: Path) -> float:
    """Frames per second of a clip file by the times of its frames; 0 where it has none."""
    with suppress(ValueError):
        return _measure(path).rate
    return 0.0


class _Reader(NamedTuple):
    frames: Callable[[Path], ClipFrames]
    measure: Callable[[Path], Measured]


VIDEO = _Reader(stream_frames, measure_stream)
ARRAY = _Reader(array_frames, measure_array)
TIFF = _Reader(tiff_frames, measure_tiff)
WEBP = _Reader(webp_frames, measure_webp)


def _reader(path: Path) -> _Reader:
    """Choose the reader by the first bytes of a file."""
    if not S_ISREG(path.stat().st_mode):  # a pipe would block
        raise ValueError(f"{path}: not a file; replace it by a video or remove it")
    if path.suffix.lower() in ARRAYS:
        return ARRAY
    with path.open("rb") as file:
        head = file.read(HEAD)
    if head.startswith(TIFF_MAGIC):
        return TIFF
    return WEBP if is_animated_webp(head) else VIDEO


def _measure(path: Path) -> Measured:
    status = path.stat()
    return _measure_once(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=16)
def _measure_once(path: Path, changed: int, size: int) -> Measured:
    return _reader(path).measure(path)


def _require(frames: ClipFrames, exactly: int, path: Path) -> ClipFrames:
    """Yield frames, and raise a ValueError at the end if there is another number of them."""
    count = 0
    for frame in frames:
        count += 1
        yield frame
    if count != exactly:
        raise ValueError(f"{path}: {count} frames decode, expected {exactly}; download it again or remove it")


def _time(frame: ClipFrame) -> float:
    return frame.time
