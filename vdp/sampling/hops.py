"""Plan hops: split the frames to predict into groups that the network was trained for."""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence

import torch

from vdp.core.context_frames import nearest_frames

HopPlan = tuple[tuple[float, ...], ...]  # frame indices of each hop, in the order of prediction


def plan_hops(last: float, frames: int, target_offsets: Sequence[int], targets: int | None) -> HopPlan:
    """Plan hops to all frames that follow a context frame.

    Each hop predicts as many frames as the trained offsets reach, for the fewest hops.

    Args:
        last: index of the last context frame.
        frames: number of frames to predict, 1 or more.
        target_offsets: trained distances from the last context frame to a target frame.
        targets: frames per hop of a joint denoiser, which may exceed `frames` in all; None: not joint.

    Raises:
        ValueError: if the offsets would skip frames.
    """
    reach = 0
    while reach + 1 in target_offsets:
        reach += 1
    size = reach if targets is None else targets
    if not 1 <= size <= reach:
        raise ValueError(
            f"train_denoiser.target_offsets={sorted(target_offsets)}: expected all of 1..{max(size, 1)}; "
            "train with them, so that no frame is skipped"
        )
    starts = range(0, frames, size)
    counts = [size if targets is not None else min(size, frames - start) for start in starts]
    return tuple(
        tuple(last + start + step + 1.0 for step in range(count))
        for start, count in zip(starts, counts, strict=True)
    )


def plan_frames(numbers: Sequence[int], target_offsets: Sequence[int], targets: int | None) -> list[HopPlan]:
    """Plan rollouts that predict some of the frames after the last context frame, number 0.

    One rollout predicts all of them where trained hops lead from each to the next, else each has its own.
    Frames between them are predicted where hops need them; the fewest hops are taken.

    Args:
        numbers: of the frames, ascending, 1 or more.
        target_offsets, targets: as of `plan_hops`.

    Raises:
        ValueError: if no hops lead to one of the frames.
    """
    together = _fewest_hops(numbers, target_offsets, targets)
    if together is not None:
        return [together]
    plans = []
    for number in numbers:
        plan = _fewest_hops([number], target_offsets, targets)
        if plan is None:
            raise ValueError(
                f"train_denoiser.target_offsets={sorted(target_offsets)}: no hops over them lead to frame "
                f"{number} after the context"
            )
        plans.append(plan)
    return plans


def _fewest_hops(
    numbers: Sequence[int], target_offsets: Sequence[int], targets: int | None
) -> HopPlan | None:
    """Find the fewest hops to all of some frames, each with those that it passes; None if there are none."""
    hops: dict[int, tuple[int, ...]] = {}  # the hop that ends at a frame
    starts, waiting = {0: 0}, deque([0])  # the frame before that hop
    steps = sorted(set(target_offsets), reverse=True)
    while waiting:
        last = waiting.popleft()
        if last >= numbers[-1]:
            plan = []
            while last:
                plan.append(tuple(map(float, hops[last])))
                last = starts[last]
            return tuple(reversed(plan))
        for step in steps:
            end = last + step
            hop = None if end in starts else _hop_to(last, end, numbers, target_offsets, targets)
            if hop is not None:
                starts[end], hops[end] = last, hop
                waiting.append(end)
    return None


def _hop_to(
    last: int, end: int, numbers: Sequence[int], target_offsets: Sequence[int], targets: int | None
) -> tuple[int, ...] | None:
    """The frames of a hop from one frame to another with all `numbers` between; None if it is not trained."""
    passed = {*numbers[bisect_right(numbers, last) : bisect_right(numbers, end)], end}
    if any(number - last not in target_offsets for number in passed):
        return None
    if targets is None:
        return tuple(sorted(passed))
    others = [last + offset for offset in sorted(set(target_offsets), reverse=True) if last + offset < end]
    filled = [*passed, *[number for number in others if number not in passed][: targets - len(passed)]]
    return tuple(sorted(filled)) if len(filled) == targets else None


def group_frames(count: int, size: int | None) -> list[range]:
    """Split positions 0..count-1 into groups of `size` (None: one group); the last two groups may overlap."""
    if size is None:
        return [range(count)]
    if count < size:
        raise ValueError(
            f"frames={count}: expected at least train_denoiser.targets={size}, the frames that this network "
            "denoises jointly; raise frames"
        )
    starts = [*range(0, count - size, size), count - size]
    return [range(start, start + size) for start in starts]


def used_context(index: Sequence[float], hops: HopPlan, count: int, kept: int) -> list[int]:
    """Positions of the context frames at `index` that some hop of a rollout uses; see `nearest_frames`."""
    known, used = list(index), set[int]()
    for hop in hops:
        positions = torch.arange(len(known), dtype=torch.float32)[None]
        indices = torch.tensor([known], dtype=torch.float32)
        frames, _, _ = nearest_frames(
            positions[:, None, :, None, None], indices, torch.zeros_like(indices),
            torch.tensor([hop[:1]], dtype=torch.float32), count, len(index), kept,
        )  # fmt: skip
        used.update(int(position) for position in frames.flatten() if position < len(index))
        known += hop
    return sorted(used)
