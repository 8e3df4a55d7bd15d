"""Detail that a codec, or a smaller size, has lost: carried over from known frames where nothing changes."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from vdp.data.stores.clips import Pixels

ALIKE = 8.0  # of 255: frames that differ by as much show something else
UNTOUCHED = 3.0  # of 255: surroundings that restoring has changed by as much had something to restore
NOISY = 4.0  # of 255: where half of a frame's pixels lose as much in the codec, it is noise that is lost
AROUND = 21  # pixels a side of the surroundings, where noise shows even if it spares a pixel


def with_detail(made: Pixels, known: Pixels, seen: Pixels, weight: NDArray[np.float64]) -> Pixels:
    """Made frames with the detail of known ones, wherever they show the same as these do.

    A codec blurs a background that stands still, and every made frame with it, though the known frame beside
    it has the background as it is. So what the codec lost of that frame is added, by how much alike the made
    frame and the known one are after it.

    Args:
        made: (F, H, W, 3) uint8.
        known: the K known frames around them, (K, H, W, 3) uint8.
        seen: the same as the codec gives them back, (K, H, W, 3) uint8.
        weight: of each known frame for each made one, such as its nearness in time, (F, K), 0 or more.

    Returns:
        (F, H, W, 3) uint8; a made frame that equals `seen[k]`, the only one with weight, becomes `known[k]`.
    """
    lost = known.astype(np.float32) - seen
    frames = [_one(frame, lost, seen, row) for frame, row in zip(made, weight, strict=True)]
    return np.stack(frames)


def with_own_detail(made: Pixels, given: Pixels, seen: Pixels) -> Pixels:
    """Restored frames with the detail that a codec lost of the given ones, wherever nothing was restored.

    Of a clean frame a codec loses edges, and of a noisy one something everywhere: that stays lost, even where
    the noise is so weak that codec and restoring agree.

    Args:
        made: what the given frames were restored to, (F, H, W, 3) uint8.
        given: (F, H, W, 3) uint8.
        seen: the same as the codec gives them back, (F, H, W, 3) uint8.

    Returns:
        (F, H, W, 3) uint8; clean frames that restoring has left as `seen` become `given`.
    """
    frames = []
    for frame, whole, shown in zip(made, given, seen, strict=True):
        changed = cv2.blur(_difference(frame, shown), (AROUND, AROUND), borderType=cv2.BORDER_REFLECT)
        untouched = np.exp(-np.square(changed[..., None] / UNTOUCHED))
        clean = np.exp(-((np.median(_difference(whole, shown)) / NOISY) ** 4))
        frames.append(_pixels(frame + clean * untouched * (whole.astype(np.float32) - shown)))
    return np.stack(frames)


def _one(frame: Pixels, lost: NDArray[np.float32], seen: Pixels, weight: Sequence[float]) -> Pixels:
    """`with_detail` of one frame (H, W, 3)."""
    most = np.zeros((*frame.shape[:2], 1), np.float32)
    total, detail = np.full_like(most, 1e-6), np.zeros(frame.shape, np.float32)
    for change, shown, share in zip(lost, seen, weight, strict=True):
        alike = np.exp(-np.square(_difference(frame, shown)[..., None] / ALIKE))
        most = np.maximum(most, alike if share > 0 else 0)
        total += share * alike
        detail += share * alike * change
    return _pixels(frame + most * detail / total)


def _difference(frame: Pixels, other: Pixels) -> NDArray[np.float32]:
    """How much two frames (H, W, 3) differ at each position, in the channel where they do most, (H, W)."""
    return np.abs(frame.astype(np.float32) - other).max(axis=-1)


def _pixels(frame: NDArray[np.floating]) -> Pixels:
    return np.clip(np.rint(frame), 0, 255).astype(np.uint8)
