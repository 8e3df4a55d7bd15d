"""Protocol of a source, its frames, and the rules by which frames are selected and clips are cut."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Protocol, Self, TypeVar

from vdp.data.stores.clips import Pixels
from vdp.data.video.resize import Fit

MAX_RATIO = 1.01  # a requested frame rate may exceed the video's by rounding: 30 of 29.97, of times in ms
SAME_TIME = 1e-6  # seconds; rounding of times

T = TypeVar("T")


@dataclass(frozen=True)
class Frame:
    """One frame of a video; either all frames of a video have a mask (a condition), or none."""

    number: int  # 0-based position in the video
    pixels: Pixels  # (H, W, 3) uint8 RGB
    mask: Pixels | None = None  # class ids, (H, W) uint8; values over 48 are handled by `cut_clips`
    condition: Pixels | None = None  # degraded frame that `pixels` restores, (H, W, 3) uint8 RGB
    flaw: str | None = None  # error of this frame's mask alone, which then is None; names the file


@dataclass(frozen=True)
class Pace:
    """Which frames of a video are selected."""

    interval: int = 1  # every n-th frame; 1 if `fps` is given
    fps: float | None = None  # frames per second instead, for videos with times
    offset: int = 0  # frames skipped at the start

    def numbers(self, video: str) -> Iterator[int]:
        """Return the ascending 0-based numbers of the selected frames of a video without times, without end.

        Raises:
            ValueError: if `fps` is given; names `video`.
        """
        self.within(None, video)
        return count(self.offset, self.interval)

    def within(self, video_fps: float | None, video: str) -> Self:
        """Return the pace for a video of a mean rate, which `fps` may exceed by rounding alone.

        Raises:
            ValueError: if `fps` is given and the video has no frame rate or a lower one; names `video`.
        """
        if self.fps is None:
            return self
        if not video_fps or not video_fps > 0:
            raise ValueError(f"{video}: no frame rate; set fps to null and use interval")
        if self.fps > MAX_RATIO * video_fps:
            raise ValueError(f"{video}: fps={self.fps:g}: expected at most the video's {video_fps:g}")
        return replace(self, fps=min(self.fps, video_fps))

    def select(self, frames: Iterable[T], time: Callable[[T], float]) -> Iterator[T]:
        """Yield the selected ones of all frames of a video, which are read to their end.

        With `fps` the frames are the nearest to times that are 1 / `fps` apart, the earlier of two equally
        near ones; the first is frame `offset`. A frame that is nearest to several times is repeated.

        Args:
            frames: in ascending order of their times.
            time: of a frame in seconds; not called without `fps`.
        """
        later = islice(frames, self.offset, None)
        if self.fps is None:
            yield from islice(later, 0, None, self.interval)
        elif (first := next(later, None)) is not None:
            yield from _nearest(first, later, time, self.fps)


def _nearest(first: T, later: Iterable[T], time: Callable[[T], float], fps: float) -> Iterator[T]:
    start = here = time(first)
    step, chosen, gap = 0, first, 0.0
    for frame in later:
        gap = time(frame) - here
        while start + step / fps <= here + gap / 2 + SAME_TIME:
            yield chosen
            step += 1
        chosen, here = frame, here + gap
    while start + step / fps <= here + gap / 2 + SAME_TIME:  # the last one is shown as long as the one before
        yield chosen
        step += 1


@dataclass(frozen=True)
class LeftOut:
    """A file of a source, or frames of a video, that are in no clip."""

    name: str  # of the file or video, relative to the source
    reason: str
    frames: int = 0  # number of frames; 0: the whole file


@dataclass(frozen=True)
class ClipRule:
    """Rule by which videos are cut into clips."""

    frames: int  # of a whole clip
    min_frames: int  # of the shortest clip allowed; below `frames` only for clips without targets
    height: int  # pixels
    width: int  # pixels
    fit: Fit
    pace: Pace
    stride: int  # selected frames from the start of one clip of a video to the start of the next
    scene_cut: float | None = None  # change of the levels at which a new row of clips starts, 0..1
    repair_masks: bool = False  # class ids over 48 become background, frames with a flaw are left out

    def length(self, available: int, video: str) -> int:
        """Return the length of a clip cut from `available` frames: `frames`, else `min_frames`.

        Raises:
            ValueError: if there are fewer; names `video`.
        """
        if available >= self.frames:
            return self.frames
        if available >= self.min_frames:
            return self.min_frames
        unit = (
            "frames"
            if self.pace.fps is None and self.pace.interval == 1
            else "frames at this interval or fps"
        )
        raise ValueError(
            f"{video}: too few {unit}: {available}, expected at least {self.min_frames}; remove it, or lower "
            "clip.frames, interval or offset"
        )


class Source(Protocol):
    """A set of videos, read one at a time, in any process and order. Can be pickled."""

    @property
    def layout(self) -> str:
        """What a folder of this kind holds, for messages."""
        ...

    @property
    def precut(self) -> bool:
        """Whether each video is one clip: pace and stride do not apply."""
        ...

    def items(self) -> list[str]:
        """Unique names of the videos, relative to the source, in natural order; may be empty."""
        ...

    def label(self, item: str) -> str:
        """Name of a video in messages: its path if it has one."""
        ...

    def files(self, item: str) -> list[Path]:
        """Files of a video, to estimate its size and detect changes; may be empty."""
        ...

    def count(self, item: str) -> int:
        """Estimated number of frames, without decoding; 0 if unknown."""
        ...

    def frames(self, item: str, pace: Pace) -> Iterator[Frame]:
        """Yield the frames of a video that `pace` selects, one in memory at a time.

        Raises:
            ValueError: if the video cannot be used; one line that names the file and the remedy.
            OSError: if a file cannot be opened.
        """
        ...
