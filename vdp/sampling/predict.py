"""Predict the frames of the hops of clips, several futures each, from their known frames.

Shapes: B clips, S futures (samples) of each, K known frames, N hops, C x h x w latents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from vdp.diffusion.contract import Denoiser
from vdp.diffusion.process import Kind
from vdp.sampling.rollout import rollout
from vdp.sampling.samplers import Sampler

ContextT = TypeVar("ContextT")


@dataclass(frozen=True)
class Strategy:
    """How to predict: hops as 0-based times, sampler, steps, temperature of the noise, futures per clip."""

    hops: tuple[float, ...]
    sampler: Sampler
    steps: int
    temperature: float
    samples: int


def starting_noise(seed: int, clips: Sequence[int], strategy: Strategy, shape: tuple[int, ...]) -> Tensor:
    """Noise of each hop of each future, (B*S, C, N, h, w); that of a clip does not depend on its neighbours.

    Args:
        seed: of the run.
        clips: a number for each clip, which its randomness is drawn from.
        strategy: gives the hops, the futures and the temperature.
        shape: (C, h, w).
    """
    channels, *plane = shape
    drawn = []
    for clip in clips:
        for sample in range(strategy.samples):
            generator = torch.Generator().manual_seed(_stream(seed, clip, sample))
            drawn.append(torch.randn((channels, len(strategy.hops), *plane), generator=generator))
    return strategy.temperature * torch.stack(drawn)


def _stream(seed: int, clip: int, sample: int) -> int:
    """A seed for each future, far from those of its neighbours."""
    return int(np.random.SeedSequence([seed, clip, sample]).generate_state(1, np.uint64)[0] >> np.uint64(1))


@torch.inference_mode()
def predict(
    denoiser: Denoiser[ContextT],
    known: Tensor,
    clips: Sequence[int],
    scale: Tensor,
    kind: Kind,
    strategy: Strategy,
    context_frames: int,
    seed: int,
) -> Tensor:
    """Roll out S futures of each clip.

    Args:
        denoiser: the network.
        known: normalised latents of frames 0..K-1, (B, C, K, h, w).
        clips: a number for each clip, for its noise.
        scale: standard deviation of a change per channel, (C,).
        kind: the process.
        strategy: hops, sampler, steps, temperature, futures.
        context_frames: how many known frames, nearest first, the network is given at once.
        seed: of the run.

    Returns:
        Normalised latents of the hops, (B, S, C, N, h, w).
    """
    batch, channels, count, height, width = known.shape
    noise = starting_noise(seed, clips, strategy, (channels, height, width)).to(known.device)
    repeated = known.repeat_interleave(strategy.samples, dim=0)
    index = torch.arange(count, dtype=torch.float32, device=known.device).expand(len(repeated), -1)
    made = rollout(
        denoiser,
        repeated,
        index,
        strategy.hops,
        scale,
        kind,
        strategy.sampler,
        strategy.steps,
        noise,
        context_frames,
    )
    return made.reshape(batch, strategy.samples, *made.shape[1:])
