"""Clips as GIF files, which any browser shows: OpenCV, RGB uint8."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


def encode_gif(frames: Sequence[Picture], fps: float) -> bytes:
    """Frames as a GIF that is played for ever; equal frames give equal bytes.

    Args:
        frames: (H, W, 3) each, of one size.
        fps: frames per second; a GIF counts in hundredths of a second, so up to 100.

    Raises:
        ValueError: if there are no frames, or they are of several sizes.
    """
    if not len(frames) or len({frame.shape for frame in frames}) > 1:
        raise ValueError(f"frames: expected some of one size, got {sorted({f.shape for f in frames})}")
    film = cv2.Animation()
    film.frames = [cv2.cvtColor(frame, cv2.COLOR_RGB2BGR) for frame in frames]
    film.durations = np.full(len(frames), round(1000 / fps))  # milliseconds
    film.loop_count = 0  # without end
    # the other dithers of OpenCV lose twenty decibels
    ok, data = cv2.imencodeanimation(".gif", film, [cv2.IMWRITE_GIF_DITHER, 3])
    if not ok:
        raise RuntimeError("OpenCV cannot write .gif files on this machine")
    return data.tobytes()
