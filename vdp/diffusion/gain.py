"""Gain of the changes from composed frames that a denoiser predicts, measured on clips it was not trained on.

From few clips a network learns changes that do not hold elsewhere, and in a rollout they add up. The gain of
a frame is the factor of its predicted change that has the least squared error on held-out clips.
Shapes: B clips, C channels, K context frames, N frames after them, h x w latent positions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from vdp.core.context_frames import nearest_frames
from vdp.diffusion.protocols import Denoiser, DiffusedData
from vdp.diffusion.scheduled_sampling import sample_frames

ContextT = TypeVar("ContextT")

ENOUGH_CLIPS = 8  # held-out clips of which half are kept for scores


@dataclass(frozen=True)
class HeldOutClips:
    """Normalised latents of clips that a denoiser was not trained on."""

    known: Tensor  # context frames, in the order of time, (B, C, K, h, w)
    composed: Tensor  # composed frames after them, (B, C, N, h, w)
    truth: Tensor  # (B, C, N, h, w)


def gain_rows(count: int) -> range:
    """Rows of `count` held-out clips that gains are measured on: the first half, all where there are few.

    The others are for scores.
    """
    return range(count // 2 if count >= ENOUGH_CLIPS else count)


def fit_gains(
    denoiser: Denoiser[ContextT],
    clips: HeldOutClips,
    objective: DiffusedData,
    steps: int,
    context_frames: int,
    given_frames: int,
) -> tuple[float, ...] | None:
    """Roll out every frame in turn, without noise, and return the gain of each, 0..1.

    The gains of earlier frames are applied to the context frames of later ones, as in `rollout`. None if a
    predicted change is not finite.

    Args:
        steps: sampling steps of a frame.
        context_frames: max number of context frames, nearest first.
        given_frames: of them, min number of `clips.known`.
    """
    known, (given, count) = clips.known, (clips.known.shape[2], clips.truth.shape[2])
    index = torch.arange(given, device=known.device, dtype=known.dtype).expand(len(known), -1)
    gains: list[float] = []
    for step in range(count):
        base, truth = (frames[:, :, step : step + 1] for frames in (clips.composed, clips.truth))
        target_index = index.new_full((len(known), 1), given + step)
        context, near, _ = nearest_frames(
            known, index, torch.zeros_like(index), target_index, context_frames, given, given_frames
        )
        frames = sample_frames(
            denoiser,
            torch.cat([base, context], dim=2),
            torch.cat([target_index, near], dim=1),
            target_index,
            objective,
            steps,
            torch.zeros_like(base),
        )
        change = frames - base
        power, common = float(change.square().sum()), float((change * (truth - base)).sum())
        if not (math.isfinite(power) and math.isfinite(common)):
            return None
        gain = common / power if power > 0 else 0.0
        gains.append(min(max(gain, 0.0), 1.0))
        known = torch.cat([known, base + gains[-1] * change], dim=2)
        index = torch.cat([index, target_index], dim=1)
    return tuple(gains)


def gains_at(gains: Sequence[float], steps: Tensor) -> Tensor:
    """Gains of frames `steps` >= 1 after the last given one; of later ones than measured, the last gain."""
    table = torch.tensor(gains, device=steps.device, dtype=steps.dtype)
    return table[(steps.round().long() - 1).clamp(0, len(gains) - 1)]
