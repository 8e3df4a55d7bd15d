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

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")
# a header that counts more frames than these of 1 decode is reported: counts are often 1 or 2 off
HONEST = 0.95


def decode_frames(path: Path, pace: Pace, exactly: int | None = None) -> Iterator[tuple[int, Pixels]]:
    """Number and pixels, (H, W, 3) uint8 RGB, of the frames that `pace` takes.

    The file is decoded to its end whatever is taken; frames between are not converted. A picture that was
    filmed on its side is turned upright where the file says so.

    Args:
        path: the video file.
        pace: which frames are taken.
        exactly: frames that a whole file has. None where any number will do: of a file that breaks off early
            what decodes is given, and a line on stderr.

    Raises:
        ValueError: if it is no file, nothing decodes, or not `exactly` as many frames as that, or the pace
            does not fit; names the file.
        OSError: if there is no such file.
    """
    with _opened(path) as video:
        decoded = 0
        if video.isOpened():  # a file that is no video states no rate either: it must not be told of its rate
            wanted = pace.numbers(_stated_rate(video), str(path))
            number = next(wanted)
            while video.grab():
                if decoded == number:
                    ok, frame = video.retrieve()
                    if not ok:
                        break
                    pixels = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, dst=frame)
                    yield number, pixels.astype(np.uint8, copy=False)
                    number = next(wanted)
                decoded += 1
        if not decoded:
            raise ValueError(f"{path}: not a readable video; convert it to mp4 (H.264) or remove it")
        if exactly is not None and decoded != exactly:
            raise ValueError(
                f"{path}: {decoded} frames decode, expected {exactly}; download it again or remove it"
            )
        promised = _promised(video)
        if decoded < HONEST * promised:
            name = printable(str(path))
            sys.stderr.write(f"{name}: the header says {promised} frames, {decoded} decode; these are used\n")


def count_frames(path: Path) -> int:
    """Frames that the header of a file counts; 0 where it does not say."""
    with _opened(path) as video:
        return _promised(video)


def frame_rate(path: Path) -> float:
    """Frames per second that the header of a file states; 0 where it does not say."""
    with _opened(path) as video:
        return _stated_rate(video)


def _stated_rate(video: cv2.VideoCapture) -> float:
    rate = float(video.get(cv2.CAP_PROP_FPS))
    return rate if 0 < rate < math.inf else 0.0


def _promised(video: cv2.VideoCapture) -> int:
    return max(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 0)


@contextmanager
def _opened(path: Path) -> Iterator[cv2.VideoCapture]:
    if not stat.S_ISREG(path.stat().st_mode):  # stat: OpenCV does not say why; a pipe would be waited for
        raise ValueError(f"{path}: not a file; replace it by a video or remove it")
    # bytes: OpenCV crashes on a str that is not valid text; absolute: FFmpeg takes `a:b.mp4` for a URL
    name = os.fsencode(path.absolute())
    # one thread for each file: several files decode at once, which is faster than several threads for one
    one_thread = [cv2.CAP_PROP_N_THREADS, 1]
    video = cv2.VideoCapture(name, cv2.CAP_FFMPEG, one_thread)  # type: ignore[call-overload]
    try:
        yield video
    finally:
        video.release()
