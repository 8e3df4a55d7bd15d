"""A denoiser that knows the truth: what a perfectly trained network would do."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vdp.diffusion.process import Kind, alpha_sigma, target
from vdp.tasks import anchor_frames

Truth = Callable[[Tensor], Tensor]  # frame index (B, N) -> true latents (B, C, N, h, w)


@dataclass(frozen=True)
class OracleContext:
    """The true change of each target, (B, C, N, h, w)."""

    change: Tensor


class Oracle:
    """Keeps the contract of `vdp.diffusion.contract.Denoiser`; remembers the known frames it was shown."""

    def __init__(self, truth: Truth, scale: Tensor, kind: Kind) -> None:
        self.truth, self.scale, self.kind = truth, scale, kind
        self.shown: list[list[float]] = []  # times of the known frames of the first clip, per context
        self.calls = 0

    def context(self, frames: Tensor, index: Tensor, level: Tensor, target_index: Tensor) -> OracleContext:
        self.shown.append(index[0].tolist())
        anchor = anchor_frames(frames, index, target_index)
        return OracleContext((self.truth(target_index) - anchor) / self.scale[:, None, None, None])

    def __call__(self, xt: Tensor, t: Tensor, context: OracleContext) -> Tensor:
        self.calls += 1
        x0 = context.change.repeat_interleave(xt.shape[2] // context.change.shape[2], dim=2)
        alpha, sigma = (s[:, None, :, None, None] for s in alpha_sigma(t, self.kind))
        return target(x0, (xt - alpha * x0) / sigma, t, self.kind)


def moving_clips(batch: int, channels: int, height: int, width: int) -> Truth:
    """Smooth random motion of each latent position, at any real-valued time."""
    generator = torch.Generator().manual_seed(0)
    speed, phase, size = torch.rand((3, batch, channels, 1, height, width), generator=generator)

    def truth(index: Tensor) -> Tensor:
        return (0.5 + size) * torch.sin(0.2 * speed * index[:, None, :, None, None] + 6 * phase)

    return truth
