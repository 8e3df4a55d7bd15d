"""Source of arrays in memory, or of an object that loads them by index."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vdp.data.sources.messages import joined
from vdp.data.sources.protocols import Frame, Pace
from vdp.data.stores.clips import Pixels

EXPECTED = "uint8, or float in [0, 1], of shape (T, H, W, 3) or (T, H, W)"

Video: TypeAlias = ArrayLike | tuple[ArrayLike, ArrayLike | None] | Mapping[str, ArrayLike | None]


class ArraySource:
    """Videos as arrays or tensors; item `video_00003` is `videos[3]`, loaded when it is read and not kept.

    A video is frames, a tuple (frames, masks), or a mapping with `frames` and optionally `masks` and
    `conditions` (degraded frames). Frames and conditions are uint8 or float in [0, 1], of shape (T, H, W, 3)
    or gray (T, H, W); masks are integer class ids (T, H, W). `videos` is a sequence, or an object with `len`
    and integer indices that loads a video; other processes receive it pickled.
    """

    layout: ClassVar[str] = "a sequence of arrays (T, H, W, 3)"
    precut: ClassVar[bool] = False

    def __init__(self, videos: Sequence[Video]) -> None:
        self.videos = videos

    def items(self) -> list[str]:
        try:
            return [f"video_{index:05d}" for index in range(len(self.videos))]
        except TypeError as error:
            kind = type(self.videos).__name__
            raise ValueError(
                f"videos: expected a sequence of arrays, got type {kind}; pass a list"
            ) from error

    def label(self, item: str) -> str:
        return f"videos[{_index(item)}]"

    def files(self, item: str) -> list[Path]:
        return []

    def count(self, item: str) -> int:
        """Frames of a video in memory; 0 for one that has to be loaded."""
        if not isinstance(self.videos, list | tuple | np.ndarray):
            return 0
        try:
            return len(_check_video(self.videos[_index(item)], self.label(item)).frames)
        except ValueError:  # reported when the video is read
            return 0

    def frames(self, item: str, pace: Pace) -> Iterator[Frame]:
        """As `Source`. Types and shapes are checked before the first frame, levels with each."""
        label = self.label(item)
        try:
            given = self.videos[_index(item)]
        except (LookupError, TypeError) as error:
            raise ValueError(f"{label}: {error!r}; expected indices 0..{len(self.videos) - 1}") from error
        frames, masks, conditions = _check_video(given, label)
        for n in takewhile(lambda n: n < len(frames), pace.numbers(label)):
            pixels = _to_rgb(frames[n], f"{label}.frames[{n}]")
            mask = None if masks is None else masks[n]
            degraded = None if conditions is None else _to_rgb(conditions[n], f"{label}.conditions[{n}]")
            yield Frame(n, pixels, mask, degraded)


class _Video(NamedTuple):
    frames: NDArray[np.generic]
    masks: Pixels | None
    conditions: NDArray[np.generic] | None


def _index(item: str) -> int:
    return int(item.removeprefix("video_"))


def _check_video(video: object, label: str) -> _Video:
    parts: dict[str, object] = {"frames": video}
    if isinstance(video, Mapping):
        parts = dict(video)
    elif isinstance(video, tuple):
        if len(video) != 2:
            raise ValueError(f"{label}: expected a tuple (frames, masks), got {len(video)} values")
        parts = {"frames": video[0], "masks": video[1]}
    if not parts.keys() <= set(_Video._fields) or parts.get("frames") is None:
        raise ValueError(
            f"{label}: expected frames and optionally masks and conditions, got {sorted(map(str, parts))}"
        )
    frames = _check_pictures(parts["frames"], f"{label}.frames")
    masks, conditions, size = parts.get("masks"), parts.get("conditions"), frames.shape[:3]
    return _Video(
        frames,
        None if masks is None else _check_masks(masks, size, f"{label}.masks"),
        None if conditions is None else _check_pictures(conditions, f"{label}.conditions", size),
    )


def _check_pictures(value: object, name: str, size: tuple[int, ...] | None = None) -> NDArray[np.generic]:
    array = _to_array(value, name)
    # three axes with the last of length 3 or 4 are one picture, not a gray video of that width
    shaped = array.shape[3:] == (3,) or (array.ndim == 3 and array.shape[2] not in (3, 4))
    if not shaped or not array.size or not (array.dtype == np.uint8 or array.dtype.kind == "f"):
        raise ValueError(f"{name}: expected {EXPECTED}, got {array.dtype} of shape {array.shape}")
    if size is not None and array.shape[:3] != size:
        raise ValueError(f"{name}: expected the frames' (T, H, W), {size}, got {array.shape[:3]}")
    return array


def _check_masks(value: object, size: tuple[int, ...], name: str) -> Pixels:
    array = _to_array(value, name)
    if array.dtype.kind not in "iu" or array.shape != size or array.min() < 0:
        raise ValueError(
            f"{name}: expected class ids >= 0, integers of the frames' shape {size}, "
            f"got {array.dtype} of shape {array.shape}"
        )
    return np.minimum(array, 255).astype(np.uint8)


def _to_array(value: object, name: str) -> NDArray[np.generic]:
    if not hasattr(value, "__array__"):
        raise ValueError(f"{name}: expected an array, {EXPECTED}, got type {type(value).__name__}")
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # a tensor on a device or with a gradient
        raise ValueError(f"{name}: cannot be read as an array ({joined(error)})") from error


def _to_rgb(picture: NDArray[np.generic], name: str) -> Pixels:
    """Convert (H, W, 3) or (H, W) to (H, W, 3) uint8."""
    if picture.dtype.kind == "f":
        low, high = float(picture.min()), float(picture.max())
        if not (low >= 0 and high <= 1):  # also NaN
            raise ValueError(
                f"{name}: expected levels in [0, 1], got {low:g} to {high:g}; scale, or use uint8"
            )
        picture = np.rint(picture.astype(np.float32) * 255)
    pixels = picture.astype(np.uint8)
    return np.ascontiguousarray(pixels) if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
