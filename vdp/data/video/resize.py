"""Resize frames (area mean) and masks (nearest)."""

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Fit = Literal["crop", "stretch"]


def resize_frame(frame: NDArray[np.uint8], height: int, width: int, fit: Fit) -> NDArray[np.uint8]:
    """Resize one uint8 frame (H, W, 3); each new pixel is the mean of the area it covers.

    `fit` is 'crop' to cut the longer side, centred, to the new aspect ratio, or 'stretch' to distort.
    """
    return _fit(frame, height, width, fit, cv2.INTER_AREA)


def resize_mask(mask: NDArray[np.uint8], height: int, width: int, fit: Fit) -> NDArray[np.uint8]:
    """Resize one mask (H, W); each new pixel takes the class at its centre, so no new class appears."""
    # plain INTER_NEAREST takes the top left of each area, half a pixel off the area mean of the frame
    return _fit(mask, height, width, fit, cv2.INTER_NEAREST_EXACT)


def resize_image(image: NDArray[np.uint8], height: int, width: int, interpolation: int) -> NDArray[np.uint8]:
    """`cv2.resize` of a uint8 image (H, W) or (H, W, 3) in any memory layout."""
    image = np.ascontiguousarray(image)
    return cv2.resize(image, (width, height), interpolation=interpolation).astype(np.uint8, copy=False)


def _fit(
    image: NDArray[np.uint8], height: int, width: int, fit: Fit, interpolation: int
) -> NDArray[np.uint8]:
    if fit == "crop":
        image = _crop_to_ratio(image, height, width)
    if image.shape[:2] == (height, width):
        return image
    return resize_image(image, height, width, interpolation)


def _crop_to_ratio(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    rows, columns = image.shape[:2]
    keep_rows = min(rows, max(1, round(columns * height / width)))
    keep_columns = min(columns, max(1, round(rows * width / height)))
    top, left = (rows - keep_rows) // 2, (columns - keep_columns) // 2
    return image[top : top + keep_rows, left : left + keep_columns]
