"""Clips from nothing, and clips from degraded ones.

Shapes: B clips, C channels, F frames, K degraded frames around a hop's, h x w latent positions.
"""

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from vdp.diffusion.objective import Objective
from vdp.diffusion.protocols import Denoiser
from vdp.sampling.hops import Plan
from vdp.sampling.rollout import Normal, Strategy, rollout

ContextT = TypeVar("ContextT")


def generate(
    denoiser: Denoiser[ContextT],
    first: Objective,
    later: Objective,
    opening: int,
    hops: Plan,
    shape: tuple[int, ...],
    strategy: Strategy,
    normal: Normal,
    device: torch.device,
) -> Tensor:
    """Clips from nothing: their first frames with none known, the others rolled out from these.

    Args:
        denoiser: the network.
        first: the objective of `generate`.
        later: that of `predict`.
        opening: frames of the first hop, at times from 0 on.
        hops: the hops after it.
        shape: (B, C, h, w).
        strategy: sampler and its times; its hops are not used.
        normal: gives all noise.
        device: where the clips are made.

    Returns:
        (B, C, F, h, w), the frames of all hops.
    """
    clips, channels, height, width = shape
    nothing = torch.zeros(clips, channels, 0, height, width, device=device)
    times = tuple(float(step) for step in range(opening))
    start = replace(strategy, hops=(times,))
    made = rollout(denoiser, nothing, torch.zeros(clips, 0, device=device), first, start, normal)
    if not hops:
        return made
    index = torch.tensor(times, device=device).expand(clips, -1)
    return torch.cat(
        [made, rollout(denoiser, made, index, later, replace(strategy, hops=hops), normal)], dim=2
    )
