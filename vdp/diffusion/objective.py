"""Data of the diffusion process: frames or their residuals, scaled to unit mean square.

A residual is the change from a base: the nearest context frame or, in `interpolate`, the linear blend of the
context frames on both sides.
Shapes: B clips, C channels, K context frames, N target frames, h x w latent positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vdp.core.context_frames import Hops, blended_frames, nearest_context
from vdp.core.tasks import Task
from vdp.diffusion.process import Process


@dataclass(frozen=True)
class Objective:
    """The process, and the mapping between frames and its clean data; implements `DiffusedData`."""

    process: Process
    scale: Tensor  # root mean square of the diffused data per channel, (C,)
    residual: bool  # diffuse the change from the base, not the frame
    task: Task = "predict"  # selects the base

    def channels(self, frame_channels: int) -> int:
        """All channels of the frames are diffused."""
        return frame_channels

    def base(self, known: Tensor, index: Tensor, target_index: Tensor) -> Tensor:
        """Compute the base of residuals: (B, C, K, h, w), (B, K), (B, N) -> (B, C, N, h, w)."""
        return base_frames(known, index, target_index, self.residual, self.task)

    def to_data(self, frames: Tensor, base: Tensor) -> Tensor:
        """Convert frames to clean data x0, (B, C, N, h, w) both."""
        return (frames - base) / self.scale[:, None, None, None]

    def to_frames(self, x0: Tensor, base: Tensor) -> Tensor:
        """Invert `to_data`."""
        return base + self.scale[:, None, None, None] * x0


def base_frames(known: Tensor, index: Tensor, target_index: Tensor, residual: bool, task: Task) -> Tensor:
    """Compute the base of residuals; zeros without residuals or without context frames."""
    if residual and task == "interpolate":
        return blended_frames(known, index, target_index)
    anchors = nearest_context(known, index, target_index)
    return anchors if residual else torch.zeros_like(anchors)


def data_scale(batches: Sequence[Hops], residual: bool) -> Tensor:
    """Compute the root mean square of the diffused data per channel, (C,); ValueError if one is zero."""
    data = [
        hops.target - base_frames(hops.known, hops.index, hops.target_index, residual, hops.task)
        for hops in batches
    ]
    scale = torch.cat(data).float().square().mean(dim=(0, 2, 3, 4)).sqrt()
    if not bool((scale > 0).all()):
        what = "every frame equals the one before it" if residual else "every frame is zero"
        raise ValueError(f"latents: in some channel {what}; expected clips with motion")
    return scale
