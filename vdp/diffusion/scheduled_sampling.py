"""Training contexts that the network has made itself, as those of a rollout are.

A network that has only ever seen true frames does not know its own errors, and they grow hop by hop. So in a
share of the steps the newest known frames are replaced by predictions from those before them (scheduled
sampling: Bengio et al. 2015, arXiv:1506.03099), through which no gradient flows; the target stays true.
Shapes: B clips, C channels, K known frames, nearest to the target first.
"""

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from vdp.core.context_frames import Hops
from vdp.core.rng import BatchRng
from vdp.diffusion.objective import Objective
from vdp.diffusion.process import predict_x0_eps
from vdp.diffusion.protocols import Denoiser

ContextT = TypeVar("ContextT")


@dataclass(frozen=True)
class ScheduledSampling:
    """How often, how many and how frames are made."""

    share: float  # of the steps
    frames: int  # at most; a step draws 1 up to this many
    steps: int  # sampling steps of each
    temperature: float  # scale of their starting noise


def replace_newest_frames(
    denoiser: Denoiser[ContextT],
    hops: Hops,
    objective: Objective,
    own: ScheduledSampling,
    batch_rng: BatchRng,
) -> Hops:
    """Hops whose newest known frames the network has made, the older ones first.

    Args:
        denoiser: the network.
        hops: known frames nearest first, at least two of them where any is to be made.
        objective: the process, and what it noises.
        own: how many frames, in how many steps, at what temperature.
        batch_rng: random numbers of the hops, on their device.

    Returns:
        The same hops with other known frames; as they are where there is nothing to make frames from.
    """
    most = min(own.frames, hops.index.shape[1] - 1)
    made = 1 + int(batch_rng.shared() * most) if most > 0 else 0
    known = hops.known
    batch, channels, _, height, width = known.shape
    for newest in reversed(range(made)):
        before, index = known[:, :, newest + 1 :], hops.index[:, newest + 1 :]
        noise = own.temperature * batch_rng.normal(batch, channels, 1, height, width)
        target_index = hops.index[:, newest : newest + 1]
        frame = sample_frames(denoiser, before, index, target_index, objective, own.steps, noise)
        known = torch.cat([known[:, :, :newest], frame, before], dim=2)
    return replace(hops, known=known)


@torch.no_grad()
def sample_frames(
    denoiser: Denoiser[ContextT],
    known: Tensor,
    index: Tensor,
    target_index: Tensor,
    objective: Objective,
    steps: int,
    noise: Tensor,
) -> Tensor:
    """Targets by a few steps of DDIM (arXiv:2010.02502) at evenly spaced times from 1 down.

    Args:
        denoiser: the network.
        known: clean known frames, (B, C, K, h, w).
        index: their times, (B, K), in frames.
        target_index: those of the targets, (B, N).
        objective: the process, and what it noises.
        steps: calls of the network.
        noise: what to start from, (B, C, N, h, w).

    Returns:
        Frames, (B, C, N, h, w).
    """
    clean = torch.zeros_like(index)
    seen = torch.zeros(len(index), dtype=torch.bool, device=index.device)
    context = denoiser.context(known, index, clean, seen, target_index)
    x = noise
    for step in range(steps, 0, -1):
        t = torch.full_like(target_index, step / steps)
        x0, eps = predict_x0_eps(x, denoiser(x, t, context), t, objective.process)
        alpha, sigma = objective.process.schedule(torch.full_like(target_index, (step - 1) / steps))
        x = alpha[:, None, :, None, None] * x0 + sigma[:, None, :, None, None] * eps
    return objective.to_frames(x, objective.base(known, index, target_index))
