"""What is diffused: frames, or their change from known ones, scaled to unit mean square.

The change is that from the nearest known frame, or, for frames between known ones, from the blend of the two
around them: what a network that knows nothing falls back to.

Shapes: B clips, C channels, K known frames, N targets, h x w latent positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vdp.core.context_frames import Hops, anchor_frames, blended_frames
from vdp.core.tasks import Task
from vdp.diffusion.process import Process


@dataclass(frozen=True)
class Objective:
    """The process, and the way from frames to what it noises and back."""

    process: Process
    scale: Tensor  # root mean square of what is diffused, per channel, (C,)
    residual: bool  # the change from known frames, or the frame itself
    task: Task = "predict"  # which decides what a change is measured from

    def base(self, known: Tensor, index: Tensor, target_index: Tensor) -> Tensor:
        """What targets are measured from: (B, C, K, h, w), (B, K), (B, N) -> (B, C, N, h, w)."""
        return base_frames(known, index, target_index, self.residual, self.task)

    def to_data(self, frames: Tensor, base: Tensor) -> Tensor:
        """Frames to clean data x0 of the process, (B, C, N, h, w) both."""
        return (frames - base) / self.scale[:, None, None, None]

    def to_frames(self, x0: Tensor, base: Tensor) -> Tensor:
        """Clean data to frames; inverse of `to_data`."""
        return base + self.scale[:, None, None, None] * x0


def base_frames(known: Tensor, index: Tensor, target_index: Tensor, residual: bool, task: Task) -> Tensor:
    """What changes are measured from, where they are diffused; zeros elsewhere, and with nothing known."""
    if residual and task == "interpolate":
        return blended_frames(known, index, target_index)
    anchors = anchor_frames(known, index, target_index)
    return anchors if residual else torch.zeros_like(anchors)


def data_scale(batches: Sequence[Hops], residual: bool) -> Tensor:
    """Root mean square per channel of what is diffused, (C,), by which it gets unit size.

    Args:
        batches: hops of the training data.
        residual: whether changes from known frames are diffused, or frames.

    Raises:
        ValueError: if a channel is zero throughout: still pictures, say, have no motion to learn.
    """
    data = [
        hops.target - base_frames(hops.known, hops.index, hops.target_index, residual, hops.task)
        for hops in batches
    ]
    scale = torch.cat(data).float().square().mean(dim=(0, 2, 3, 4)).sqrt()
    if not bool((scale > 0).all()):
        what = "every frame equals the one before it" if residual else "every frame is zero"
        raise ValueError(f"latents: in some channel {what}; expected clips with motion")
    return scale
