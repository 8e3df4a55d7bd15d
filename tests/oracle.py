"""A denoiser that knows the truth: what a perfectly trained network would do."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vdp.diffusion.objective import Objective
from vdp.diffusion.process import target

Truth = Callable[[Tensor], Tensor]  # frame index (B, N) -> true latents (B, C, N, h, w)


@dataclass(frozen=True)
class OracleContext:
    """The clean data of each target, (B, C, N, h, w)."""

    x0: Tensor


class Oracle:
    """Keeps the contract of `vdp.diffusion.protocols.Denoiser`; remembers the known frames it was shown."""

    joint = False

    def __init__(self, truth: Truth, objective: Objective) -> None:
        self.truth, self.objective = truth, objective
        self.shown: list[list[float]] = []  # times of the known frames of the first clip, per context
        self.levels: list[list[float]] = []  # their noise levels
        self.calls = 0

    def context(
        self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
    ) -> OracleContext:
        self.shown.append(index[0].tolist())
        self.levels.append(level[0].tolist())
        base = self.objective.base(frames, index, target_index)
        return OracleContext(self.objective.to_data(self.truth(target_index), base))

    def __call__(self, xt: Tensor, t: Tensor, context: OracleContext) -> Tensor:
        self.calls += 1
        x0 = context.x0.repeat_interleave(xt.shape[2] // context.x0.shape[2], dim=2)
        alpha, sigma = (s[:, None, :, None, None] for s in self.objective.process.schedule(t))
        noise = torch.where(sigma > 0, (xt - alpha * x0) / sigma, 0)
        return target(x0, noise, t, self.objective.process)


def moving_clips(batch: int, channels: int, height: int, width: int) -> Truth:
    """Smooth random motion of each latent position, at any real-valued time."""
    generator = torch.Generator().manual_seed(0)
    speed, phase, size = torch.rand((3, batch, channels, 1, height, width), generator=generator)

    def truth(index: Tensor) -> Tensor:
        return (0.5 + size) * torch.sin(0.2 * speed * index[:, None, :, None, None] + 6 * phase)

    return truth
