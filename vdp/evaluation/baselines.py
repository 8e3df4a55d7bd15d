"""Predictions without a network, the bar that a model has to clear: each object's mask is moved on as it was.

Every object of the last known mask keeps its shape and moves with the velocity of its class's centroid (a
class occurs once in a clip, so a class is an object). Velocity is measured over the last 3 known frames (9 to
11 of 11), or the last 2 for an object not yet seen in the first of these; an object seen in the last one only
stays. Objects hidden in the last known frame are not brought back. Where moved objects meet, the one whose
lowest point is lower in the picture is nearer to a camera that looks down, and lies on top.
"""

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint8]

BASE = 2  # frames over which velocity is measured


def copy_last(known: Mask) -> Mask:
    """The last known mask as the answer. `known` is (K, H, W), the answer (H, W)."""
    return known[-1]


def constant_velocity(known: Mask, steps: int) -> Mask:
    """Objects move on at the velocity they had.

    Args:
        known: class ids of the known frames, (K, H, W).
        steps: frames from the last known one to the answer.

    Returns:
        Class ids, (H, W).
    """
    return decayed_velocity(known, steps, decay=1.0)


def decayed_velocity(known: Mask, steps: int, decay: float) -> Mask:
    """Objects slow down: the k-th step is `decay ** k` of the velocity they had.

    Args:
        known: class ids of the known frames, (K, H, W).
        steps: frames from the last known one to the answer.
        decay: share of the velocity that is left after each step, 0 (a copy) to 1 (constant velocity).

    Returns:
        Class ids, (H, W). A moved object is rounded to whole pixels and cut off at the picture's edge.
    """
    reach = sum(decay**k for k in range(1, steps + 1))
    moved: list[tuple[int, int, NDArray[np.int64], NDArray[np.int64]]] = []
    for label in np.unique(known[-1]):
        if label == 0:
            continue
        rows, columns = np.nonzero(known[-1] == label)
        down, right = np.rint(_velocity(known, int(label)) * reach).astype(np.int64)
        moved.append((int(rows.max() + down), int(label), rows + down, columns + right))

    answer = np.zeros_like(known[-1])
    height, width = answer.shape
    for _, label, rows, columns in sorted(moved, key=lambda item: item[:2]):  # far to near
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        answer[rows[inside], columns[inside]] = label
    return answer


def _velocity(known: Mask, label: int) -> NDArray[np.float64]:
    """Pixels a frame, (down, right), from the earliest of the last `BASE` + 1 frames that shows the class."""
    now = _centroid(known[-1], label)
    for back in range(min(BASE, len(known) - 1), 0, -1):
        if (known[-1 - back] == label).any():
            return (now - _centroid(known[-1 - back], label)) / back
    return np.zeros(2)


def _centroid(mask: Mask, label: int) -> NDArray[np.float64]:
    return np.argwhere(mask == label).mean(0)
