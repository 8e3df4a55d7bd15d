"""States of the objects of a clip, measured from its label maps: place, size, visibility.

Shapes: N objects, T frames of H x W pixels, F = len(FEATURES).
"""

import numpy as np
from numpy.typing import NDArray

from vdp.core.objects import AREA, CUT, FEATURES, HEIGHT, SEEN, WIDTH, Labels, States, X, Y

MIN_PIXELS = 3  # of a visible object: the centroid of fewer is not a place


def object_states(labels: Labels, count: int) -> States:
    """Measure the objects of a clip.

    Args:
        labels: (T, H, W), the number of the object at each pixel, 1..count; 0 is the background.
        count: N.

    Returns:
        (N, T, F) float32: x and y of the centroid (right and down), whether the object is visible, width and
        height of its box, whether the frame's border cuts it, and its area in squared frame heights. All zero
        where it is not visible.
    """
    frames, height, width = labels.shape
    states = np.zeros((count * frames, len(FEATURES)))
    frame, row, column = np.nonzero(labels)
    key = (labels[frame, row, column].astype(np.int64) - 1) * frames + frame

    def total(values: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        return np.bincount(key, values, minlength=count * frames).astype(np.float64)

    def extent(values: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        low, high = np.full(count * frames, size), np.full(count * frames, -1)
        np.minimum.at(low, key, values)
        np.maximum.at(high, key, values)
        return low, high

    pixels = total()
    seen = pixels >= MIN_PIXELS
    divisor = np.maximum(pixels, 1)
    left, right = extent(column, width)
    top, bottom = extent(row, height)
    states[:, X] = (total(column) / divisor + 0.5 - width / 2) / height
    states[:, Y] = (total(row) / divisor + 0.5 - height / 2) / height
    states[:, SEEN] = 1
    states[:, WIDTH] = (right - left + 1) / height
    states[:, HEIGHT] = (bottom - top + 1) / height
    states[:, CUT] = (left == 0) | (right == width - 1) | (top == 0) | (bottom == height - 1)
    states[:, AREA] = pixels / height**2
    states[~seen] = 0
    return states.reshape(count, frames, len(FEATURES)).astype(np.float32)


def class_labels(masks: NDArray[np.uint8]) -> tuple[Labels, NDArray[np.uint8]]:
    """Number the objects of class masks (T, H, W), where a class is an object; labels and classes (N,)."""
    classes = np.unique(masks)
    classes = classes[classes > 0]
    numbers = np.zeros(256, np.uint8)
    numbers[classes] = np.arange(1, len(classes) + 1)
    return numbers[masks], classes.astype(np.uint8)


def class_masks(labels: Labels, classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Invert `class_labels`: object numbers (T, H, W) and class ids (N,) to class masks (T, H, W)."""
    return np.concatenate([[0], classes]).astype(np.uint8)[labels]
