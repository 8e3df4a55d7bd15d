"""Generate clips without context frames.

Shapes: B clips, C channels, F frames, h x w latent positions.
"""

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from vdp.diffusion.objective import Objective
from vdp.diffusion.protocols import Denoiser
from vdp.sampling.hops import HopPlan
from vdp.sampling.rollout import NoiseSource, Strategy, rollout

ContextT = TypeVar("ContextT")


def generate(
    denoiser: Denoiser[ContextT],
    generate_objective: Objective,
    predict_objective: Objective,
    first_frames: int,
    hops: HopPlan,
    shape: tuple[int, ...],
    strategy: Strategy,
    noise_source: NoiseSource,
    device: torch.device,
    edited: Tensor | None = None,
) -> Tensor:
    """Generate the first frames without context and roll out the others from them.

    Args:
        generate_objective, predict_objective: of the first hop and of `hops`.
        first_frames: frames of the first hop, at indices from 0.
        hops: later hops.
        shape: (B, C, h, w).
        strategy: its hops are ignored.
        edited: frames of all hops to start from, noised, (B, C, F, h, w), as of `rollout`.

    Returns:
        (B, C, F, h, w), the frames of all hops.
    """
    clips, channels, height, width = shape
    no_frames = torch.zeros(clips, channels, 0, height, width, device=device)
    no_index = torch.zeros(clips, 0, device=device)
    first_hop = tuple(float(step) for step in range(first_frames))
    start = replace(strategy, hops=(first_hop,))
    first, rest = (
        (None, None) if edited is None else (edited[:, :, :first_frames], edited[:, :, first_frames:])
    )
    generated = rollout(denoiser, no_frames, no_index, generate_objective, start, noise_source, edited=first)
    if not hops:
        return generated
    index = torch.tensor(first_hop, device=device).expand(clips, -1)
    later = replace(strategy, hops=hops)
    predicted = rollout(denoiser, generated, index, predict_objective, later, noise_source, edited=rest)
    return torch.cat([generated, predicted], dim=2)
