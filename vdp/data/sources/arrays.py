"""A source of arrays that a program holds or makes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vdp.data.sources.protocols import Frame, Pace
from vdp.data.stores.clips import Pixels
from vdp.data.video.picture import check_classes

PARTS = ("frames", "masks", "conditions")
EXPECTED = "uint8, or float in [0, 1], of shape (T, H, W, 3) or (T, H, W)"

Video: TypeAlias = ArrayLike | tuple[ArrayLike, ArrayLike | None] | Mapping[str, ArrayLike | None]


class ArraySource:
    """Videos as arrays; item `video_00003` is `videos[3]`, which is taken when it is read and not kept.

    Each is frames, a tuple (frames, masks), or a mapping with `frames` and, as far as there are any, `masks`
    and `conditions`. Frames and conditions, the degraded frames, are uint8 or float in [0, 1], of shape
    (T, H, W, 3) or gray (T, H, W); masks are integers (T, H, W) of class ids. Tensors count as arrays.

    Args:
        videos: any object with `len` and an index from 0, such as a list or one that loads what is asked for.
            To be read by other processes it has to be one that can be pickled, which a list of arrays is, but
            only with all that it holds.
    """

    expects: ClassVar[str] = "a sequence of arrays (T, H, W, 3)"
    precut: ClassVar[bool] = False

    def __init__(self, videos: Sequence[Video]) -> None:
        self.videos = videos

    def items(self) -> list[str]:
        """Names of the videos.

        Raises:
            ValueError: if `videos` has no length.
        """
        try:
            return [f"video_{index:05d}" for index in range(len(self.videos))]
        except TypeError as error:
            raise ValueError(
                f"videos: expected a sequence of arrays, got {_named(self.videos)}; give a list of videos"
            ) from error

    def label(self, item: str) -> str:
        return f"videos[{_index(item)}]"

    def files(self, item: str) -> list[Path]:
        """None: the arrays are in memory, or where the program has them from."""
        return []

    def count(self, item: str) -> int:
        """Frames of a video that is in memory; 0 for one that has to be loaded first."""
        if not isinstance(self.videos, list | tuple | np.ndarray):
            return 0
        try:
            return len(_checked(self.videos[_index(item)], self.label(item)).frames)
        except ValueError:  # told when it is read
            return 0

    def frames(self, item: str, pace: Pace) -> Iterator[Frame]:
        """As `Source`. Types, shapes and class ids are checked before the first frame, levels with each."""
        label = self.label(item)
        try:
            given = self.videos[_index(item)]
        except (LookupError, TypeError) as error:
            raise ValueError(
                f"{label}: cannot be taken ({error!r}); expected indices from 0 to {len(self.videos) - 1}"
            ) from error
        video = _checked(given, label)
        for number in takewhile(lambda n: n < len(video.frames), pace.numbers(None, label)):
            yield Frame(
                number,
                _rgb(video.frames[number], f"{label}.frames[{number}]"),
                None if video.masks is None else video.masks[number],
                None
                if video.conditions is None
                else _rgb(video.conditions[number], f"{label}.conditions[{number}]"),
            )


@dataclass(frozen=True)
class _Arrays:
    """One video: pictures uint8 or float, gray or RGB; class ids."""

    frames: NDArray[np.generic]
    masks: Pixels | None
    conditions: NDArray[np.generic] | None


def _index(item: str) -> int:
    return int(item.removeprefix("video_"))


def _checked(video: object, label: str) -> _Arrays:
    if isinstance(video, Mapping):
        parts = dict(video)
    elif isinstance(video, tuple):
        if len(video) != 2:
            raise ValueError(f"{label}: a tuple of {len(video)}; expected (frames, masks)")
        parts = {"frames": video[0], "masks": video[1]}
    else:
        parts = {"frames": video}
    if not parts.keys() <= set(PARTS) or parts.get("frames") is None:
        raise ValueError(
            f"{label}: expected frames and at most masks and conditions, got {sorted(map(str, parts))}"
        )
    frames = _pictures(parts["frames"], f"{label}.frames")
    masks, conditions = parts.get("masks"), parts.get("conditions")
    return _Arrays(
        frames,
        None if masks is None else _masks(masks, frames.shape[:3], f"{label}.masks"),
        None if conditions is None else _pictures(conditions, f"{label}.conditions", frames.shape[:3]),
    )


def _pictures(value: object, name: str, size: tuple[int, ...] | None = None) -> NDArray[np.generic]:
    array = _array(value, name)
    # three axes of which the last is 3 or 4 are one picture, not a gray video of that width
    shaped = array.shape[3:] == (3,) or (array.ndim == 3 and array.shape[2] not in (3, 4))
    if not shaped or not array.size or not (array.dtype == np.uint8 or array.dtype.kind == "f"):
        raise ValueError(f"{name}: expected {EXPECTED}, got {array.dtype} of shape {array.shape}")
    if size is not None and array.shape[:3] != size:
        raise ValueError(f"{name}: expected the frames' (T, H, W), {size}, got {array.shape[:3]}")
    return array


def _masks(value: object, size: tuple[int, ...], name: str) -> Pixels:
    array = _array(value, name)
    if array.dtype.kind not in "iu" or array.shape != size or array.min() < 0:
        raise ValueError(
            f"{name}: expected class ids from 0, integers of the frames' shape {size}, "
            f"got {array.dtype} of shape {array.shape}"
        )
    return check_classes(np.minimum(array, 255).astype(np.uint8), name)


def _array(value: object, name: str) -> NDArray[np.generic]:
    if not hasattr(value, "__array__"):
        raise ValueError(f"{name}: expected an array, {EXPECTED}, got {_named(value)}")
    try:
        return np.asarray(value)
    except (
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:  # a tensor elsewhere than in memory, or with a gradient
        raise ValueError(f"{name}: cannot be read as an array ({' '.join(str(error).split())})") from error


def _rgb(picture: NDArray[np.generic], name: str) -> Pixels:
    """(H, W, 3) or (H, W) as (H, W, 3) uint8."""
    if picture.dtype.kind == "f":
        low, high = float(picture.min()), float(picture.max())
        if not (low >= 0 and high <= 1):  # nor if they are NaN
            raise ValueError(
                f"{name}: expected levels in [0, 1], got {low:g} to {high:g}; scale them, or give uint8"
            )
        picture = np.rint(picture.astype(np.float32) * 255)
    pixels = picture.astype(np.uint8)
    return np.ascontiguousarray(pixels) if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def _named(value: object) -> str:
    return f"an object of type {type(value).__name__}"
