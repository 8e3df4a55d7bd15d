"""Frames of a clip with their times, before they are converted, and what is measured of a clip."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from vdp.data.stores.clips import Pixels


class ClipFrame(NamedTuple):
    """A frame of a clip, not converted yet.

    Attributes:
        number: 0-based position in the clip.
        time: seconds since the first frame; ascending.
        read: converts the frame to (H, W, 3) uint8 RGB in memory of its own.
    """

    number: int
    time: float
    read: Callable[[], Pixels]


ClipFrames: TypeAlias = Generator[ClipFrame, None, None]


@dataclass(frozen=True)
class Measured:
    """Length and rate of a clip, measured by the times in it; 0 where unknown."""

    frames: int
    rate: float  # mean number of frames per second
