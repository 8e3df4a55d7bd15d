"""A perfect denoiser."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vdp.diffusion.objective import Objective
from vdp.diffusion.process import alpha_sigma, target
from vdp.models.layers import Unmoved

Truth = Callable[[Tensor], Tensor]  # frame index (B, N) -> true latents (B, C, N, h, w)


@dataclass(frozen=True)
class OracleContext:
    """The clean data of each target frame, (B, C, N, h, w)."""

    x0: Tensor


def output_of(x0: Tensor, xt: Tensor, t: Tensor, objective: Objective) -> Tensor:
    """The output of a network that predicts `x0` at `xt`."""
    alpha, sigma = alpha_sigma(t, objective.process.schedule)
    noise = torch.where(sigma > 0, (xt - alpha * x0) / sigma, 0)
    return target(x0, noise, t, objective.process)


class Oracle(Unmoved):
    """Predicts the truth; implements `vdp.diffusion.protocols.Denoiser` and records its context frames."""

    joint = False

    def __init__(self, truth: Truth, objective: Objective) -> None:
        self.truth, self.objective = truth, objective
        self.indices: list[list[float]] = []  # of the context frames of the first clip, per context
        self.levels: list[list[float]] = []  # their noise levels
        self.calls = 0

    def context(
        self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
    ) -> OracleContext:
        self.indices.append(index[0].tolist())
        self.levels.append(level[0].tolist())
        base = self.objective.base(frames, index, target_index)
        return OracleContext(self.objective.to_data(self.truth(target_index), base))

    def __call__(self, xt: Tensor, t: Tensor, context: OracleContext) -> Tensor:
        self.calls += 1
        x0 = context.x0.repeat_interleave(xt.shape[2] // context.x0.shape[2], dim=2)
        return output_of(x0, xt, t, self.objective)


def moving_clips(batch: int, channels: int, height: int, width: int) -> Truth:
    """Smooth random motion of each latent position, at any real-valued frame index."""
    generator = torch.Generator().manual_seed(0)
    speed, phase, size = torch.rand((3, batch, channels, 1, height, width), generator=generator)

    def truth(index: Tensor) -> Tensor:
        return (0.5 + size) * torch.sin(0.2 * speed * index[:, None, :, None, None] + 6 * phase)

    return truth
