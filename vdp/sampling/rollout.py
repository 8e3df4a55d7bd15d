"""Rollout: predict frames hop by hop, each made frame joining the known ones.

Shapes: B clips, C latent channels, K known frames, S hops, h x w latent positions.
"""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from vdp.diffusion.contract import Denoiser
from vdp.diffusion.process import Kind, alpha_sigma, clean_and_noise
from vdp.sampling.samplers import ddim
from vdp.tasks import anchor_frames

ContextT = TypeVar("ContextT")


def rollout(
    denoiser: Denoiser[ContextT],
    known: Tensor,
    index: Tensor,
    hops: Sequence[float],
    scale: Tensor,
    kind: Kind,
    steps: int,
    noise: Tensor,
) -> Tensor:
    """Predict the frames at `hops`, one after the other, by DDIM on the change from the nearest known frame.

    Args:
        denoiser: the network; its context is encoded once per hop and reused by all steps.
        known: normalised latents of the given frames, (B, C, K, h, w).
        index: real-valued time of each of them, (B, K), in frames.
        hops: times to predict, in the order of prediction; any spacing.
        scale: standard deviation of a change per channel, (C,), from training.
        kind: the process.
        steps: sampling steps per hop.
        noise: starting noise of each hop, (B, C, S, h, w), already at the wished temperature.

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
        context = denoiser.context(known, index, torch.zeros_like(index), target)

        def denoise(xt: Tensor, t: Tensor, context: ContextT = context) -> tuple[Tensor, Tensor]:
            per_frame = t.expand(batch, 1)
            return clean_and_noise(xt, denoiser(xt, per_frame, context), per_frame, kind)

        change = ddim(denoise, noise[:, :, hop : hop + 1], steps, lambda t: alpha_sigma(t, kind))
        frame = anchor_frames(known, index, target) + per_channel * change
        known, index = torch.cat([known, frame], dim=2), torch.cat([index, target], dim=1)
        made.append(frame)
    return torch.cat(made, dim=2)
