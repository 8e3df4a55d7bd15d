"""Frames and latent frames of a codec that compresses time causally.

With a temporal factor f the first frame is a latent frame and each further f frames, a group, are another. A
clip is padded at its start with copies of its first frame, so that its context frames end a group, and at its
end with copies of its last frame, to whole groups. With f = 1 the latent frames are the frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TRAINED_GROUPS = 2  # groups after the first frame of a training clip of the codec


@dataclass(frozen=True)
class LatentTime:
    """Which latent frame codes a frame of a clip."""

    factor: int  # f
    known: int  # context frames of the clip, which end a group

    @property
    def padding(self) -> int:
        """Copies of the first frame before the clip."""
        return -(self.known - 1) % self.factor

    def position(self, frame: int) -> int:
        """Position of a 0-based frame among the decoded frames."""
        return frame + self.padding

    def latent_of(self, frame: int) -> int:
        """0-based latent frame that codes a 0-based frame."""
        return -(-self.position(frame) // self.factor)

    def count(self, frames: int) -> int:
        """Latent frames of the first `frames` frames, at least 1."""
        return self.latent_of(frames - 1) + 1

    def frames_of(self, count: int) -> int:
        """Frames that the first `count` latent frames code."""
        return 1 + (count - 1) * self.factor - self.padding

    def pad(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Add the copies of the first frame before a clip (T, H, W, 3)."""
        return np.concatenate([frames[:1]] * self.padding + [frames]) if self.padding else frames

    def hops(self, groups: Sequence[Sequence[int]]) -> list[list[int]]:
        """Replace the frame numbers of hops by numbers of latent frames, all 1-based, each once."""
        seen, hops = set[int](), []
        for group in groups:
            numbers = dict.fromkeys(self.latent_of(frame - 1) + 1 for frame in group)
            hops.append([number for number in numbers if number not in seen])
            seen.update(numbers)
        return [hop for hop in hops if hop]


EVERY_FRAME = LatentTime(factor=1, known=1)
