"""The denoiser's loss on hops of a rollout.

Shapes: B clips, C channels, K known frames, N targets, R noise draws of each target.
"""

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from vdp.diffusion.contract import Denoiser
from vdp.diffusion.objective import Objective
from vdp.diffusion.own_context import OwnContext, with_own_frames
from vdp.diffusion.process import add_noise, min_snr_weight, target
from vdp.tasks import Hops

ContextT = TypeVar("ContextT")


def shift_time(t: Tensor, shift: float) -> Tensor:
    """Move uniform times towards 1 for shift > 1 (Esser et al. 2024, arXiv:2403.03206, equation 23)."""
    return shift * t / (1 + (shift - 1) * t)


def diffusion_loss(
    denoiser: Denoiser[ContextT],
    hops: Hops,
    objective: Objective,
    min_snr_gamma: float | None,
    t: Tensor,
    noise: Tensor,
    level: Tensor,
    context_noise: Tensor,
    dropped: Tensor,
) -> Tensor:
    """Mean squared error of the network's output, with R noise draws sharing one pass over the context.

    Args:
        denoiser: the network.
        hops: what is known and what is to be predicted.
        objective: the process, and what it noises.
        min_snr_gamma: clamp of the signal-to-noise weight (arXiv:2303.09556); None: all times weigh alike.
        t: diffusion times, (B, N*R).
        noise: standard normal, (B, C, N*R, h, w); the draws of a target stand side by side.
        level: standard deviation of the noise on each known frame, (B, K), which the network is told.
        context_noise: standard normal, the shape of `hops.known`.
        dropped: (B,) bool, True where the pictures of the known frames are withheld from the network.

    Returns:
        A scalar.
    """
    known = hops.known + level[:, None, :, None, None] * context_noise
    base = objective.base(known, hops.index, hops.target_index)
    draws = t.shape[1] // hops.target_index.shape[1]
    x0 = objective.to_data(hops.target, base).repeat_interleave(draws, dim=2)
    context = denoiser.context(known, hops.index, level, dropped, hops.target_index)
    output = denoiser(add_noise(x0, noise, t, objective.process.schedule), t, context)
    error = (output - target(x0, noise, t, objective.process)).square()
    if min_snr_gamma is None:
        return error.mean()
    return (error.mean(dim=(1, 3, 4)) * min_snr_weight(t, objective.process, min_snr_gamma)).mean()


@dataclass(frozen=True)
class HopLoss:
    """How a training step draws its times, its noise and what it makes of the known frames.

    A loss of `vdp.training.fit`: all chance comes from the generator that it is called with.
    """

    objective: Objective
    min_snr_gamma: float | None
    time_shift: float  # above 1: more training at high noise
    draws: int  # noise draws of each target
    context_noise: float  # largest standard deviation of noise on known frames; half of the clips have none
    drop_context: float  # share of clips without pictures of known frames
    own_context: OwnContext

    def __call__(
        self, denoiser: Denoiser[ContextT], hops: Hops, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The loss of a batch of hops.

        Args:
            denoiser: the network.
            hops: what is known and what is to be predicted.
            generator: on the device of `hops`.

        Returns:
            'loss', a scalar.
        """
        device = hops.known.device

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=device)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device)

        batch, channels, targets, height, width = hops.target.shape
        t = uniform(batch, targets * self.draws)
        if denoiser.joint:  # frames that are made together are at one time
            t = t[:, : self.draws].repeat(1, targets)
        t = shift_time(t, self.time_shift)
        level = self.context_noise * uniform(batch, 1) * (uniform(batch, 1) < 0.5)
        noise = normal(batch, channels, targets * self.draws, height, width)
        context_noise = normal(*hops.known.shape)
        dropped = uniform(batch) < self.drop_context
        level = level * ~dropped[:, None]  # noise that the network cannot see would only blur what it learns
        if self.own_context.share > 0 and uniform(1).item() < self.own_context.share:
            hops = with_own_frames(denoiser, hops, self.objective, self.own_context, uniform, normal)
        loss = diffusion_loss(
            denoiser,
            hops,
            self.objective,
            self.min_snr_gamma,
            t,
            noise,
            level.expand(-1, hops.index.shape[1]),
            context_noise,
            dropped,
        )
        return {"loss": loss}
