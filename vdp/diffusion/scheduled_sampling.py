"""Scheduled sampling (Bengio et al. 2015, arXiv:1506.03099) of context frames in training.

In a share of the training steps the newest context frames are replaced by predictions from the older ones, as
in a rollout. No gradient flows through the predictions; the target frames are not replaced.
Shapes: B clips, C channels, K context frames, nearest to the target first, N target frames.
"""

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from vdp.core.context_frames import Hops
from vdp.core.rng import BatchRng
from vdp.diffusion.moved import with_moved
from vdp.diffusion.objective import Objective
from vdp.diffusion.process import alpha_sigma, ddim_step, predict_x0_eps
from vdp.diffusion.protocols import Denoiser, DiffusedData

ContextT = TypeVar("ContextT")

EPS_START = 0.9  # about the first leading level of 10 steps; eps gives no x0 at pure noise


@dataclass(frozen=True)
class ScheduledSampling:
    """Share of training steps with predicted context frames, and how these are sampled."""

    share: float  # of the training steps
    frames: int  # max number of predicted frames; each step draws 1..frames
    steps: int  # sampling steps per frame
    temperature: float  # scale of the initial noise


def replace_newest_frames(
    denoiser: Denoiser[ContextT],
    hops: Hops,
    objective: Objective,
    params: ScheduledSampling,
    batch_rng: BatchRng,
) -> Hops:
    """Replace the newest context frames by predictions, oldest first; at least one is not replaced.

    Composed frames of the targets are not predictions of a rollout and stay.
    """
    bases = hops.bases
    limit = min(params.frames, hops.index.shape[1] - bases - 1)
    count = 1 + int(batch_rng.shared() * limit) if limit > 0 else 0
    known = hops.known
    batch, channels, _, height, width = known.shape
    for newest in reversed(range(bases, bases + count)):
        before, index = known[:, :, newest + 1 :], hops.index[:, newest + 1 :]
        noise = params.temperature * batch_rng.normal(batch, channels, 1, height, width)
        target_index = hops.index[:, newest : newest + 1]
        frame = sample_frames(denoiser, before, index, target_index, objective, params.steps, noise)
        known = torch.cat([known[:, :, :newest], frame, before], dim=2)
    return replace(hops, known=known)


@torch.no_grad()
def sample_frames(
    denoiser: Denoiser[ContextT],
    known: Tensor,
    index: Tensor,
    target_index: Tensor,
    objective: DiffusedData,
    steps: int,
    noise: Tensor,
) -> Tensor:
    """Sample target frames by deterministic DDIM at evenly spaced times from 1, with eps from 0.9, to 0.

    Args:
        known, index: clean context frames, (B, C, K, h, w), and their frame indices, (B, K).
        target_index: frame indices of the target frames, (B, N).
        noise: initial noise, (B, C, N, h, w).
    """
    clean = torch.zeros_like(index)
    dropped = torch.zeros(len(index), dtype=torch.bool, device=index.device)
    given = with_moved(denoiser, known, index, clean, target_index)
    context = denoiser.context(given.frames, given.index, given.level, dropped, target_index)
    x, start = noise, EPS_START if objective.process.prediction == "eps" else 1.0
    for step in range(steps, 0, -1):
        t, next_t = (torch.full_like(target_index, start * (n / steps)) for n in (step, step - 1))
        x0, eps = predict_x0_eps(x, denoiser(x, t, context), t, objective.process)
        x = ddim_step(x0, eps, *alpha_sigma(next_t, objective.process.schedule))
    return objective.to_frames(x, objective.base(given.frames, given.index, target_index))
