"""Which frames of a clip are known, which one is the target, and which known frame a target starts from.

Where the change from the nearest known frame is diffused, what stands still costs nothing to predict, and a
network that knows nothing falls back to the copy.

A task is a rule for what is known, and times alone tell a network which one it is at: `predict` knows frames
before its targets, `interpolate` frames on both sides of them, `generate` none, and `restore` a degraded
clip, which stands in the place of known frames, at the targets' own times too.
Shapes: B clips, C channels, K known frames, N target frames.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

Task = Literal["predict", "interpolate", "generate", "restore"]
TASKS: tuple[Task, ...] = get_args(Task)
STRIDE = 2  # frames between hops of the skip-frame rollout, once it has left the given frames


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
            "lower train_denoiser.context_frames or train_denoiser.target_offsets"
        )
    chosen = sorted(int(gap) for gap in rng.choice(fitting, targets, replace=targets > len(fitting)))
    room = (frames - chosen[-1] - known) // (STRIDE - 1)  # strides for which the clip is long enough
    strided = int(rng.integers(0, min(max_hops, known - 1, room) + 1))
    back = np.cumsum([0] + [STRIDE] * strided + [1] * (known - 1 - strided))
    last = int(rng.integers(back[-1], frames - chosen[-1]))
    return [last - int(steps) for steps in back], [last + gap for gap in chosen]


def draw_between(
    rng: np.random.Generator, frames: int, known: int, span: int, targets: int
) -> tuple[list[int], list[int]]:
    """Frames to interpolate in a clip: known ones on both sides of a gap, and consecutive targets in it.

    Args:
        rng: source of randomness.
        frames: length of the clip.
        known: how many known frames to give, 2 or more; each side has one at least.
        span: frames from the last known one before the gap to the first one after it, at most; a hop draws
            from `targets` + 1 up to this.
        targets: how many frames to predict, at once.

    Returns:
        Known frame positions (0-based, nearest to the gap first, the sides in turn) and the targets'
        positions, ascending.

    Raises:
        ValueError: if the gap and the known frames do not fit into the clip.
    """
    if known < 2 or not targets < span <= frames - known + 1:
        raise ValueError(
            f"interpolate: {known} known frames around a gap of {span}, with {targets} targets in it, do not "
            f"fit into clips of {frames} frames; change train_denoiser.context_frames or train_denoiser.max_span"
        )
    width = int(rng.integers(targets + 1, span + 1))
    before = int(rng.integers(1, known))
    first = int(rng.integers(before - 1, frames - width - (known - before) + 1))  # the last frame before it
    earlier = [first - step for step in range(before)]
    later = [first + width + step for step in range(known - before)]
    start = first + int(rng.integers(1, width - targets + 1))
    return in_turn(earlier, later), list(range(start, start + targets))


def in_turn(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """Items of two lists in turn, then those that are left over of the longer one."""
    both = min(len(one), len(other))
    paired = [item for pair in zip(one, other, strict=False) for item in pair]
    return [*paired, *one[both:], *other[both:]]


def draw_free(rng: np.random.Generator, frames: int, targets: int) -> tuple[list[int], list[int]]:
    """Frames to generate from nothing: no known positions, and consecutive targets somewhere in the clip.

    Raises:
        ValueError: if the clip is shorter.
    """
    return [], _run_of(rng, frames, targets)


def _run_of(rng: np.random.Generator, frames: int, targets: int) -> list[int]:
    """Consecutive targets somewhere in a clip."""
    if targets > frames:
        raise ValueError(
            f"hop: {targets} frames at once do not fit into clips of {frames}; lower train_denoiser.targets"
        )
    start = int(rng.integers(0, frames - targets + 1))
    return list(range(start, start + targets))


def draw_degraded(
    rng: np.random.Generator, frames: int, known: int, targets: int
) -> tuple[list[int], list[int]]:
    """Frames to restore somewhere in a clip: degraded frames around consecutive targets, their own included.

    Args:
        rng: source of randomness.
        frames: length of the clip.
        known: how many degraded frames to give; more where there are more targets.
        targets: how many frames to restore at once.

    Returns:
        Positions of the degraded frames (0-based, nearest to the first target first) and of the targets.

    Raises:
        ValueError: if the clip is shorter.
    """
    wanted = _run_of(rng, frames, targets)
    return degraded_around(wanted, frames, max(known, targets)), wanted


def degraded_around(wanted: Sequence[int], frames: int, count: int) -> list[int]:
    """The `count` frames of a clip around some targets, all of theirs among them, nearest to the first first.

    At the ends of a clip they lie on one side; a shorter clip gives all of its frames.
    """
    count = min(max(count, len(wanted)), frames)
    start = wanted[0] - (count - len(wanted)) // 2
    start = min(max(start, 0), frames - count)
    return sorted(range(start, start + count), key=lambda at: (abs(at - wanted[0]), at))


def frame_groups(hops: list[int | list[int]]) -> list[list[int]]:
    """Hops of params.yaml, each as the list of its frame numbers."""
    return [hop if isinstance(hop, list) else [hop] for hop in hops]


def hop_offsets(hops: list[int | list[int]], known: int) -> set[int]:
    """Distances from the last frame before each hop to the hop's own, where the first `known` are given."""
    groups = frame_groups(hops)
    starts = [known, *(group[-1] for group in groups)]
    return {frame - start for start, group in zip(starts, groups, strict=False) for frame in group}
