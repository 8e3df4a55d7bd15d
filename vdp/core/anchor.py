"""The last visible state of each object in a context, and its motion on the floor.

Shapes: B clips, C channels of `vdp.core.objects`, K context frames, N objects, T target frames.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vdp.core.borders import touched_borders
from vdp.core.classes import SHAPES
from vdp.core.ground import REST, Ground, length, slide
from vdp.core.objects import FEATURES, SEEN, X, Y

SIGHTINGS = 3  # newest visible frames over which the velocity is measured


@dataclass(frozen=True)
class Anchor:
    """Last visible state of each object in the context."""

    frame: Tensor  # (B, C, N)
    place: Tensor  # on the floor, (B, 2, N)
    velocity: Tensor  # on the floor, per frame, (B, 2, N)
    deceleration: Tensor  # (B, N)
    index: Tensor  # frame index, (B, N)
    present: Tensor  # whether it is visible in some context frame, (B, N) bool

    def at(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Places and velocities on the floor at frame indices (B, 1), without collisions, (B, 2, N) each."""
        speed = length(self.velocity)
        left = (speed - self.deceleration * (index - self.index).clamp(min=0)).clamp(min=0)
        velocity = self.velocity * (left / speed.clamp(min=REST))[:, None]
        return self.extrapolate(index)[:, :, 0], velocity

    def extrapolate(self, target_index: Tensor) -> Tensor:
        """Places on the floor at frame indices (B, T) with friction and without collisions, (B, 2, T, N)."""
        frames = (target_index[:, :, None] - self.index[:, None]).clamp(min=0)
        speed = length(self.velocity)
        distance = slide(speed[:, None], self.deceleration[:, None], frames)  # (B, T, N)
        heading = self.velocity / speed.clamp(min=REST)[:, None]
        return self.place[:, :, None] + heading[:, :, None] * distance[:, None]


def find_anchor(known: Tensor, index: Tensor, ground: Ground) -> Anchor:
    """Find the last visible state of each object, and its velocity over its newest sightings.

    An object that enters in the newest frames and is seen once moves as such objects do on average.

    Args:
        known: context frames, (B, C, K, 1, N), with the places of whole objects.
        index: their frame indices, (B, K).
        ground: of the data set.
    """
    frames = known[:, :, :, 0]
    visible = frames[:, SEEN] > 0.5  # (B, K, N)
    times = index[:, :, None].masked_fill(~visible, -torch.inf)
    count = min(SIGHTINGS, times.shape[1])
    newest, order = times.topk(count, dim=1)  # (B, count, N)
    present = newest[:, 0].isfinite()
    last = frames.gather(2, order[:, None, :1].expand(-1, frames.shape[1], -1, -1))[:, :, 0]
    place = torch.stack(ground.to_floor(last[:, X], last[:, Y]), dim=1)
    shape = last[:, len(FEATURES) : len(FEATURES) + len(SHAPES)]
    deceleration = (shape * shape.new_tensor(ground.deceleration)[:, None]).sum(dim=1)
    since = newest[:, :1].masked_fill(~present[:, None], 0)
    velocity = torch.zeros_like(place)
    for sighting in range(1, count):  # the longest span wins
        earlier = frames.gather(
            2, order[:, None, sighting : sighting + 1].expand(-1, frames.shape[1], -1, -1)
        )
        seen = newest[:, sighting].isfinite()
        elapsed = (since[:, 0] - newest[:, sighting]).masked_fill(~seen, 1)
        moved = place - torch.stack(ground.to_floor(earlier[:, X, 0], earlier[:, Y, 0]), dim=1)
        velocity = torch.where(seen[:, None], _velocity_at_the_end(moved, elapsed, deceleration), velocity)
    once = (visible.sum(dim=1) == 1) & (since[:, 0] > index.amin(dim=1, keepdim=True))
    velocity = torch.where(once[:, None], _entry_velocity(last, ground), velocity)
    return Anchor(
        last * present[:, None], place * present[:, None], velocity * present[:, None], deceleration,
        since[:, 0], present,
    )  # fmt: skip


def _entry_velocity(frames: Tensor, ground: Ground) -> Tensor:
    """Mean velocity of objects that enter where these do, (B, C, N) -> (B, 2, N); 0 for others."""
    velocity = frames.new_zeros(len(frames), 2, frames.shape[2])
    for touched, (inwards, along) in zip(touched_borders(frames, ground), ground.entry, strict=False):
        entering = torch.stack([-inwards * frames[:, X].sign(), torch.full_like(frames[:, X], along)], dim=1)
        velocity = torch.where(
            touched[:, None] & (velocity == 0).all(dim=1, keepdim=True), entering, velocity
        )
    return velocity


def _velocity_at_the_end(moved: Tensor, elapsed: Tensor, deceleration: Tensor) -> Tensor:
    """Velocity after a move of (B, 2, N) within (B, N) frames, slowed down by friction to its end."""
    mean = length(moved) / elapsed
    speed = (mean - deceleration * elapsed / 2).clamp(min=0)
    return moved / elapsed[:, None] * (speed / mean.clamp(min=REST))[:, None]
