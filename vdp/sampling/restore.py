"""Restore degraded clips.

Shapes: C channels, F frames, K degraded context frames of a hop, h x w latent positions.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from vdp.core.tasks import degraded_around
from vdp.diffusion.objective import Objective
from vdp.diffusion.protocols import Denoiser
from vdp.sampling.hops import group_frames
from vdp.sampling.rollout import NoiseSource, Strategy, rollout

ContextT = TypeVar("ContextT")


def restore(
    denoiser: Denoiser[ContextT],
    degraded: Tensor,
    targets: int | None,
    objective: Objective,
    strategy: Strategy,
    make_noise_source: Callable[[Sequence[int]], NoiseSource],
    batch_size: int,
    progress: Callable[[Sequence[Sequence[int]]], Iterable[Sequence[int]]] = iter,
) -> Tensor:
    """Restore each frame, or group of jointly denoised frames, from the degraded frames around it.

    Args:
        degraded: normalised latents of the degraded clip, (C, F, h, w).
        targets: frames per hop of a joint denoiser; None if target frames are denoised independently.
        strategy: its hops are ignored.
        make_noise_source: builds the source of noise of hops that start at the given frames.
        batch_size: hops per batch.
        progress: wraps the batches, for a progress bar.

    Returns:
        The shape of `degraded`.

    Raises:
        ValueError: if the clip has fewer frames than a hop.
    """
    frames, size = degraded.shape[1], targets or 1
    starts = [group.start for group in group_frames(frames, size)]
    count = max(strategy.context_frames, size)
    hop = tuple(float(step) for step in range(size))
    strategy = replace(strategy, hops=(hop,), context_frames=count)
    restored = torch.empty_like(degraded)
    for chunk in progress(
        [starts[first : first + batch_size] for first in range(0, len(starts), batch_size)]
    ):
        around = [degraded_around(range(start, start + size), frames, count) for start in chunk]
        positions = torch.tensor(around, device=degraded.device)  # (rows, K)
        index = positions - torch.tensor(chunk, device=degraded.device)[:, None]
        known = degraded[:, positions].transpose(0, 1)
        rows = rollout(denoiser, known, index.float(), objective, strategy, make_noise_source(chunk))
        for start, row in zip(chunk, rows, strict=True):
            restored[:, start : start + size] = row
    return restored
