"""Square crops of frames around objects."""

import cv2
import numpy as np
from numpy.typing import NDArray

from vdp.data.stores.clips import Pixels


def crop_side(scale: float, height: int) -> int:
    """Side of a crop in pixels of a frame; `scale` is a fraction of the frame's height."""
    return max(2, round(scale * height))


def crop_frame(frame: Pixels, row: float, column: float, side: int, size: int) -> Pixels:
    """Cut a square of `side` pixels around a point and resize it: (H, W, 3) -> (size, size, 3).

    Beyond the border the nearest pixel of the frame is repeated.
    """
    crop = frame[_window(frame, row, column, side)]
    return _resize(crop, size, cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)


def crop_mask(mask: Pixels, row: float, column: float, side: int, size: int) -> Pixels:
    """The crop of `crop_frame` of class ids, (H, W) -> (size, size)."""
    return _resize(mask[_window(mask, row, column, side)], size, cv2.INTER_NEAREST)


def _resize(crop: Pixels, size: int, interpolation: int) -> Pixels:
    if len(crop) == size:
        return crop
    return cv2.resize(crop, (size, size), interpolation=interpolation).astype(np.uint8, copy=False)


def _window(
    frame: Pixels, row: float, column: float, side: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the pixels of a crop."""
    top, left = round(row - side / 2 + 0.5), round(column - side / 2 + 0.5)
    rows = np.arange(top, top + side).clip(0, frame.shape[0] - 1)
    columns = np.arange(left, left + side).clip(0, frame.shape[1] - 1)
    return rows[:, None], columns
