"""Predict the frames of the hops of clips, several futures each, from their known frames.

Shapes: B clips, S futures (samples) of each, K known frames, N frames of all hops, C x h x w latents.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from vdp.diffusion.objective import Objective
from vdp.diffusion.protocols import Denoiser
from vdp.sampling.params import PredictParams
from vdp.sampling.rollout import Strategy, rollout
from vdp.sampling.samplers import make_sampler, time_grid

ContextT = TypeVar("ContextT")


class FutureNoise:
    """Standard normal noise of every future, each from a generator of its own.

    So what is predicted for a clip depends neither on its neighbours nor on how many futures there are.

    Args:
        seed: of the run.
        clips: a number for each clip, which its randomness is drawn from.
        samples: futures of each clip.
        shape: (C, h, w) of a frame.
        device: where the noise is wanted; it is drawn on the CPU, alike for every device.
    """

    def __init__(
        self, seed: int, clips: Sequence[int], samples: int, shape: tuple[int, ...], device: torch.device
    ) -> None:
        self.generators = [
            torch.Generator().manual_seed(_stream(seed, clip, sample))
            for clip in clips
            for sample in range(samples)
        ]
        self.shape = shape
        self.device = device

    def __call__(self, frames: int) -> Tensor:
        """The next noise of all futures, (B*S, C, frames, h, w)."""
        channels, *plane = self.shape
        drawn = [torch.randn((channels, frames, *plane), generator=g) for g in self.generators]
        return torch.stack(drawn).to(self.device)


def _stream(seed: int, clip: int, sample: int) -> int:
    """A seed for each future, far from those of its neighbours."""
    return int(np.random.SeedSequence([seed, clip, sample]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def strategy_of(params: PredictParams, num_timesteps: int, context_frames: int) -> Strategy:
    """The strategy that section `predict` asks for.

    Args:
        params: the section.
        num_timesteps: noise levels of the process.
        context_frames: known frames that the network was trained with, at most.
    """
    return Strategy(
        hops=tuple(tuple(frame - 1.0 for frame in group) for group in params.frame_groups),
        sampler=make_sampler(params.sampler, params.eta),
        times=time_grid(params.steps, params.spacing, num_timesteps),
        temperature=params.temperature,
        guidance=params.guidance,
        context_noise=params.context_noise,
        context_frames=context_frames,
    )


@torch.inference_mode()
def predict(
    denoiser: Denoiser[ContextT],
    known: Tensor,
    clips: Sequence[int],
    objective: Objective,
    strategy: Strategy,
    samples: int,
    seed: int,
) -> Tensor:
    """Roll out S futures of each clip.

    Args:
        denoiser: the network.
        known: normalised latents of frames 0..K-1, (B, C, K, h, w).
        clips: a number for each clip, for its noise.
        objective: the process, and what it noises, as in training.
        strategy: hops, sampler and its times.
        samples: futures of each clip.
        seed: of the run.

    Returns:
        Normalised latents of the hops' frames, (B, S, C, N, h, w).
    """
    batch, channels, count, height, width = known.shape
    noise = FutureNoise(seed, clips, samples, (channels, height, width), known.device)
    repeated = known.repeat_interleave(samples, dim=0)
    index = torch.arange(count, dtype=torch.float32, device=known.device).expand(len(repeated), -1)
    made = rollout(denoiser, repeated, index, objective, strategy, noise)
    return made.reshape(batch, samples, *made.shape[1:])
