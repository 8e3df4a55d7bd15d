"""Rollout: predict frames hop by hop, each made frame joining the known ones.

Shapes: B clips, C latent channels, K known frames, S frames of all hops, N frames of one hop, h x w latent
positions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from vdp.core.context_frames import nearest_frames
from vdp.diffusion.objective import Objective
from vdp.diffusion.process import predict_x0_eps
from vdp.diffusion.protocols import Denoiser
from vdp.sampling.samplers import Sampler

ContextT = TypeVar("ContextT")


@dataclass(frozen=True)
class Strategy:
    """How to go from known frames to future ones; hops are data, so any pattern is a strategy."""

    hops: tuple[tuple[float, ...], ...]  # 0-based times in the order of prediction; several in one hop
    sampler: Sampler
    times: Tensor  # diffusion times from 1 or near it down to 0, (steps + 1,)
    temperature: float  # scale of all noise that the sampler is given
    guidance: float  # weight of the context against none (classifier-free guidance); 1: as trained
    context_noise: float  # standard deviation of noise on made frames, which the network is told
    context_frames: int  # how many known frames, nearest first, the network is given; as many as in training


class Normal(Protocol):
    """Fresh standard normal noise for some frames of every clip, (B, C, frames, h, w)."""

    def __call__(self, frames: int) -> Tensor: ...


@dataclass(frozen=True)
class Guided(Generic[ContextT]):
    """A denoiser's output, pushed from what it gives without the context to what it gives with it.

    Source: Ho & Salimans 2022 (arXiv:2207.12598), equation 6 with weight 1 + w; over the known frames of a
    video: Song et al. 2025 (arXiv:2502.06764).
    """

    denoiser: Denoiser[ContextT]
    weight: float
    context: ContextT
    withheld: ContextT | None  # the context without pictures; None where the weight is 1

    def __call__(self, xt: Tensor, t: Tensor) -> Tensor:
        output = self.denoiser(xt, t, self.context)
        if self.withheld is None:
            return output
        without = self.denoiser(xt, t, self.withheld)
        return without + self.weight * (output - without)


def guided(
    denoiser: Denoiser[ContextT],
    weight: float,
    frames: Tensor,
    index: Tensor,
    level: Tensor,
    target_index: Tensor,
) -> Guided[ContextT]:
    """Encode a context once for all steps of a hop, and once more without pictures where guidance asks.

    Args:
        denoiser: the network.
        weight: of the context; 1 leaves the network alone.
        frames: known frames, (B, C, K, h, w).
        index: their times, (B, K).
        level: standard deviation of the noise on them, (B, K).
        target_index: times of the targets, (B, N).
    """
    none = torch.zeros(len(frames), dtype=torch.bool, device=frames.device)
    context = denoiser.context(frames, index, level, none, target_index)
    withheld = None if weight == 1 else denoiser.context(frames, index, level, ~none, target_index)
    return Guided(denoiser, weight, context, withheld)


def rollout(
    denoiser: Denoiser[ContextT],
    known: Tensor,
    index: Tensor,
    objective: Objective,
    strategy: Strategy,
    normal: Normal,
) -> Tensor:
    """Predict the frames of all hops in turn.

    Args:
        denoiser: the network; its context is encoded once per hop and reused by all steps.
        known: normalised latents of the given frames, (B, C, K, h, w).
        index: real-valued time of each of them, (B, K), in frames.
        objective: the process, and what it noises, as in training.
        strategy: hops, sampler and its times.
        normal: gives all noise: first the starting noise of every hop at once, then what a sampler with fresh
            noise and a noised context ask for.

    Returns:
        Normalised latents of the hops' frames, (B, C, S, h, w).

    Raises:
        ValueError: if the noise does not fit the known frames.
    """
    count = sum(len(hop) for hop in strategy.hops)
    noise = strategy.temperature * normal(count)
    expected = (*known.shape[:2], count, *known.shape[3:])
    if noise.shape != expected:
        raise ValueError(f"noise: expected shape {expected}, as the known frames, got {tuple(noise.shape)}")
    level = torch.zeros_like(index)
    made: list[Tensor] = []
    for hop, start in zip(strategy.hops, noise.split([len(hop) for hop in strategy.hops], 2), strict=True):
        target = index.new_tensor(hop).expand(len(known), -1)
        frames, times, levels = nearest_frames(known, index, level, target[:, :1], strategy.context_frames)
        made.append(sample_hop(denoiser, frames, times, levels, target, objective, strategy, start, normal))
        shown = made[-1]
        if strategy.context_noise > 0:
            shown = shown + strategy.context_noise * normal(len(hop))
        known, index = torch.cat([known, shown], dim=2), torch.cat([index, target], dim=1)
        level = torch.cat([level, torch.full_like(target, strategy.context_noise)], dim=1)
    return torch.cat(made, dim=2)


def sample_hop(
    denoiser: Denoiser[ContextT],
    known: Tensor,
    index: Tensor,
    level: Tensor,
    target: Tensor,
    objective: Objective,
    strategy: Strategy,
    start: Tensor,
    normal: Normal,
) -> Tensor:
    """The frames of one hop, (B, C, N, h, w), sampled from what is known.

    Args:
        denoiser, objective, strategy, normal: as of `rollout`.
        known: the frames that the network is given, (B, C, K, h, w).
        index: their times, (B, K).
        level: standard deviation of the noise on them, (B, K).
        target: times of the frames that are wanted, (B, N).
        start: noised data at the first of the strategy's times, (B, C, N, h, w).
    """
    network = guided(denoiser, strategy.guidance, known, index, level, target)
    x0 = strategy.sampler(
        _denoise(network, target.shape, objective),
        start,
        strategy.times,
        objective.process.schedule,
        _draw(normal, target.shape[1], strategy.temperature),
    )
    return objective.to_frames(x0, objective.base(known, index, target))


def _draw(normal: Normal, frames: int, temperature: float) -> Callable[[], Tensor]:
    """What a sampler with fresh noise calls."""
    return lambda: temperature * normal(frames)


def _denoise(
    network: Guided[ContextT], shape: torch.Size, objective: Objective
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What a sampler calls: the network's x0 and eps, every target at one and the same time."""

    def denoise(xt: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        per_frame = t.to(xt.dtype).expand(shape)
        return predict_x0_eps(xt, network(xt, per_frame), per_frame, objective.process)

    return denoise
