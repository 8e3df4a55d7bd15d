"""Transfer detail that a codec, or a smaller size, has lost, from frames that still have it."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from vdp.data.stores.clips import Pixels

SAME_SCALE = 8.0  # of 255: scale of the difference from which on two frames differ in content
RESTORED_SCALE = 3.0  # of 255: scale of the change at which a neighbourhood counts as restored
NOISE_SCALE = 4.0  # of 255: median codec loss of a frame from which on the loss is noise
NEIGHBOURHOOD = 21  # side in pixels, large enough to detect noise at every pixel


def transfer_detail(
    predicted: Pixels, context: Pixels, decoded: Pixels, weight: NDArray[np.float64]
) -> Pixels:
    """Add the codec's loss on context frames to predicted frames where both show the same.

    A codec blurs a static background, which the context frame still has.

    Args:
        predicted: (F, H, W, 3) uint8.
        context: K frames, (K, H, W, 3) uint8.
        decoded: the context frames after a round trip through the codec, (K, H, W, 3) uint8.
        weight: of each context frame for each predicted one, such as its nearness in time, (F, K), >= 0.
    """
    lost = context.astype(np.float32) - decoded
    frames = [_transfer_to(frame, lost, decoded, row) for frame, row in zip(predicted, weight, strict=True)]
    return np.stack(frames)


def keep_detail(restored: Pixels, degraded: Pixels, decoded: Pixels) -> Pixels:
    """Add the codec's loss on degraded frames to restored frames where nothing was restored.

    A codec loses the edges of a clean frame, and detail everywhere in a noisy one; noise is not added back.

    Args:
        restored: (F, H, W, 3) uint8.
        degraded: the input frames, (F, H, W, 3) uint8.
        decoded: the input frames after a round trip through the codec, (F, H, W, 3) uint8.
    """
    frames = []
    for frame, source, reconstructed in zip(restored, degraded, decoded, strict=True):
        size = (NEIGHBOURHOOD, NEIGHBOURHOOD)
        changed = cv2.blur(_difference(frame, reconstructed), size, borderType=cv2.BORDER_REFLECT)
        unchanged = np.exp(-np.square(changed[..., None] / RESTORED_SCALE))
        clean = np.exp(-((np.median(_difference(source, reconstructed)) / NOISE_SCALE) ** 4))
        frames.append(_to_pixels(frame + clean * unchanged * (source.astype(np.float32) - reconstructed)))
    return np.stack(frames)


def _transfer_to(
    frame: Pixels, lost: NDArray[np.float32], decoded: Pixels, weight: Sequence[float]
) -> Pixels:
    """`transfer_detail` to one frame (H, W, 3)."""
    largest = np.zeros((*frame.shape[:2], 1), np.float32)
    total, detail = np.full_like(largest, 1e-6), np.zeros(frame.shape, np.float32)
    for change, reconstructed, share in zip(lost, decoded, weight, strict=True):
        similarity = np.exp(-np.square(_difference(frame, reconstructed)[..., None] / SAME_SCALE))
        largest = np.maximum(largest, similarity if share > 0 else 0)
        total += share * similarity
        detail += share * similarity * change
    return _to_pixels(frame + largest * detail / total)


def _difference(frame: Pixels, other: Pixels) -> NDArray[np.float32]:
    """Largest difference over the channels of two frames (H, W, 3), (H, W)."""
    return np.abs(frame.astype(np.float32) - other).max(axis=-1)


def _to_pixels(frame: NDArray[np.floating]) -> Pixels:
    return np.clip(np.rint(frame), 0, 255).astype(np.uint8)
