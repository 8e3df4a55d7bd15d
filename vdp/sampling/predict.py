"""Predict the frames of the hops of clips, several futures each, from their known frames.

Shapes: B clips, S futures (samples) of each, K known frames, N hops, C x h x w latents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from vdp.diffusion.contract import Denoiser
from vdp.diffusion.process import Kind
from vdp.sampling.rollout import rollout

ContextT = TypeVar("ContextT")


@dataclass(frozen=True)
class Strategy:
    """How to predict: hops as 0-based times, sampling steps, temperature of the starting noise, futures per clip."""

    hops: tuple[float, ...]
    steps: int
    temperature: float
    samples: int


def starting_noise(seed: int, clips: Sequence[int], strategy: Strategy, shape: tuple[int, ...]) -> Tensor:
    """Noise of every hop of every future, (B*S, C, N, h, w); that of a clip does not depend on its neighbours.

    Args:
        seed: of the run.
        clips: number of each clip, which its randomness is drawn from.
        strategy: gives the hops, the futures and the temperature.
        shape: (C, h, w).
    """
    channels, *plane = shape
    drawn = []
    for clip in clips:
        for sample in range(strategy.samples):
            generator = torch.Generator().manual_seed((seed * 1_000_003 + clip) * 1_009 + sample)
            drawn.append(torch.randn((channels, len(strategy.hops), *plane), generator=generator))
    return strategy.temperature * torch.stack(drawn)


@torch.inference_mode()
def predict(
    denoiser: Denoiser[ContextT],
    known: Tensor,
    clips: Sequence[int],
    scale: Tensor,
    kind: Kind,
    strategy: Strategy,
    seed: int,
) -> Tensor:
    """Roll out S futures of each clip.

    Args:
        denoiser: the network.
        known: normalised latents of frames 0..K-1, (B, C, K, h, w).
        clips: number of each clip, for its noise.
        scale: standard deviation of a change per channel, (C,).
        kind: the process.
        strategy: hops, steps, temperature, futures.
        seed: of the run.

    Returns:
        Normalised latents of the hops, (B, S, C, N, h, w).
    """
    batch, channels, count, height, width = known.shape
    noise = starting_noise(seed, clips, strategy, (channels, height, width)).to(known.device)
    repeated = known.repeat_interleave(strategy.samples, dim=0)
    index = torch.arange(count, dtype=torch.float32, device=known.device).expand(len(repeated), -1)
    made = rollout(denoiser, repeated, index, strategy.hops, scale, kind, strategy.steps, noise)
    return made.reshape(batch, strategy.samples, *made.shape[1:])
