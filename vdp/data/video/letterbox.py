"""Frames of any size at a network's size and back, the aspect kept: pure functions of numpy and OpenCV."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from vdp.data.stores.clips import Pixels

MOST_PIXELS = 2**21  # of a frame that is worked on at its own size: memory for 1920x1080 is 4.4 GB


@dataclass(frozen=True)
class Letterbox:
    """A user's frames, resized into the middle of a network's, and what a network makes, back at their size.

    Attributes:
        rows: height of the user's frames in pixels, at least 1.
        columns: their width in pixels.
        height: height of the network's frames in pixels.
        width: their width in pixels.
    """

    rows: int
    columns: int
    height: int
    width: int

    @property
    def inner(self) -> tuple[int, int, int, int]:
        """Top, left, height and width in pixels of the user's picture within the network's frame."""
        scale = min(self.height / self.rows, self.width / self.columns)
        height = min(self.height, max(1, round(self.rows * scale)))  # a very thin picture keeps a pixel
        width = min(self.width, max(1, round(self.columns * scale)))
        return (self.height - height) // 2, (self.width - width) // 2, height, width

    def put(self, frames: Pixels) -> Pixels:
        """Frames (..., rows, columns, 3) uint8 as the network's, (..., height, width, 3).

        The bars beside the picture repeat its edge, so that no edge appears that was not filmed. Frames that
        have the network's size are given back as they are.

        Raises:
            ValueError: if the frames have another shape.
        """
        self._check(frames, (self.rows, self.columns, 3))
        if (self.rows, self.columns) == (self.height, self.width):
            return frames
        top, left, height, width = self.inner
        below, right = self.height - top - height, self.width - left - width

        def one(frame: Pixels) -> Pixels:
            small = _resize(frame, height, width)
            return np.pad(small, ((top, below), (left, right), (0, 0)), mode="edge")

        return _each(frames, one, (self.height, self.width, 3))

    def take(self, frames: Pixels) -> Pixels:
        """Inverse of `put`: (..., height, width, 3) uint8 as the user's, (..., rows, columns, 3).

        Raises:
            ValueError: if the frames have another shape.
        """
        self._check(frames, (self.height, self.width, 3))
        if (self.rows, self.columns) == (self.height, self.width):
            return frames
        return _each(self._cut(frames, 3), self._enlarged, (self.rows, self.columns, 3))

    def take_masks(self, masks: Pixels) -> Pixels:
        """Class ids (..., height, width) uint8 as the user's, (..., rows, columns); no new class appears.

        Raises:
            ValueError: if the masks have another shape.
        """
        self._check(masks, (self.height, self.width))
        if (self.rows, self.columns) == (self.height, self.width):
            return masks
        return _each(self._cut(masks, 2), self._nearest, (self.rows, self.columns))

    def _check(self, frames: Pixels, shape: tuple[int, ...]) -> None:
        if frames.dtype != np.uint8 or frames.shape[-len(shape) :] != shape:
            raise ValueError(
                f"frames: expected uint8 (..., {', '.join(map(str, shape))}), got {frames.dtype} "
                f"{frames.shape}; make a Letterbox for their size"
            )

    def _cut(self, frames: Pixels, axes: int) -> Pixels:
        top, left, height, width = self.inner
        rows, columns = slice(top, top + height), slice(left, left + width)
        return frames[..., rows, columns, :] if axes == 3 else frames[..., rows, columns]

    def _enlarged(self, frame: Pixels) -> Pixels:
        return _resize(frame, self.rows, self.columns)

    def _nearest(self, mask: Pixels) -> Pixels:
        # plain INTER_NEAREST takes the top left of each area, half a pixel off the frames
        how = cv2.INTER_NEAREST_EXACT
        return cv2.resize(np.ascontiguousarray(mask), (self.columns, self.rows), interpolation=how).astype(
            np.uint8, copy=False
        )


def exceeds(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether frames of one size, rows and columns, do not fit into those of another as they are."""
    return size[0] > other[0] or size[1] > other[1]


def _resize(frame: Pixels, height: int, width: int) -> Pixels:
    """One frame (H, W, 3): the mean of what each pixel covers where it gets smaller, else a cubic spline."""
    smaller = height <= frame.shape[0] and width <= frame.shape[1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(frame), (width, height), interpolation=how).astype(
        np.uint8, copy=False
    )


def _each(frames: Pixels, one: Callable[[Pixels], Pixels], shape: tuple[int, ...]) -> Pixels:
    """`one` of each frame, whatever axes are before those of a frame."""
    before = frames.shape[: frames.ndim - len(shape)]
    flat = frames.reshape(-1, *frames.shape[frames.ndim - len(shape) :])
    made = np.empty((len(flat), *shape), np.uint8)
    for place, frame in enumerate(flat):
        made[place] = one(frame)
    return made.reshape(*before, *shape)
