"""Training contexts that the network has made itself, as those of a rollout are.

A network that has only ever seen true frames does not know its own errors, and they grow hop by hop. So in a
share of the steps the newest known frames are replaced by predictions from those before them (scheduled
sampling: Bengio et al. 2015, arXiv:1506.03099), through which no gradient flows; the target stays true.
Shapes: B clips, C channels, K known frames, nearest to the target first.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from vdp.diffusion.contract import Denoiser
from vdp.diffusion.objective import Objective
from vdp.diffusion.process import clean_and_noise
from vdp.tasks import Hops

ContextT = TypeVar("ContextT")
Draw = Callable[..., Tensor]  # shape -> random numbers of it


@dataclass(frozen=True)
class OwnContext:
    """How often, how many and how frames are made."""

    share: float  # of the steps
    frames: int  # at most; a step draws 1 up to this many
    steps: int  # sampling steps of each
    temperature: float  # scale of their starting noise


@torch.no_grad()
def with_own_frames(
    denoiser: Denoiser[ContextT],
    hops: Hops,
    objective: Objective,
    own: OwnContext,
    uniform: Draw,
    normal: Draw,
) -> Hops:
    """Hops whose newest known frames the network has made, the older ones first.

    Args:
        denoiser: the network.
        hops: known frames nearest first, at least two of them where any is to be made.
        objective: the process, and what it noises.
        own: how many frames, in how many steps, at what temperature.
        uniform: uniform numbers in [0, 1) of a shape.
        normal: standard normal numbers of a shape.

    Returns:
        The same hops with other known frames; as they are where there is nothing to make frames from.
    """
    most = min(own.frames, hops.index.shape[1] - 1)
    made = 1 + int(uniform(1).item() * most) if most > 0 else 0
    known = hops.known
    batch, channels, _, height, width = known.shape
    for newest in reversed(range(made)):
        before, index = known[:, :, newest + 1 :], hops.index[:, newest + 1 :]
        noise = own.temperature * normal(batch, channels, 1, height, width)
        frame = _one_frame(denoiser, before, index, hops.index[:, newest : newest + 1], objective, own, noise)
        known = torch.cat([known[:, :, :newest], frame.to(known.dtype), before], dim=2)
    return replace(hops, known=known)


def _one_frame(
    denoiser: Denoiser[ContextT],
    known: Tensor,
    index: Tensor,
    target_index: Tensor,
    objective: Objective,
    own: OwnContext,
    noise: Tensor,
) -> Tensor:
    """A frame by a few steps of DDIM at evenly spaced times from 1 down."""
    clean = torch.zeros_like(index)
    seen = torch.zeros(len(index), dtype=torch.bool, device=index.device)
    context = denoiser.context(known, index, clean, seen, target_index)
    x = noise
    for step in range(own.steps, 0, -1):
        t = torch.full_like(target_index, step / own.steps)
        x0, eps = clean_and_noise(x, denoiser(x, t, context), t, objective.process)
        alpha, sigma = objective.process.schedule(torch.full_like(target_index, (step - 1) / own.steps))
        x = alpha[:, None, :, None, None] * x0 + sigma[:, None, :, None, None] * eps
    return objective.to_frames(x, objective.base(known, index, target_index))
