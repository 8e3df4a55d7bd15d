"""Motion of the objects of a clip on the floor: friction, and collisions of discs of one size and mass.

Shapes: B clips, N objects, T target frames.
"""

import torch
from torch import Tensor

from vdp.core.anchor import Anchor
from vdp.core.ground import REST, Ground, length

SUBSTEPS = 4  # per frame; eight lower the error by less than a hundredth


def roll_out(found: Anchor, last: Tensor, frames: int, ground: Ground) -> Tensor:
    """Places on the floor in the frames after `last` (B, 1), (B, 2, frames, N).

    Two discs that touch and approach exchange velocity along the line of their centres, as bodies of equal
    mass with the floor's coefficient of restitution. An object not visible in the last frame moves freely
    up to it.
    """
    place, velocity = found.at(last)
    lost = (found.deceleration / SUBSTEPS)[:, None]
    pairs = found.present[:, :, None] & found.present[:, None]
    places = []
    for _ in range(frames):
        for _ in range(SUBSTEPS):
            speed = length(velocity)[:, None]
            slowed = velocity * ((speed - lost).clamp(min=0) / speed.clamp(min=REST))
            place = place + (velocity + slowed) / (2 * SUBSTEPS)
            velocity = slowed + _impulses(place, slowed, pairs, ground)
        places.append(place)
    return torch.stack(places, dim=2)


def _impulses(place: Tensor, velocity: Tensor, pairs: Tensor, ground: Ground) -> Tensor:
    """Change of the velocities by collisions, (B, 2, N); pairs (B, N, N) bool may collide."""
    apart = place[:, :, None] - place[:, :, :, None]  # from the object of axis 2 to that of axis 3
    distance = length(apart)[:, None]
    normal = apart / distance.clamp(min=REST)
    approach = ((velocity[:, :, None] - velocity[:, :, :, None]) * normal).sum(dim=1, keepdim=True)
    hit = (distance < ground.diameter) & (approach < 0) & pairs[:, None]
    return ((1 + ground.restitution) / 2 * approach * hit * normal).sum(dim=3)
