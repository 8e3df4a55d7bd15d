"""Context frames that a denoiser moves to the targets; a base that needs neither masks nor a motion model.

Shapes: B clips, C channels, K context frames, N target frames, h x w latent positions.
"""

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from vdp.diffusion.protocols import Denoiser

ContextT = TypeVar("ContextT")


@dataclass(frozen=True)
class ContextFrames:
    """Context frames of a hop, the moved ones first."""

    frames: Tensor  # (B, C, K, h, w)
    index: Tensor  # (B, K)
    level: Tensor  # standard deviation of the noise on each, (B, K)
    moved: Tensor | None  # moved frames with their gradient, (B, C, N, h, w)


def with_moved(
    denoiser: Denoiser[ContextT], frames: Tensor, index: Tensor, level: Tensor, target_index: Tensor
) -> ContextFrames:
    """Add the frames that the denoiser moves to the targets, if it does.

    They precede the others: of two frames at the index of a target, the moved one is its base. No gradient
    flows through them into the context, so that they are trained by their own loss alone.
    """
    moved = denoiser.move(frames, index, target_index)
    if moved is None:
        return ContextFrames(frames, index, level, None)
    return ContextFrames(
        torch.cat([moved.detach().to(frames.dtype), frames], dim=2),
        torch.cat([target_index.to(index.dtype), index], dim=1),
        torch.cat([torch.zeros_like(target_index, dtype=level.dtype), level], dim=1),
        moved,
    )
