"""Scale the levels of pictures with more than 8 bits to 8, the same for all pictures of a video."""

import math
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from vdp.data.stores.clips import Pixels

Picture = NDArray[np.generic]  # (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); integers or floats


class Levels:
    """Converts the pictures of one video to (H, W, 3) uint8.

    8-bit pictures stay as they are. Deeper integers keep the upper 8 of the bits that the video uses: a
    10-bit camera may write files of 16 bits. Floats up to 1 are scaled by 255, larger ones by 255 over the
    maximum of the video. Gray is repeated, transparency dropped.
    """

    def __init__(self, pictures: Callable[[], Iterable[Picture]], name: str) -> None:
        """`pictures` reads all of them again, where the first deep one is converted; `name` is for
        messages.
        """
        self.pictures, self.name = pictures, name
        self.white: float | None = None  # largest level of deep pictures

    def convert(self, picture: Picture) -> Pixels:
        """Convert one picture.

        Raises:
            ValueError: if its type is not supported, or a level is below 0 or not finite.
        """
        if picture.dtype == np.uint8:
            return to_rgb(picture.astype(np.uint8, copy=False))
        if self.white is None:
            self.white = max((self._top(other) for other in self._deep()), default=0.0)
        white = max(self.white, self._top(picture))
        if picture.dtype.kind == "f":
            scale = 255 / white if white > 1 else 255.0
            return to_rgb(np.rint(picture.astype(np.float32) * np.float32(scale)).astype(np.uint8))
        shift = max(int(white).bit_length() - 8, 0)
        return to_rgb((picture.astype(np.int64) >> shift).astype(np.uint8))

    def _deep(self) -> Iterable[Picture]:
        """Yield the deep pictures up to one that uses the highest bit of its type."""
        for picture in self.pictures():
            if picture.dtype != np.uint8:
                yield picture
                if picture.dtype.kind == "u" and int(picture.max()).bit_length() == 8 * picture.itemsize:
                    return

    def _top(self, picture: Picture) -> float:
        if picture.dtype.kind not in "uif":
            raise ValueError(f"{self.name}: expected pictures of integers or floats, got {picture.dtype}")
        low, high = float(picture.min()), float(picture.max())
        if not (low >= 0 and math.isfinite(high)):  # also NaN
            raise ValueError(
                f"{self.name}: levels from {low:g} to {high:g}; expected 0 or more; shift them or save 8 bits"
            )
        return high


def to_rgb(picture: Pixels) -> Pixels:
    """Repeat gray, drop transparency: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) to (H, W, 3)."""
    if picture.ndim == 2:
        picture = picture[..., None]
    return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else np.ascontiguousarray(picture[..., :3])
