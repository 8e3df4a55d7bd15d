"""Mask baselines without a network: each object of the last context mask is copied or moved on.

A class occurs once in a clip, so a class is an object; it keeps its shape and moves with the velocity of its
centroid over the last 3 context frames, or over the last 2 if it is absent from the third last; one that is
only in the last frame stays. Objects hidden in the last context frame are not restored. Where moved
objects overlap, the one that reaches lower in the picture is nearer to the camera and is drawn on top.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vdp.core.classes import NUM_CLASSES
from vdp.evaluation.mask import confusion_matrix, jaccard

Mask = NDArray[np.uint8]

BASE = 2  # frames over which velocity is measured
DECAYS = tuple(k / 20 for k in range(10, 21))  # candidates: 0.5, 0.55, ..., 1.0
DEFAULT_DECAY = 0.9  # without clips to choose it on


@dataclass(frozen=True)
class Decay:
    """Decay of `decayed_velocity`, and the number of clips it was chosen on: 0 for `DEFAULT_DECAY`."""

    value: float
    clips: int


def copy_last(context: Mask) -> Mask:
    """Return the last context mask, (K, H, W) -> (H, W)."""
    return context[-1]


def constant_velocity(context: Mask, steps: int) -> Mask:
    """`decayed_velocity` without decay."""
    return decayed_velocity(context, steps, decay=1.0)


def decayed_velocity(context: Mask, steps: int, decay: float) -> Mask:
    """Move each object on with a velocity that decays: step k moves it by `decay ** k` of the measured one.

    Args:
        context: class ids of the context frames, (K, H, W).
        steps: frames from the last context frame to the target.
        decay: 0 (copy) to 1 (constant velocity).

    Returns:
        Class ids, (H, W). Displacements are rounded to whole pixels; objects are cut at the picture's border.
    """
    reach = sum(decay**k for k in range(1, steps + 1))
    moved: list[tuple[int, int, NDArray[np.int64], NDArray[np.int64]]] = []
    for label in np.unique(context[-1]):
        if label == 0:
            continue
        rows, columns = np.nonzero(context[-1] == label)
        down, right = np.rint(_velocity(context, int(label)) * reach).astype(np.int64)
        moved.append((int(rows.max() + down), int(label), rows + down, columns + right))

    target = np.zeros_like(context[-1])
    height, width = target.shape
    for _, label, rows, columns in sorted(moved, key=lambda item: item[:2]):  # far to near
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        target[rows[inside], columns[inside]] = label
    return target


def choose_decay(clips: Iterable[tuple[Mask, Mask]], steps: int) -> Decay:
    """Choose the decay by the Jaccard index of `decayed_velocity`, pooled over clips.

    Args:
        clips: true masks of the context frames, (K, H, W), and of the target, (H, W), of each clip.
        steps: frames from the last context frame to the target.

    Returns:
        The best of `DECAYS`, the lowest of equals; `DEFAULT_DECAY` without clips.
    """
    pooled = {decay: np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64) for decay in DECAYS}
    count = 0
    for context, target in clips:
        count += 1
        for decay, confusion in pooled.items():
            confusion += confusion_matrix(decayed_velocity(context, steps, decay), target)
    if not count:
        return Decay(DEFAULT_DECAY, 0)
    return Decay(max(DECAYS, key=lambda decay: jaccard(pooled[decay])), count)


def _velocity(context: Mask, label: int) -> NDArray[np.float64]:
    """Pixels per frame, (down, right), since the earliest of the last `BASE` + 1 frames with the class."""
    now = _centroid(context[-1], label)
    for back in range(min(BASE, len(context) - 1), 0, -1):
        if (context[-1 - back] == label).any():
            return (now - _centroid(context[-1 - back], label)) / back
    return np.zeros(2)


def _centroid(mask: Mask, label: int) -> NDArray[np.float64]:
    return np.argwhere(mask == label).mean(0)
