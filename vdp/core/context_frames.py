"""Context frames of a hop: the ones nearest to its targets, and what a target's change is measured from.

Shapes: B clips, C channels, K context frames, N target frames.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vdp.core.tasks import Task

TIE_BONUS = 1e-4  # frames; of two known frames equally near, the later one is taken


def distance(known_index: Tensor, target_index: Tensor) -> Tensor:
    """Frames from targets (B, N) to known frames (B, K), as (B, N, K); of two as far, the later is nearer."""
    offset = known_index[:, None, :] - target_index[:, :, None]
    return offset.abs() - TIE_BONUS * offset.sign()


def nearest_known(known_index: Tensor, target_index: Tensor) -> Tensor:
    """Position of the known frame nearest in time to each target; the later one of two equally near.

    Args:
        known_index: real-valued frame index of each known frame, (B, K), K >= 1.
        target_index: real-valued frame index of each target frame, (B, N).

    Returns:
        (B, N) int64 positions into the known frames.

    Raises:
        ValueError: if there is no known frame.
    """
    if known_index.shape[1] == 0:
        raise ValueError("known frames: expected at least one to measure a change from, got none")
    return distance(known_index, target_index).argmin(dim=2)


def anchor_frames(known: Tensor, known_index: Tensor, target_index: Tensor) -> Tensor:
    """The nearest known frame of each target, (B, C, K, H, W) -> (B, C, N, H, W); zeros where K is 0."""
    if known.shape[2] == 0:
        return known.new_zeros(*known.shape[:2], target_index.shape[1], *known.shape[3:])
    positions = nearest_known(known_index, target_index)
    batch = torch.arange(known.shape[0], device=known.device)[:, None]
    return known[batch, :, positions].transpose(1, 2)


def blended_frames(known: Tensor, known_index: Tensor, target_index: Tensor) -> Tensor:
    """What a straight line through the known frames on both sides of each target gives at its time.

    Where all known frames lie on one side it is the nearest one, and where a target itself is known, that.

    Args:
        known: (B, C, K, H, W), K >= 1.
        known_index: (B, K), in frames.
        target_index: (B, N), in frames.

    Returns:
        (B, C, N, H, W).
    """
    offset = known_index[:, None, :] - target_index[:, :, None]  # (B, N, K)
    before, left = offset.masked_fill(offset > 0, -torch.inf).max(dim=2).indices, (offset <= 0).any(dim=2)
    after, right = offset.masked_fill(offset < 0, torch.inf).min(dim=2).indices, (offset >= 0).any(dim=2)
    since = -offset.gather(2, before[:, :, None])[:, :, 0]
    until = offset.gather(2, after[:, :, None])[:, :, 0]
    share = torch.where(left & right, since / (since + until).clamp(min=TIE_BONUS), right & ~left)
    rows = torch.arange(len(known), device=known.device)[:, None]
    one, other = (known[rows, :, place].transpose(1, 2) for place in (before, after))
    return one + share.to(known.dtype)[:, None, :, None, None] * (other - one)


def nearest_frames(
    frames: Tensor, index: Tensor, level: Tensor, target_index: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` known frames nearest to a target, nearest first, with their times and noise levels.

    Args:
        frames: (B, C, K, H, W); where K < count, all of them are taken.
        index: (B, K), in frames.
        level: standard deviation of the noise on them, (B, K).
        target_index: (B, 1), in frames.
        count: 1 or more.
    """
    order = distance(index, target_index)[:, 0].argsort(dim=1)[:, :count]
    rows = torch.arange(frames.shape[0], device=frames.device)[:, None]
    return frames[rows, :, order].transpose(1, 2), index.gather(1, order), level.gather(1, order)


@dataclass(frozen=True)
class Hops:
    """Hops of a rollout, one per clip of a batch: some known frames, and the frames to predict from them."""

    known: Tensor  # normalised latents, (B, C, K, h, w)
    index: Tensor  # their times, (B, K), in frames
    target: Tensor  # normalised latents, (B, C, N, h, w)
    target_index: Tensor  # (B, N)
    task: Task = "predict"  # that of all of them
