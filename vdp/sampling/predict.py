"""Predict the frames of the hops of clips, several samples each.

Shapes: B clips, S samples per clip, K context frames, N frames of all hops, C x h x w latents.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from vdp.diffusion.protocols import Denoiser, DiffusedData
from vdp.sampling.params import PredictParams
from vdp.sampling.rollout import Strategy, rollout
from vdp.sampling.samplers import make_sampler, time_grid

ContextT = TypeVar("ContextT")


class SampleNoise:
    """Standard normal noise from one generator per sample, independent of batch and number of samples.

    Args:
        seed: of the run.
        clips: a number per clip; part of the seed of its generators.
        samples: samples per clip.
        shape: (C, h, w) of a frame.
        device: of the noise; it is drawn on the CPU, so it is the same on every device.
    """

    def __init__(
        self, seed: int, clips: Sequence[int], samples: int, shape: tuple[int, ...], device: torch.device
    ) -> None:
        self.generators = [
            torch.Generator().manual_seed(_generator_seed(seed, clip, sample))
            for clip in clips
            for sample in range(samples)
        ]
        self.shape = shape
        self.device = device

    def __call__(self, frames: int) -> Tensor:
        """Draw the next noise of all samples, (B*S, C, frames, h, w)."""
        channels, *plane = self.shape
        drawn = [torch.randn((channels, frames, *plane), generator=g) for g in self.generators]
        return torch.stack(drawn).to(self.device)


def _generator_seed(seed: int, clip: int, sample: int) -> int:
    return int(np.random.SeedSequence([seed, clip, sample]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def make_strategy(
    params: PredictParams,
    num_timesteps: int,
    context_frames: int,
    given_frames: int,
    gains: Sequence[float] = (),
) -> Strategy:
    """Build the strategy of section `predict` for a process, the context frames of the training and gains."""
    return Strategy(
        hops=tuple(tuple(frame - 1.0 for frame in group) for group in params.frame_groups),
        sampler=make_sampler(params.sampler, params.eta),
        times=time_grid(params.steps, params.spacing, num_timesteps),
        temperature=params.temperature,
        guidance=params.guidance,
        context_noise=params.context_noise,
        context_frames=context_frames,
        given_frames=given_frames,
        gains=tuple(gains),
    )


@torch.inference_mode()
def predict(
    denoiser: Denoiser[ContextT],
    known: Tensor,
    index: Sequence[float],
    clips: Sequence[int],
    objective: DiffusedData,
    strategy: Strategy,
    samples: int,
    seed: int,
    composed: Tensor | None = None,
) -> Tensor:
    """Roll out S samples of each clip.

    Args:
        known: normalised latents of context frames, (B, C, K, h, w).
        index: their K frame indices.
        composed: normalised latents of the hops' frames, (B, C, N, h, w), as of `rollout`.

    Returns:
        Normalised latents of the hops' frames, (B, S, C, N, h, w).
    """
    batch, channels, _, height, width = known.shape
    noise_source = SampleNoise(
        seed, clips, samples, (objective.channels(channels), height, width), known.device
    )
    repeated = known.repeat_interleave(samples, dim=0)
    indices = torch.tensor(index, dtype=torch.float32, device=known.device).expand(len(repeated), -1)
    bases = None if composed is None else composed.repeat_interleave(samples, dim=0)
    predicted = rollout(denoiser, repeated, indices, objective, strategy, noise_source, bases)
    return predicted.reshape(batch, samples, *predicted.shape[1:])
