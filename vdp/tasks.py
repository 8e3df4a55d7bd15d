"""Which frames of a clip are known, which one is the target, and which known frame a target starts from.

Where the change from the nearest known frame is diffused, what stands still costs nothing to predict, and a
network that knows nothing falls back to the copy.
Shapes: B clips, C channels, K known frames, N target frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

STRIDE = 2  # frames between hops of the skip-frame rollout, once it has left the given frames
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
    """The nearest known frame of each target, (B, C, K, H, W) -> (B, C, N, H, W)."""
    positions = nearest_known(known_index, target_index)
    batch = torch.arange(known.shape[0], device=known.device)[:, None]
    return known[batch, :, positions].transpose(1, 2)


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


def draw_hop(
    rng: np.random.Generator, frames: int, known: int, gaps: Sequence[int], max_hops: int, targets: int
) -> tuple[list[int], list[int]]:
    """One hop of a rollout somewhere in a clip: which frames are known, and which ones are the targets.

    A rollout's context is dense where frames were given and strided where it made them itself. The hop is
    placed anywhere in the clip, so that one clip teaches many.

    Args:
        rng: source of randomness.
        frames: length of the clip.
        known: how many known frames to give.
        gaps: allowed distances from the last known frame to a target.
        max_hops: how many frames the rollout may have made before this hop, where the clip is long enough.
        targets: how many frames to predict from these known ones; at different gaps, where gaps suffice.

    Returns:
        Known frame positions (0-based, nearest first) and the targets' positions, ascending.

    Raises:
        ValueError: if the known frames and the target do not fit into the clip at any gap.
    """
    fitting = [gap for gap in gaps if gap + known <= frames]
    if not fitting:
        raise ValueError(
            f"hop: {known} known frames and a gap of {list(gaps)} do not fit into clips of {frames} frames; "
            "lower train_denoiser.known or train_denoiser.gaps"
        )
    chosen = sorted(int(gap) for gap in rng.choice(fitting, targets, replace=targets > len(fitting)))
    room = (frames - chosen[-1] - known) // (STRIDE - 1)  # strides for which the clip is long enough
    strided = int(rng.integers(0, min(max_hops, known - 1, room) + 1))
    back = np.cumsum([0] + [STRIDE] * strided + [1] * (known - 1 - strided))
    last = int(rng.integers(back[-1], frames - chosen[-1]))
    return [last - int(steps) for steps in back], [last + gap for gap in chosen]
