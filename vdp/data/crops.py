"""Square crops of frames around objects."""

import cv2
import numpy as np

from vdp.data.stores.clips import Pixels


def crop_side(scale: float, height: int) -> int:
    """Side of a crop in pixels of a frame; `scale` is a fraction of the frame's height."""
    return max(2, round(scale * height))


def crop_frame(frame: Pixels, row: float, column: float, side: int, size: int) -> Pixels:
    """Cut a square of `side` pixels around a point and resize it: (H, W, 3) -> (size, size, 3).

    Beyond the border the nearest pixel of the frame is repeated.
    """
    top, left = round(row - side / 2 + 0.5), round(column - side / 2 + 0.5)
    rows = np.arange(top, top + side).clip(0, frame.shape[0] - 1)
    columns = np.arange(left, left + side).clip(0, frame.shape[1] - 1)
    crop = frame[rows[:, None], columns]
    if side == size:
        return crop
    return cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)
