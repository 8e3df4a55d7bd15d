"""Select context frames by their distance to a target, and compute the base frames of residuals.

Shapes: B clips, C channels, K context frames, N target frames. Frame indices are real-valued.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vdp.core.tasks import Task

TIE_BONUS = 1e-4  # frames; the later one of two equally near context frames counts as nearer


@dataclass(frozen=True)
class Hops:
    """A batch of hops, one per clip, all of one task."""

    known: Tensor  # normalised latents of the context frames, (B, C, K, h, w)
    index: Tensor  # their frame indices, (B, K)
    target: Tensor  # normalised latents, (B, C, N, h, w)
    target_index: Tensor  # (B, N)
    task: Task = "predict"
    bases: int = 0  # context frames, the first ones, that are composed frames of the targets


def distance(index: Tensor, target_index: Tensor) -> Tensor:
    """Return distances in frames, context (B, K), targets (B, N) -> (B, N, K); ties favour the later one."""
    offset = index[:, None, :] - target_index[:, :, None]
    return offset.abs() - TIE_BONUS * offset.sign()


def nearest_context(frames: Tensor, index: Tensor, target_index: Tensor) -> Tensor:
    """Select the context frame nearest to each target, the later one of two equally near.

    Args:
        frames: (B, C, K, H, W).
        index: (B, K).
        target_index: (B, N).

    Returns:
        (B, C, N, H, W); zeros where K is 0.
    """
    if frames.shape[2] == 0:
        return frames.new_zeros(*frames.shape[:2], target_index.shape[1], *frames.shape[3:])
    positions = distance(index, target_index).argmin(dim=2)
    rows = torch.arange(frames.shape[0], device=frames.device)[:, None]
    return frames[rows, :, positions].transpose(1, 2)


def blended_frames(frames: Tensor, index: Tensor, target_index: Tensor) -> Tensor:
    """Interpolate linearly between the context frames on both sides of each target.

    A target with context on one side takes the nearest frame. Shapes are those of `nearest_context`, K >= 1.
    """
    offset = index[:, None, :] - target_index[:, :, None]  # (B, N, K)
    before, left = offset.masked_fill(offset > 0, -torch.inf).max(dim=2).indices, (offset <= 0).any(dim=2)
    after, right = offset.masked_fill(offset < 0, torch.inf).min(dim=2).indices, (offset >= 0).any(dim=2)
    since = -offset.gather(2, before[:, :, None])[:, :, 0]
    until = offset.gather(2, after[:, :, None])[:, :, 0]
    share = torch.where(left & right, since / (since + until).clamp(min=TIE_BONUS), right & ~left)
    rows = torch.arange(len(frames), device=frames.device)[:, None]
    one, other = (frames[rows, :, position].transpose(1, 2) for position in (before, after))
    return one + share.to(frames.dtype)[:, None, :, None, None] * (other - one)


def nearest_frames(
    frames: Tensor, index: Tensor, level: Tensor, target_index: Tensor, count: int, given: int, kept: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Select `count` context frames, nearest to a target first; all of them where K < count.

    The `kept` nearest of the given frames are always among them: predictions from predictions alone fade.

    Args:
        frames: (B, C, K, H, W).
        index: (B, K).
        level: standard deviation of the noise on each frame, (B, K).
        target_index: (B, 1).
        count: at least 1.
        given: of the K frames, the first that were given, not predicted.
        kept: given frames to keep, at most `count`.

    Returns:
        Frames, indices and levels, with `count` in place of K.
    """
    apart = distance(index, target_index)[:, 0]
    nearest_given = apart[:, :given].argsort(dim=1)[:, :kept]
    chosen = apart.scatter(1, nearest_given, -torch.inf).argsort(dim=1)[:, :count]
    order = chosen.gather(1, apart.gather(1, chosen).argsort(dim=1))
    rows = torch.arange(frames.shape[0], device=frames.device)[:, None]
    return frames[rows, :, order].transpose(1, 2), index.gather(1, order), level.gather(1, order)
