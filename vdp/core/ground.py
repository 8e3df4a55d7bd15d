"""The floor that objects move on, recovered from their size by their place in the frame.

Under a pinhole camera over a plane, the size of an object is linear in its height y in the frame, and its
place on the plane, in units of its size, is (x / size, -stretch / size) but for a constant. There, motion
does not depend on the place, and friction slows an object down by the same speed in each frame. Without
perspective the plane is the frame.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MIN_SIZE = 0.02  # of an object, in frame heights: bounds places near the horizon
FLAT = 0.02  # slope over size under which there is no perspective
REST = 1e-6  # speed of an object at rest


@dataclass(frozen=True)
class Ground:
    """Floor of a data set's camera, and how objects move on it. Lengths are in sizes of an object."""

    offset: float  # size of an object at the frame's middle, in frame heights
    slope: float  # change of the size per frame height downwards
    stretch: float  # depth on the floor of one over the size
    deceleration: tuple[float, ...]  # speed lost per frame, one value per shape
    diameter: float = 0.0  # distance of the centres of two objects that touch; 0: no collisions
    restitution: float = 1.0  # of a collision: speed of separation over that of approach
    border: float = 0.0  # distance of a side of the frame from its middle, in frame heights
    # of a whole object from its centre to its sides and to its top, one pair per shape; none: not measured
    reach: tuple[tuple[float, float], ...] = ()
    # mean velocity (inwards, along) of objects that enter at a side, the top and the bottom; none: at rest
    entry: tuple[tuple[float, float], ...] = ()

    @property
    def flat(self) -> bool:
        """Whether there is no perspective."""
        return abs(self.slope) < FLAT * self.offset

    def size(self, y: Tensor) -> Tensor:
        """Size of an object at height y, in frame heights."""
        return (self.offset + self.slope * y).clamp(min=MIN_SIZE)

    def to_floor(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Convert places in the frame to places on the floor; the frame's middle is (0, 0)."""
        if self.flat:
            return x / self.offset, y / self.offset
        size = self.size(y)
        return x / size, self._near() - self.stretch / size

    def to_frame(self, across: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
        """Invert `to_floor`."""
        if self.flat:
            return across * self.offset, along * self.offset
        # places beyond those of the smallest and the largest size that a frame shows are clamped to them
        depth = (self._near() - along).clamp(min=self.stretch, max=self.stretch / MIN_SIZE)
        size = self.stretch / depth
        return across * size, (size - self.offset) / self.slope

    def _near(self) -> float:
        return self.stretch / self.offset


def length(vectors: Tensor) -> Tensor:
    """Lengths of vectors on the floor, (B, 2, ...) -> (B, ...); torch's norm over a short axis is slower."""
    return vectors[:, 0].square().add(vectors[:, 1].square()).sqrt()


def slide(speed: Tensor, deceleration: Tensor, frames: Tensor) -> Tensor:
    """Distance that friction lets an object slide in `frames` frames; all broadcast."""
    moving = torch.minimum(frames, speed / deceleration.clamp(min=REST))
    return speed * moving - deceleration * moving.square() / 2
