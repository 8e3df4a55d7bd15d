"""What a clip is when it is cut from a source: length, spacing and size."""

from dataclasses import dataclass
from pathlib import Path

from vdp.data.resize import Fit


@dataclass(frozen=True)
class ClipRule:
    """How a source cuts clips.

    Attributes:
        frames: frames of a whole clip.
        at_least: frames of the shortest clip allowed, `frames` unless the clip is only to be predicted.
        height: pixels.
        width: pixels.
        fit: see `vdp.data.resize`.
        interval: a clip takes every `interval`-th frame of a video.
        stride: taken frames from the start of one clip of a video to the start of the next.
    """

    frames: int
    at_least: int
    height: int
    width: int
    fit: Fit
    interval: int
    stride: int

    def length(self, available: int, source: Path) -> int:
        """Frames of the clip that `available` frames give: a whole clip, or the shortest allowed.

        Raises:
            ValueError: if there are too few; names `source`.
        """
        if available >= self.frames:
            return self.frames
        if available >= self.at_least:
            return self.at_least
        unit = "frames" if self.interval == 1 else f"frames at an interval of {self.interval}"
        raise ValueError(
            f"{source}: too few {unit}: {available}, expected at least {self.at_least}; "
            "remove it or lower clip.frames in params.yaml"
        )
