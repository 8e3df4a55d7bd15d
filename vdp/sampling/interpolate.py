"""Frames between two clips: by motion that joins their ends, or by a blend of the noised ends.

Shapes: B clips, C channels, K known frames on a side, F frames between, h x w latent positions.
"""

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from vdp.diffusion.objective import Objective
from vdp.diffusion.process import add_noise
from vdp.diffusion.protocols import Denoiser
from vdp.sampling.hops import groups
from vdp.sampling.rollout import Normal, Strategy, rollout, sample_hop

ContextT = TypeVar("ContextT")


def between(
    denoiser: Denoiser[ContextT],
    before: Tensor,
    after: Tensor,
    frames: int,
    span: int,
    targets: int | None,
    objective: Objective,
    strategy: Strategy,
    normal: Normal,
) -> Tensor:
    """Frames that join the end of one clip to the start of another.

    A gap that is longer than those of the training is crossed in strides first, which the network is told as
    single frames, so that it sees no distance that it does not know; then each stride is filled.

    Args:
        denoiser: the network.
        before: normalised latents of known frames up to the gap, in their order, (B, C, K, h, w), K >= 1.
        after: those from the gap on.
        frames: F, 1 or more.
        span: longest gap of the training, from the last known frame before it to the first after it.
        targets: frames of a hop where these see each other; None where each is made as if it were alone.
        objective: the process, and what it noises, as in training.
        strategy: sampler and its times; its hops are not used.
        normal: gives all noise.

    Returns:
        (B, C, F, h, w).
    """
    gap = frames + 1
    if gap <= span:
        return _direct(denoiser, before, after, frames, targets, objective, strategy, normal)
    stride = gap / span
    places = [round(stride * step) for step in range(span + 1)]  # 0 and the gap are the known ends
    strided = (
        before[:, :, _strides(before.shape[2], stride, -1)],
        after[:, :, _strides(after.shape[2], stride, 1)],
    )
    keys = _direct(denoiser, *strided, span - 1, targets, objective, strategy, normal)
    ends = [before, *keys.split(1, dim=2), after]
    made: list[Tensor] = []
    for step, (left, right) in enumerate(zip(ends, ends[1:], strict=False)):
        inner = places[step + 1] - places[step] - 1
        if inner > 0:
            made.append(between(denoiser, left, right, inner, span, targets, objective, strategy, normal))
        if step < span - 1:
            made.append(right)
    return torch.cat(made, dim=2)


def _strides(count: int, stride: float, way: int) -> list[int]:
    """Positions of a clip's frames, a stride apart, from its last one back (way -1) or its first one on."""
    offsets = [round(stride * step) for step in range(count) if round(stride * step) < count]
    return [count - 1 - offset for offset in reversed(offsets)] if way < 0 else offsets


def _direct(
    denoiser: Denoiser[ContextT],
    before: Tensor,
    after: Tensor,
    frames: int,
    targets: int | None,
    objective: Objective,
    strategy: Strategy,
    normal: Normal,
) -> Tensor:
    """`between` where the network knows the gap."""
    side = max(1, strategy.context_frames // 2)
    before, after = before[:, :, -side:], after[:, :, :side]
    times = [*range(1 - before.shape[2], 1), *range(frames + 1, frames + 1 + after.shape[2])]
    index = torch.tensor(times, dtype=torch.float32, device=before.device).expand(len(before), -1)
    wanted = [step + 1.0 for step in range(frames)]
    if targets is not None and frames < targets:  # the rest of a hop lies closer, within the gap
        more = targets - frames
        wanted += [frames + step / (more + 1) for step in range(1, more + 1)]
    known = torch.cat([before, after], dim=2)
    made: dict[float, Tensor] = {}
    for group in groups(len(wanted), targets):  # each from the ends alone: made frames would push one out
        hop = tuple(wanted[place] for place in group)
        frames_of_hop = rollout(denoiser, known, index, objective, replace(strategy, hops=(hop,)), normal)
        made |= dict(zip(hop, frames_of_hop.split(1, dim=2), strict=True))
    return torch.cat([made[time] for time in wanted[:frames]], dim=2)


def blended(
    denoiser: Denoiser[ContextT],
    one: Tensor,
    other: Tensor,
    frames: int,
    strength: float,
    targets: int | None,
    objective: Objective,
    strategy: Strategy,
    normal: Normal,
) -> Tensor:
    """A morph from one frame to another: both are noised alike, blended, and denoised with nothing known.

    Args:
        denoiser: a network that has learnt to generate.
        one, other: normalised latents, (B, C, 1, h, w).
        frames: F, 1 or more; they lie evenly between the two.
        strength: diffusion time up to which the two are noised, 0 (a plain blend) up to 1 (new pictures).
        targets: frames of a hop where these see each other; None where each is made as if it were alone.
        objective: that of `generate`.
        strategy: sampler and its times; its hops are not used.
        normal: gives all noise.

    Returns:
        (B, C, F, h, w).

    Source: Ho et al. 2020 (arXiv:2006.11239), section 4.3, with one noise for all blends.
    """
    count = max(frames, targets or 1)
    weight = torch.arange(1, count + 1, dtype=torch.float32, device=one.device) / (count + 1)
    weight = weight[:, None, None]
    base = torch.zeros_like(one)
    blend = (1 - weight) * objective.to_data(one, base) + weight * objective.to_data(other, base)
    times = strategy.times[strategy.times < strength]
    times = torch.cat([times.new_tensor([strength]), times])
    level = torch.full((len(one), count), strength, device=one.device)
    noise = (strategy.temperature * normal(1)).expand_as(blend)
    start = add_noise(blend, noise, level, objective.process.schedule)
    nothing, no_time = one[:, :, :0], level[:, :0]
    made = []
    for group in groups(count, targets):
        wanted = torch.tensor([float(place) for place in group], device=one.device).expand(len(one), -1)
        made.append(
            sample_hop(
                denoiser,
                nothing,
                no_time,
                no_time,
                wanted,
                objective,
                replace(strategy, times=times),
                start[:, :, group.start : group.stop],
                normal,
            )
        )
    joined = torch.cat(made, dim=2)
    places = [place for group in groups(count, targets) for place in group]
    return joined[:, :, [places.index(place) for place in range(frames)]]
