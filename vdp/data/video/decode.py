"""Decode one video file."""

import math
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from vdp.core.errors import printable
from vdp.data.sources.protocols import Pace
from vdp.data.stores.clips import Pixels

MIN_DECODED_SHARE = (
    0.95  # of the header's frame count; headers are often 1 or 2 off, below this it is reported
)


def quiet_decoder() -> None:
    """Use one thread per process and silence OpenCV: the project reports a bad file by name."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    cv2.setNumThreads(1)


def decode_frames(path: Path, pace: Pace, exactly: int | None = None) -> Iterator[tuple[int, Pixels]]:
    """Yield number and pixels, (H, W, 3) uint8 RGB, of the frames that `pace` selects.

    The file is decoded to its end; frames that are not selected are not converted. Rotation metadata is
    applied.

    Args:
        path: the video file.
        pace: selects the frames.
        exactly: number of frames of a whole file; None accepts any. A file that breaks off then yields the
            frames that decode, and a line on stderr.

    Raises:
        ValueError: if it is no video file, nothing or another number of frames than `exactly` decodes, or the
            pace does not fit; names the file.
        OSError: if there is no such file.
    """
    with _open_video(path) as video:
        decoded = 0
        if video.isOpened():  # a file that is no video is reported below, not by its frame rate
            selected = pace.numbers(_header_rate(video), str(path))
            number = next(selected)
            while video.grab():
                if decoded == number:
                    ok, frame = video.retrieve()
                    if not ok:
                        break
                    pixels = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, dst=frame)
                    yield number, pixels.astype(np.uint8, copy=False)
                    number = next(selected)
                decoded += 1
        if not decoded:
            raise ValueError(f"{path}: not a readable video; convert it to mp4 (H.264) or remove it")
        if exactly is not None and decoded != exactly:
            raise ValueError(
                f"{path}: {decoded} frames decode, expected {exactly}; download it again or remove it"
            )
        total = _header_frames(video)
        if decoded < MIN_DECODED_SHARE * total:
            name = printable(str(path))
            sys.stderr.write(f"{name}: the header counts {total} frames, {decoded} decode; these are used\n")


def count_frames(path: Path) -> int:
    """Frame count of a file's header; 0 where it has none."""
    with _open_video(path) as video:
        return _header_frames(video)


def frame_rate(path: Path) -> float:
    """Frames per second of a file's header; 0 where it has none."""
    with _open_video(path) as video:
        return _header_rate(video)


def _header_rate(video: cv2.VideoCapture) -> float:
    rate = float(video.get(cv2.CAP_PROP_FPS))
    return rate if 0 < rate < math.inf else 0.0


def _header_frames(video: cv2.VideoCapture) -> int:
    return max(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 0)


@contextmanager
def _open_video(path: Path) -> Iterator[cv2.VideoCapture]:
    if not stat.S_ISREG(path.stat().st_mode):  # stat raises the OSError that OpenCV hides; a pipe would block
        raise ValueError(f"{path}: not a file; replace it by a video or remove it")
    # bytes: OpenCV crashes on a str that is not valid text; absolute: FFmpeg takes `a:b.mp4` for a URL
    name = os.fsencode(path.absolute())
    # one thread per file: decoding several files at once is faster than several threads for one
    one_thread = [cv2.CAP_PROP_N_THREADS, 1]
    video = cv2.VideoCapture(name, cv2.CAP_FFMPEG, one_thread)  # type: ignore[call-overload]
    try:
        yield video
    finally:
        video.release()
