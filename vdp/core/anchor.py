"""The last visible state of each object in a context: from it its motion is measured.

Shapes: B clips, C channels of `vdp.core.objects`, K context frames, N objects.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vdp.core.objects import SEEN, X, Y


@dataclass(frozen=True)
class Anchor:
    """Last visible state of each object in the context."""

    frame: Tensor  # (B, C, 1, 1, N)
    velocity: Tensor  # heights per frame, right and down, (B, 2, 1, 1, N)
    index: Tensor  # frame index, (B, N)
    present: Tensor  # whether it is visible in some context frame, (B, N) bool


def find_anchor(known: Tensor, index: Tensor) -> Anchor:
    """Find the last visible state of each object, and its velocity since the visible state before that.

    Args:
        known: context frames, (B, C, K, 1, N).
        index: their frame indices, (B, K).
    """
    visible = known[:, SEEN, :, 0] > 0.5  # (B, K, N)
    times = index[:, :, None].masked_fill(~visible, -torch.inf)
    times = torch.cat([times, times.new_full((len(times), 1, times.shape[2]), -torch.inf)], dim=1)
    newest, order = times.topk(2, dim=1)  # (B, 2, N)
    padded = torch.cat([known, known.new_zeros(known[:, :, :1].shape)], dim=2)[:, :, :, 0]
    last, before = (
        padded.gather(2, position[:, None, None].expand(-1, known.shape[1], -1, -1))
        for position in order.unbind(1)
    )
    present, moving = newest.isfinite().unbind(1)
    elapsed = torch.where(moving, newest[:, 0] - newest[:, 1], 1)
    velocity = (last[:, [X, Y]] - before[:, [X, Y]]) / elapsed[:, None, None] * moving[:, None, None]
    return Anchor(
        last[:, :, :, None], velocity[:, :, :, None], newest[:, 0].masked_fill(~present, 0), present
    )
