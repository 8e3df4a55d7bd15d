"""Fit frames of any size into a network's size and back, at a constant aspect ratio."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from vdp.data.stores.clips import Pixels
from vdp.data.video.resize import resize_image

MAX_PIXELS = 2**21  # of a frame processed at its full size: 1920x1080 needs 4.4 GB of memory


@dataclass(frozen=True)
class Letterbox:
    """Resize frames into the middle of a network's frame, and its outputs back.

    Methods raise a ValueError for frames of another shape, and return those of equal sizes unchanged.
    """

    rows: int  # height of the input frames in pixels, at least 1
    columns: int  # their width
    height: int  # height of the network's frames in pixels
    width: int  # their width

    @property
    def inner(self) -> tuple[int, int, int, int]:
        """Top, left, height and width in pixels of the picture within the network's frame."""
        scale = min(self.height / self.rows, self.width / self.columns)
        height = min(self.height, max(1, round(self.rows * scale)))  # a very thin picture keeps a pixel
        width = min(self.width, max(1, round(self.columns * scale)))
        return (self.height - height) // 2, (self.width - width) // 2, height, width

    def fit(self, frames: Pixels) -> Pixels:
        """Fit frames (..., rows, columns, 3) uint8 into the network's, (..., height, width, 3).

        The bars repeat the edge of the picture, so that they add no new edge.
        """
        self._check(frames, (self.rows, self.columns, 3))
        if self._same_size:
            return frames
        top, left, height, width = self.inner
        below, right = self.height - top - height, self.width - left - width

        def fit_one(frame: Pixels) -> Pixels:
            small = _resize(frame, height, width)
            return np.pad(small, ((top, below), (left, right), (0, 0)), mode="edge")

        return _map_frames(frames, fit_one, (self.height, self.width, 3))

    def restore(self, frames: Pixels) -> Pixels:
        """Invert `fit`: (..., height, width, 3) uint8 -> (..., rows, columns, 3)."""
        self._check(frames, (self.height, self.width, 3))
        if self._same_size:
            return frames
        rows, columns = self._inner_slices()
        return _map_frames(
            frames[..., rows, columns, :],
            lambda frame: _resize(frame, self.rows, self.columns),
            (self.rows, self.columns, 3),
        )

    def restore_masks(self, masks: Pixels) -> Pixels:
        """Bring class ids (..., height, width) uint8 to (..., rows, columns); no new class appears."""
        self._check(masks, (self.height, self.width))
        if self._same_size:
            return masks
        rows, columns = self._inner_slices()
        return _map_frames(
            masks[..., rows, columns],
            # plain INTER_NEAREST takes the top left of each area, half a pixel off the frames
            lambda mask: resize_image(mask, self.rows, self.columns, cv2.INTER_NEAREST_EXACT),
            (self.rows, self.columns),
        )

    @property
    def _same_size(self) -> bool:
        return (self.rows, self.columns) == (self.height, self.width)

    def _inner_slices(self) -> tuple[slice, slice]:
        top, left, height, width = self.inner
        return slice(top, top + height), slice(left, left + width)

    def _check(self, frames: Pixels, shape: tuple[int, ...]) -> None:
        if frames.dtype != np.uint8 or frames.shape[-len(shape) :] != shape:
            raise ValueError(
                f"frames: expected uint8 (..., {', '.join(map(str, shape))}), got {frames.dtype} "
                f"{frames.shape}; make a Letterbox for their size"
            )


def exceeds(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether a size, rows and columns, is larger than another in either direction."""
    return size[0] > other[0] or size[1] > other[1]


def _resize(frame: Pixels, height: int, width: int) -> Pixels:
    """Resize one frame (H, W, 3): area means where it gets smaller, else a cubic spline."""
    smaller = height <= frame.shape[0] and width <= frame.shape[1]
    return resize_image(frame, height, width, cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def _map_frames(frames: Pixels, function: Callable[[Pixels], Pixels], shape: tuple[int, ...]) -> Pixels:
    """Apply a function with results of `shape` to each frame; any leading axes."""
    leading = frames.shape[: frames.ndim - len(shape)]
    flat = frames.reshape(-1, *frames.shape[frames.ndim - len(shape) :])
    result = np.empty((len(flat), *shape), np.uint8)
    for index, frame in enumerate(flat):
        result[index] = function(frame)
    return result.reshape(*leading, *shape)
