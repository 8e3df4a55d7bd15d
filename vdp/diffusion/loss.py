"""The denoiser's loss: velocity of the noised change from the nearest known frame.

Shapes: B clips, C channels, K known frames, N targets, R noise draws of each target.
"""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from vdp.diffusion.contract import Denoiser
from vdp.diffusion.params import DiffusionParams
from vdp.diffusion.process import Kind, add_noise, target
from vdp.tasks import Hops, anchor_frames

ContextT = TypeVar("ContextT")


def shift_time(t: Tensor, shift: float) -> Tensor:
    """Move uniform times towards 1 for shift > 1 (Esser et al. 2024, arXiv:2403.03206, equation 23)."""
    return shift * t / (1 + (shift - 1) * t)


def velocity_loss(
    denoiser: Denoiser[ContextT],
    hops: Hops,
    scale: Tensor,
    kind: Kind,
    t: Tensor,
    noise: Tensor,
    level: Tensor,
    context_noise: Tensor,
) -> Tensor:
    """Mean squared error of the network's velocity, with R noise draws sharing one pass over the context.

    Args:
        denoiser: the network.
        hops: what is known and what is to be predicted.
        scale: standard deviation of a change per channel, (C,).
        kind: the process.
        t: diffusion times, (B, N*R).
        noise: standard normal, (B, C, N*R, h, w); the draws of a target stand side by side.
        level: standard deviation of the noise on each known frame, (B, K), which the network is told.
        context_noise: standard normal, the shape of `hops.known`.

    Returns:
        A scalar.
    """
    known = hops.known + level[:, None, :, None, None] * context_noise
    anchor = anchor_frames(known, hops.index, hops.target_index)
    draws = t.shape[1] // hops.target_index.shape[1]
    x0 = ((hops.target - anchor) / scale[:, None, None, None]).repeat_interleave(draws, dim=2)
    context = denoiser.context(known, hops.index, level, hops.target_index)
    output = denoiser(add_noise(x0, noise, t, kind), t, context)
    return (output - target(x0, noise, t, kind)).square().mean()


def hop_loss(
    denoiser: Denoiser[ContextT],
    hops: Hops,
    scale: Tensor,
    params: DiffusionParams,
    draws: int,
    context_noise: float,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """`velocity_loss` with its times, noise and context noise drawn from `generator`.

    Args:
        denoiser: the network.
        hops: what is known and what is to be predicted.
        scale: standard deviation of a change per channel, (C,).
        params: the process and the distribution of times.
        draws: noise draws of each target.
        context_noise: largest standard deviation of the noise on known frames; half of the clips have none.
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
    t = shift_time(uniform(batch, targets * draws), params.time_shift)
    level = context_noise * uniform(batch, 1) * (uniform(batch, 1) < 0.5)
    loss = velocity_loss(
        denoiser,
        hops,
        scale,
        params.process,
        t,
        normal(batch, channels, targets * draws, height, width),
        level.expand(-1, hops.index.shape[1]),
        normal(*hops.known.shape),
    )
    return {"loss": loss}


def change_scale(batches: Sequence[Hops]) -> Tensor:
    """Standard deviation per channel of changes from the nearest known frame, (C,), for unit variance.

    Raises:
        ValueError: if nothing changes: a data set of still pictures has no motion to learn.
    """
    changes = [hops.target - anchor_frames(hops.known, hops.index, hops.target_index) for hops in batches]
    scale = torch.cat(changes).float().square().mean(dim=(0, 2, 3, 4)).sqrt()
    if not bool((scale > 0).all()):
        raise ValueError("changes: every frame equals the one before it; expected clips with motion")
    return scale
