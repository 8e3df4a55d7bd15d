"""Rollout: predict frames hop by hop, each made frame joining the known ones.

Shapes: B clips, C latent channels, K known frames, S hops, h x w latent positions.
"""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from vdp.diffusion.contract import Denoiser
from vdp.diffusion.process import Kind, alpha_sigma, clean_and_noise
from vdp.sampling.samplers import Sampler
from vdp.tasks import anchor_frames, nearest_frames

ContextT = TypeVar("ContextT")


def rollout(
    denoiser: Denoiser[ContextT],
    known: Tensor,
    index: Tensor,
    hops: Sequence[float],
    scale: Tensor,
    kind: Kind,
    sampler: Sampler,
    steps: int,
    noise: Tensor,
    context_frames: int,
) -> Tensor:
    """Predict the frames at `hops` in turn: sample each one's change from the nearest known frame.

    Args:
        denoiser: the network; its context is encoded once per hop and reused by all steps.
        known: normalised latents of the given frames, (B, C, K, h, w).
        index: real-valued time of each of them, (B, K), in frames.
        hops: times to predict, in the order of prediction; any spacing.
        scale: standard deviation of a change per channel, (C,), from training.
        kind: the process.
        sampler: from noise to a change.
        steps: sampling steps per hop.
        noise: starting noise of each hop, (B, C, S, h, w), already at the wished temperature.
        context_frames: how many known frames, nearest first, the network is given; as many as it was trained
            with.

    Returns:
        Normalised latents of the hops, (B, C, S, h, w).

    Raises:
        ValueError: if `noise` has not one frame for each hop.
    """
    if noise.shape[2] != len(hops):
        raise ValueError(f"noise: expected one frame for each of {len(hops)} hops, got {noise.shape[2]}")
    batch = known.shape[0]
    per_channel = scale[:, None, None, None]
    made = []
    for hop, time in enumerate(hops):
        target = index.new_full((batch, 1), time)
        frames, times = nearest_frames(known, index, target, context_frames)
        context = denoiser.context(frames, times, torch.zeros_like(times), target)

        def denoise(xt: Tensor, t: Tensor, context: ContextT = context) -> tuple[Tensor, Tensor]:
            per_frame = t.expand(batch, 1)
            return clean_and_noise(xt, denoiser(xt, per_frame, context), per_frame, kind)

        change = sampler(denoise, noise[:, :, hop : hop + 1], steps, lambda t: alpha_sigma(t, kind))
        frame = anchor_frames(known, index, target) + per_channel * change
        known, index = torch.cat([known, frame], dim=2), torch.cat([index, target], dim=1)
        made.append(frame)
    return torch.cat(made, dim=2)
