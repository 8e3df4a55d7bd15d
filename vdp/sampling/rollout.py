"""Rollout: predict frames hop by hop; predicted frames become context frames of later hops.

Shapes: B clips, C latent channels, K context frames, S frames of all hops, N frames of one hop, h x w latent
positions.
"""

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from vdp.core.context_frames import nearest_frames
from vdp.diffusion.gain import gains_at
from vdp.diffusion.moved import with_moved
from vdp.diffusion.process import predict_x0_eps
from vdp.diffusion.protocols import Denoiser, DiffusedData
from vdp.sampling.hops import HopPlan
from vdp.sampling.samplers import Sampler

ContextT = TypeVar("ContextT")


@dataclass(frozen=True)
class Strategy:
    """Hops and sampler of a rollout."""

    hops: HopPlan  # 0-based frame indices in the order of prediction; several in one hop
    sampler: Sampler
    times: Tensor  # diffusion times from 1 or near it down to 0, (steps + 1,)
    temperature: float  # scale of all noise that the sampler receives
    guidance: float  # classifier-free guidance weight; 1: as trained
    context_noise: float  # standard deviation of noise on predicted context frames; an input of the network
    context_frames: int  # max number of context frames, nearest first; as in training
    given_frames: int = 0  # of them, min number of the frames that the rollout started from
    # factors of the changes from composed frames, by frames after the last given one; empty: 1
    gains: tuple[float, ...] = ()


class NoiseSource(Protocol):
    """Draws fresh standard normal noise of some frames of every clip, (B, C, frames, h, w)."""

    def __call__(self, frames: int) -> Tensor: ...


@dataclass(frozen=True)
class GuidedDenoiser(Generic[ContextT]):
    """Denoiser with classifier-free guidance of a fixed context.

    Source: Ho & Salimans 2022 (arXiv:2207.12598), equation 6 with weight 1 + w; over the context frames of a
    video: Song et al. 2025 (arXiv:2502.06764).
    """

    denoiser: Denoiser[ContextT]
    weight: float
    context: ContextT
    masked_context: ContextT | None  # None where the weight is 1

    def __call__(self, xt: Tensor, t: Tensor) -> Tensor:
        output = self.denoiser(xt, t, self.context)
        if self.masked_context is None:
            return output
        unconditional = self.denoiser(xt, t, self.masked_context)
        return unconditional + self.weight * (output - unconditional)


def rollout(
    denoiser: Denoiser[ContextT],
    known: Tensor,
    index: Tensor,
    objective: DiffusedData,
    strategy: Strategy,
    noise_source: NoiseSource,
    composed: Tensor | None = None,
) -> Tensor:
    """Predict the frames of all hops in turn; the context is encoded once per hop.

    Args:
        known: normalised latents of the context frames, (B, C, K, h, w).
        index: real-valued frame index of each, (B, K).
        composed: normalised latents of the hops' frames as a motion model composes them, (B, C, S, h, w);
            context frames of their own hop. None without.
        noise_source: called once for the initial noise of all hops, then for fresh noise of the sampler and
            noise on predicted context frames.

    Returns:
        Normalised latents of the hops' frames, (B, C, S, h, w).

    Raises:
        ValueError: if the shape of the noise does not match the context frames.
    """
    count = sum(len(hop) for hop in strategy.hops)
    noise = strategy.temperature * noise_source(count)
    expected = (len(known), objective.channels(known.shape[1]), count, *known.shape[3:])
    if noise.shape != expected:
        raise ValueError(f"noise: expected shape {expected}, as the context frames, got {tuple(noise.shape)}")
    level, given = torch.zeros_like(index), index.shape[1]
    last = index.amax(dim=1, keepdim=True) if given else index.new_zeros(len(index), 1)
    counts = [len(hop) for hop in strategy.hops]
    bases = [None] * len(counts) if composed is None else composed.split(counts, dim=2)
    predicted: list[Tensor] = []
    for hop, start, base in zip(strategy.hops, noise.split(counts, dim=2), bases, strict=True):
        target_index = index.new_tensor(hop).expand(len(known), -1)
        context = nearest_frames(
            known, index, level, target_index[:, :1], strategy.context_frames, given, strategy.given_frames
        )
        if base is not None:
            context = _prepend(base, target_index, context)
        frames = sample_hop(denoiser, *context, target_index, objective, strategy, start, noise_source)
        if base is not None and strategy.gains:
            gain = gains_at(strategy.gains, target_index - last)[:, None, :, None, None]
            frames = base + gain * (frames - base)
        predicted.append(frames)
        if strategy.context_noise > 0:
            frames = frames + strategy.context_noise * noise_source(len(hop))
        known, index = torch.cat([known, frames], dim=2), torch.cat([index, target_index], dim=1)
        level = torch.cat([level, torch.full_like(target_index, strategy.context_noise)], dim=1)
    return torch.cat(predicted, dim=2)


def _prepend(
    frames: Tensor, index: Tensor, context: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Put clean frames before the context frames, indices and noise levels."""
    known, indices, level = context
    clean = level.new_zeros(index.shape)
    return torch.cat([frames, known], 2), torch.cat([index, indices], 1), torch.cat([clean, level], 1)


def sample_hop(
    denoiser: Denoiser[ContextT],
    known: Tensor,
    index: Tensor,
    level: Tensor,
    target_index: Tensor,
    objective: DiffusedData,
    strategy: Strategy,
    start: Tensor,
    noise_source: NoiseSource,
) -> Tensor:
    """Sample the frames of one hop, (B, C, N, h, w).

    Args:
        known, index, level: context frames, (B, C, K, h, w), their frame indices and noise levels, (B, K).
        target_index: frame indices of the target frames, (B, N).
        start: noised data at the first of the strategy's times, (B, C, N, h, w).
    """
    dropped = torch.zeros(len(known), dtype=torch.bool, device=known.device)
    given = with_moved(denoiser, known, index, level, target_index)
    frames = (given.frames, given.index, given.level)
    context = denoiser.context(*frames, dropped, target_index)
    masked = None if strategy.guidance == 1 else denoiser.context(*frames, ~dropped, target_index)
    network = GuidedDenoiser(denoiser, strategy.guidance, context, masked)

    def denoise(xt: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        per_frame = t.to(xt.dtype).expand(target_index.shape)
        return predict_x0_eps(xt, network(xt, per_frame), per_frame, objective.process)

    def draw() -> Tensor:
        return strategy.temperature * noise_source(target_index.shape[1])

    x0 = strategy.sampler(denoise, start, strategy.times, objective.process.schedule, draw)
    return objective.to_frames(x0, objective.base(given.frames, given.index, target_index))
