"""What every source owes, and the rules that say what is taken from it."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import ClassVar, Protocol

from vdp.data.stores.clips import Pixels
from vdp.data.video.resize import Fit

MAX_RATIO = 1.001  # a frame rate asked for may exceed the video's by rounding: 30 of 29.97


@dataclass(frozen=True)
class Frame:
    """One frame that was taken from a video.

    Attributes:
        number: 0-based place in the video.
        pixels: (H, W, 3) uint8 RGB.
        mask: class ids (H, W) uint8 of the same size, or None; all frames of a video have one or none does.
        condition: (H, W, 3) uint8 RGB of the same size, the degraded frame that `pixels` restores, or None;
            all frames of a video have one or none does.
    """

    number: int
    pixels: Pixels
    mask: Pixels | None = None
    condition: Pixels | None = None


@dataclass(frozen=True)
class Pace:
    """Which frames of a video are taken.

    Attributes:
        interval: every n-th frame; 1 where `fps` is given.
        fps: frames per second instead, for videos that state their rate; None for the interval.
        offset: frames left out at the start.
    """

    interval: int = 1
    fps: float | None = None
    offset: int = 0

    def numbers(self, video_fps: float | None, video: str) -> Iterator[int]:
        """Ascending 0-based numbers of the frames to take, without end.

        Args:
            video_fps: frames per second that the video states, or None.
            video: its name, for messages.

        Raises:
            ValueError: if a frame rate is asked for that the video does not have or does not state.
        """
        if self.fps is None:
            return count(self.offset, self.interval)
        if not video_fps or not video_fps > 0:
            raise ValueError(f"{video}: states no frame rate; set fps to null and choose an interval")
        if self.fps > MAX_RATIO * video_fps:
            raise ValueError(
                f"{video}: has {video_fps:g} frames per second, {self.fps:g} are asked for; lower fps"
            )
        step = max(video_fps / self.fps, 1.0)
        return (self.offset + round(k * step) for k in count())


@dataclass(frozen=True)
class ClipRule:
    """How a source's videos become clips.

    Attributes:
        frames: frames of a whole clip.
        at_least: frames of the shortest clip allowed, `frames` unless the clip is only to be predicted.
        height: pixels.
        width: pixels.
        fit: see `vdp.data.video.resize`.
        pace: which frames are taken.
        stride: taken frames from the start of one clip of a video to the start of the next.
    """

    frames: int
    at_least: int
    height: int
    width: int
    fit: Fit
    pace: Pace
    stride: int

    def length(self, available: int, video: str) -> int:
        """Frames of the clip that `available` frames give: a whole clip, or the shortest allowed.

        Raises:
            ValueError: if there are too few; names `video`.
        """
        if available >= self.frames:
            return self.frames
        if available >= self.at_least:
            return self.at_least
        pace = self.pace
        unit = "frames" if pace.fps is None and pace.interval == 1 else "frames at the pace asked for"
        raise ValueError(
            f"{video}: too few {unit}: {available}, expected at least {self.at_least}; "
            "remove it, lower clip.frames, or take frames that are nearer to each other"
        )


class Source(Protocol):
    """Videos that can be read one by one, in any process and in any order; it can be pickled."""

    expects: ClassVar[str]  # what a folder of this kind holds, for messages
    precut: ClassVar[bool]  # each video is one clip as it stands: pace and stride do not apply

    def items(self) -> list[str]:
        """Names of the videos, relative to the source, each once, in a fixed natural order; may be empty."""
        ...

    def label(self, item: str) -> str:
        """How messages name a video: its path, where it has one."""
        ...

    def files(self, item: str) -> list[Path]:
        """The files that a video is read from, for its size on disk and to notice a change; may be empty."""
        ...

    def count(self, item: str) -> int:
        """Frames that the video says it has: a guess that costs little, 0 where nothing is known."""
        ...

    def frames(self, item: str, pace: Pace) -> Iterator[Frame]:
        """The frames of a video that `pace` takes, one in memory at a time.

        Raises:
            ValueError: if something cannot be used: one line that names the file and says what to do.
            OSError: if a file cannot be opened.
        """
        ...
