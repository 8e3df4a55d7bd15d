"""Which frames of a clip are known, which one is the target, and which known frame a target starts from.

The network diffuses the change from the nearest known frame: what stands still then costs nothing to predict, and a
network that knows nothing falls back to the copy. Shapes: B clips, C channels, K known frames, N target frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import torch
from torch import Tensor

STRIDE = 2  # frames between hops of the skip-frame rollout, once it has left the given frames
TIE_BONUS = 1e-4  # frames; of two known frames equally near, the later one is taken


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
    offset = known_index[:, None, :] - target_index[:, :, None]
    return (offset.abs() - TIE_BONUS * offset.sign()).argmin(dim=2)


def anchor_frames(known: Tensor, known_index: Tensor, target_index: Tensor) -> Tensor:
    """The nearest known frame of each target, (B, C, K, H, W) -> (B, C, N, H, W)."""
    positions = nearest_known(known_index, target_index)
    batch = torch.arange(known.shape[0], device=known.device)[:, None]
    return known[batch, :, positions].transpose(1, 2)


@dataclass(frozen=True)
class Hops:
    """Hops of a rollout, one per clip of a batch: some known frames, and the frames to predict from them."""

    known: Tensor  # normalised latents, (B, C, K, h, w)
    index: Tensor  # their times, (B, K), in frames
    target: Tensor  # normalised latents, (B, C, N, h, w)
    target_index: Tensor  # (B, N)


def draw_hop(
    rng: np.random.Generator, frames: int, known: int, gaps: Sequence[int], max_hops: int
) -> tuple[list[int], int]:
    """One hop of a rollout somewhere in a clip: which frames are known, and which one is the target.

    A rollout's context is dense where frames were given and strided where it made them itself. The hop is placed
    anywhere in the clip, so that one clip teaches many.

    Args:
        rng: source of randomness.
        frames: length of the clip.
        known: how many known frames to give.
        gaps: allowed distances from the last known frame to the target.
        max_hops: how many frames the rollout may have made before this hop; fewer where the clip is too short.

    Returns:
        Known frame positions (0-based, nearest first) and the target's position.

    Raises:
        ValueError: if the known frames and the target do not fit into the clip at any gap.
    """
    fitting = [gap for gap in gaps if gap + known <= frames]
    if not fitting:
        raise ValueError(
            f"hop: {known} known frames and a gap of {list(gaps)} do not fit into clips of {frames} frames; "
            "lower train_denoiser.known or train_denoiser.gaps"
        )
    gap = int(rng.choice(fitting))
    room = (frames - gap - known) // (STRIDE - 1)  # strides that still leave the clip's first frame reachable
    strided = int(rng.integers(0, min(max_hops, known - 1, room) + 1))
    distances = gap + np.cumsum([0] + [STRIDE] * strided + [1] * (known - 1 - strided))
    target = int(rng.integers(distances[-1], frames))
    return [target - int(distance) for distance in distances], target
