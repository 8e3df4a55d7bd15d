"""Interpolate between two clips: predict the frames between them, or denoise a noised blend of the two.

Shapes: B clips, C channels, K context frames on a side, F interpolated frames, h x w latent positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from vdp.diffusion.objective import Objective
from vdp.diffusion.process import add_noise
from vdp.diffusion.protocols import Denoiser
from vdp.sampling.generate import generate
from vdp.sampling.hops import HopPlan, group_frames
from vdp.sampling.rollout import NoiseSource, Strategy, rollout, sample_hop

ContextT = TypeVar("ContextT")


def interpolate(
    denoiser: Denoiser[ContextT],
    before: Tensor,
    after: Tensor,
    frames: int,
    max_span: int,
    targets: int | None,
    objective: Objective,
    strategy: Strategy,
    noise_source: NoiseSource,
) -> Tensor:
    """Predict the frames between the end of one clip and the start of another.

    A span above `max_span` is subdivided: keyframes are predicted at a stride that the network receives as 1,
    so that every span is one of the training; then the frames between the keyframes are interpolated.

    Args:
        before: normalised latents of the context frames before the span, in order, (B, C, K, h, w), K >= 1.
        after: those after the span.
        frames: F, 1 or more.
        max_span: max span of the training, from the last context frame before it to the first one after it.
        targets: frames per hop of a joint denoiser; None if target frames are denoised independently.
        strategy: its hops are ignored.

    Returns:
        (B, C, F, h, w).
    """
    span = frames + 1
    if span <= max_span:
        return _interpolate_span(denoiser, before, after, frames, targets, objective, strategy, noise_source)
    stride = span / max_span
    positions = [round(stride * step) for step in range(max_span + 1)]  # 0 and span are context frames
    keyframes = _interpolate_span(
        denoiser,
        before.flip(2)[:, :, _strided(before.shape[2], stride)].flip(2),
        after[:, :, _strided(after.shape[2], stride)],
        max_span - 1,
        targets,
        objective,
        strategy,
        noise_source,
    )
    ends = [before, *keyframes.split(1, dim=2), after]
    predicted: list[Tensor] = []
    for step, (left, right) in enumerate(zip(ends, ends[1:], strict=False)):
        inner = positions[step + 1] - positions[step] - 1
        if inner > 0:
            predicted.append(
                interpolate(
                    denoiser, left, right, inner, max_span, targets, objective, strategy, noise_source
                )
            )
        if step < max_span - 1:
            predicted.append(right)
    return torch.cat(predicted, dim=2)


def _strided(count: int, stride: float) -> list[int]:
    return [round(stride * step) for step in range(count) if round(stride * step) < count]


def _interpolate_span(
    denoiser: Denoiser[ContextT],
    before: Tensor,
    after: Tensor,
    frames: int,
    targets: int | None,
    objective: Objective,
    strategy: Strategy,
    noise_source: NoiseSource,
) -> Tensor:
    """`interpolate` over a trained span."""
    side = max(1, strategy.context_frames // 2)
    before, after = before[:, :, -side:], after[:, :, :side]
    times = [*range(1 - before.shape[2], 1), *range(frames + 1, frames + 1 + after.shape[2])]
    index = torch.tensor(times, dtype=torch.float32, device=before.device).expand(len(before), -1)
    indices = [step + 1.0 for step in range(frames)]
    if targets is not None and frames < targets:  # fill the hop with indices between the last two frames
        extra = targets - frames
        indices += [frames + step / (extra + 1) for step in range(1, extra + 1)]
    known = torch.cat([before, after], dim=2)
    predicted: dict[float, Tensor] = {}
    for group in group_frames(len(indices), targets):  # the ends are the only context
        hop = tuple(indices[i] for i in group)
        rows = rollout(denoiser, known, index, objective, replace(strategy, hops=(hop,)), noise_source)
        predicted |= dict(zip(hop, rows.split(1, dim=2), strict=True))
    return torch.cat([predicted[time] for time in indices[:frames]], dim=2)


def morph_latents(
    denoiser: Denoiser[ContextT],
    first: Tensor,
    last: Tensor,
    frames: int,
    strength: float,
    targets: int | None,
    objective: Objective,
    strategy: Strategy,
    noise_source: NoiseSource,
) -> Tensor:
    """Morph one frame into another: noise both with the same noise, blend them, and denoise without context.

    Args:
        first, last: normalised latents, (B, C, 1, h, w).
        frames: F, 1 or more; evenly spaced between the two.
        strength: diffusion time to which the two are noised, from 0 (a plain blend) to 1 (new frames).
        targets: frames per hop of a joint denoiser; None if target frames are denoised independently.
        objective: of the task `generate`.
        strategy: its hops are ignored.

    Returns:
        (B, C, F, h, w).

    Source: Ho et al. 2020 (arXiv:2006.11239), section 4.3.
    """
    count = max(frames, targets or 1)
    weight = torch.arange(1, count + 1, dtype=torch.float32, device=first.device) / (count + 1)
    weight = weight[:, None, None]
    base = torch.zeros_like(first)
    blend = (1 - weight) * objective.to_data(first, base) + weight * objective.to_data(last, base)
    strategy = replace(strategy, times=times_below(strength, strategy.times))
    level = torch.full((len(first), count), strength, device=first.device)
    noise = (strategy.temperature * noise_source(1)).expand_as(blend)
    start = add_noise(blend, noise, level, objective.process.schedule)
    no_frames, no_index = first[:, :, :0], level[:, :0]
    groups = group_frames(count, targets)
    morphed = []
    for group in groups:
        target_index = torch.tensor([float(i) for i in group], device=first.device).expand(len(first), -1)
        group_start = start[:, :, group.start : group.stop]
        morphed.append(
            sample_hop(
                denoiser,
                no_frames,
                no_index,
                no_index,
                target_index,
                objective,
                strategy,
                group_start,
                noise_source,
            )
        )
    positions = [i for group in groups for i in group]
    return torch.cat(morphed, dim=2)[:, :, [positions.index(i) for i in range(frames)]]


def times_below(strength: float, times: Tensor) -> Tensor:
    """Return sampling times from `strength` down to 0, of times that descend to 0."""
    below = times[times < strength]
    return torch.cat([times.new_tensor([strength]), below])


def slerp(first: Tensor, last: Tensor, weight: Tensor) -> Tensor:
    """Interpolate spherically between noises (B, ...) with weights (B,), 0 for `first` and 1 for `last`.

    A mean of standard normal noises has less variance than they; between them on the sphere it is kept.

    Source: Song et al. 2021 (arXiv:2010.02502), appendix D.5, equation 67.
    """
    one, other = first.flatten(1).double(), last.flatten(1).double()
    cosine = (one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1)).clamp(min=1e-12)
    angle = cosine.clamp(-1, 1).acos().clamp(min=1e-6)  # of equal noises
    share = weight.to(angle)
    one_share, other_share = ((part * angle).sin() / angle.sin() for part in (1 - share, share))
    return (one_share[:, None] * one + other_share[:, None] * other).to(first.dtype).view_as(first)


@dataclass(frozen=True)
class BlendedNoise:
    """Noise between two sources, (W, C, frames, h, w) of W weights; implements `NoiseSource`.

    Equal draws for all weights: results of neighbouring weights are alike.
    """

    first: NoiseSource  # of one clip
    last: NoiseSource
    weight: Tensor  # (W,)

    def __call__(self, frames: int) -> Tensor:
        """Draw noise and interpolate it."""
        count = len(self.weight)
        one, other = (source(frames).expand(count, -1, -1, -1, -1) for source in (self.first, self.last))
        return slerp(one, other, self.weight)


def interpolate_clips(
    denoiser: Denoiser[ContextT],
    first: Tensor,
    last: Tensor,
    weights: Sequence[float],
    strength: float,
    objectives: tuple[Objective, Objective],
    first_frames: int,
    hops: HopPlan,
    strategy: Strategy,
    noise_sources: tuple[NoiseSource, NoiseSource],
) -> Tensor:
    """Interpolate between two clips: blend them, noise the blend, and denoise it.

    Noised to time t, the blend is alpha(t) times the linear blend of the data and sigma(t) times the
    spherical one of two noises, one for each clip: its noise has unit variance at every weight. The first
    frames are denoised without context, the later ones given those before them, as in `generate`.

    Args:
        first, last: normalised latents, (C, F, h, w) both.
        weights: of `last`, W of them, 0..1.
        strength: diffusion time to which the blend is noised, from 0 (the linear blend itself) to the first
            of the strategy's times (new clips of blended noise, which no longer depend on the two clips).
        objectives: of the tasks `generate` and `predict`.
        first_frames: frames of the first hop.
        hops: later hops, of at least the other frames.
        strategy: its hops are ignored.
        noise_sources: of one clip each.

    Returns:
        (W, C, F, h, w).

    Source: Meng et al. 2022 (arXiv:2108.01073) for a noised and denoised guide, here a blend of two; Song et
    al. 2021 (arXiv:2010.02502), section 5.3, for its noise.
    """
    weight = torch.tensor(weights, dtype=torch.float32, device=first.device)
    share = weight[:, None, None, None, None]
    blend = (1 - share) * first + share * last
    missing = first_frames + sum(map(len, hops)) - blend.shape[2]  # joint hops may end after the clips
    edited = torch.cat([blend, blend[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2)
    strategy = replace(strategy, times=times_below(min(strength, float(strategy.times[0])), strategy.times))
    noise, shape = BlendedNoise(*noise_sources, weight), (len(weights), *first[:, 0].shape)
    clips = generate(denoiser, *objectives, first_frames, hops, shape, strategy, noise, first.device, edited)
    return clips[:, :, : first.shape[1]]
