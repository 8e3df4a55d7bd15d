"""Restore degraded clips.

Shapes: B clips, C channels, F frames, K degraded frames around a hop's, h x w latent positions.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from vdp.core.tasks import degraded_around
from vdp.diffusion.objective import Objective
from vdp.diffusion.protocols import Denoiser
from vdp.sampling.hops import groups
from vdp.sampling.rollout import Normal, Strategy, rollout

ContextT = TypeVar("ContextT")


def restore(
    denoiser: Denoiser[ContextT],
    degraded: Tensor,
    targets: int | None,
    objective: Objective,
    strategy: Strategy,
    normal_of: Callable[[Sequence[int]], Normal],
    rows: int,
    watched: Callable[[Sequence[Sequence[int]]], Iterable[Sequence[int]]] = iter,
) -> Tensor:
    """A clip without its degradation: each frame, or group of frames, from the degraded ones around it.

    Args:
        denoiser: the network.
        degraded: normalised latents of the degraded clip, (C, F, h, w).
        targets: frames of a hop where these see each other; None where each is made as if it were alone.
        objective: that of `restore`.
        strategy: sampler and its times; its hops are not used.
        normal_of: gives the noise of hops that start at some frames.
        rows: hops that are made at once.
        watched: goes over the parts of the work, such as with a bar.

    Returns:
        The shape of `degraded`.

    Raises:
        ValueError: if the clip has fewer frames than a hop.
    """
    frames, size = degraded.shape[1], targets or 1
    starts = [group.start for group in groups(frames, size)]
    count = max(strategy.context_frames, size)
    hop = tuple(float(step) for step in range(size))
    strategy = replace(strategy, hops=(hop,), context_frames=count)
    restored = torch.empty_like(degraded)
    for chunk in watched([starts[first : first + rows] for first in range(0, len(starts), rows)]):
        around = [degraded_around(range(start, start + size), frames, count) for start in chunk]
        places = torch.tensor(around, device=degraded.device)  # (rows, K)
        index = places - torch.tensor(chunk, device=degraded.device)[:, None]
        known = degraded[:, places].transpose(0, 1)
        made = rollout(denoiser, known, index.float(), objective, strategy, normal_of(chunk))
        for start, row in zip(chunk, made, strict=True):
            restored[:, start : start + size] = row
    return restored
