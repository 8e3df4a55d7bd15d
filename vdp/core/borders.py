"""Objects that the frame's border cuts: the places of their centres, also outside the frame.

The centroid of what is visible lags behind an object that enters, so its motion would be read too slow. Its
inner edge and the size of whole objects at its place give the centre.
Shapes: B clips, C channels of `vdp.core.objects`, ... any axes.
"""

import torch
from torch import Tensor

from vdp.core.classes import SHAPES
from vdp.core.ground import Ground
from vdp.core.objects import CUT, FEATURES, HEIGHT, SEEN, WIDTH, X, Y

CLOSE = 0.65  # of its box: a border nearer than this to the place of a cut object is one that cuts it
BOTTOM = 0.5  # of a frame, in frame heights from its middle


def touched_borders(frames: Tensor, ground: Ground) -> tuple[Tensor, Tensor, Tensor]:
    """Whether a side, the top or the bottom cuts each object, (B, C, ...) -> three of (B, ...) bool."""
    cut = (frames[:, SEEN] > 0.5) & (frames[:, CUT] > 0.5)
    side = cut & (ground.border - frames[:, X].abs() <= CLOSE * frames[:, WIDTH])
    top = cut & (BOTTOM + frames[:, Y] <= CLOSE * frames[:, HEIGHT])
    bottom = cut & (BOTTOM - frames[:, Y] <= CLOSE * frames[:, HEIGHT])
    return side, top, bottom


def whole_places(frames: Tensor, ground: Ground) -> Tensor:
    """Replace the places of cut objects by those of the whole objects, (B, C, ...) -> the same shape.

    A place moves outwards only. Without the reach of objects, frames are returned unchanged.
    """
    if not ground.reach:
        return frames
    side, top, bottom = touched_borders(frames, ground)
    shape = frames[:, len(FEATURES) : len(FEATURES) + len(SHAPES)]
    across, upright = (
        torch.tensordot(frames.new_tensor(reach), shape, dims=([0], [1]))
        for reach in zip(*ground.reach, strict=True)
    )
    x, y, height = frames[:, X], frames[:, Y], frames[:, HEIGHT]
    # the inner edge is the centre and the reach apart, and the reach is linear in the centre's height
    from_bottom = (BOTTOM - height + upright * ground.offset) / (1 - upright * ground.slope)
    from_top = (height - BOTTOM - upright * ground.offset) / (1 + upright * ground.slope)
    y = torch.where(bottom, torch.maximum(from_bottom, y), torch.where(top, torch.minimum(from_top, y), y))
    outward = (ground.border - frames[:, WIDTH] + across * ground.size(y)).maximum(x.abs())
    whole = frames.clone()
    whole[:, X], whole[:, Y] = torch.where(side, x.sign() * outward, x), y
    return whole
