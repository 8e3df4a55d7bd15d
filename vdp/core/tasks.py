"""Tasks as rules for the context and target frames of a hop; only the frame indices identify a task.

`predict` has context frames before its targets, `interpolate` on both sides of them, `generate` none, and
`restore` the degraded clip as context, at the frame indices of its targets too.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

Task = Literal["predict", "interpolate", "generate", "restore"]
TASKS: tuple[Task, ...] = get_args(Task)
STRIDE = 2  # frames between hops of the skip-frame rollout, after the context frames of the clip
GROUP_STRIDE = 1  # the same of latent frames that each code several frames

Positions = tuple[list[int], list[int]]  # 0-based: context frames, nearest first; target frames, ascending


def draw_predict_hop(
    rng: np.random.Generator,
    frames: int,
    context: int,
    offsets: Sequence[int],
    max_hops: int,
    targets: int,
    kept: int,
    known: int | None,
    stride: int = STRIDE,
) -> Positions:
    """Draw a hop of a rollout, at a random position in a clip or after its first `known` frames.

    As in a rollout, given context frames are consecutive and predicted ones `stride` frames from each other.

    Args:
        frames: length of the clip.
        context: context frames.
        offsets: target offsets to draw from, without replacement while they last and fit.
        max_hops: max earlier hops of the rollout.
        targets: target frames.
        kept: min given frames among the context frames.
        known: given frames of the clip; None: any consecutive frames are the given ones.
        stride: frames between hops of the rollout.

    Raises:
        ValueError: if no offset fits into the clip.
    """
    first = context if known is None else known  # frames before the first hop
    fitting = [offset for offset in offsets if offset + first <= frames]
    if not fitting or context > first:
        raise ValueError(
            f"hop: {context} context frames and a target offset of {list(offsets)} do not fit into clips of "
            f"{frames} frames; lower train_denoiser.context_frames or train_denoiser.target_offsets"
        )
    chosen = sorted(int(offset) for offset in rng.choice(fitting, targets, replace=targets > len(fitting)))
    room = (frames - (chosen[-1] if known is None else chosen[0]) - first) // stride
    hops = int(rng.integers(0, min(max_hops, room) + 1))
    latest = frames - 1 - chosen[-1] - stride * hops
    origin = int(rng.integers(context - 1, latest + 1)) if known is None else known - 1  # last given frame
    predicted = [origin + stride * hop for hop in range(hops, 0, -1)][: context - min(kept, context)]
    given = [origin - step for step in range(context - len(predicted))]
    last = origin + stride * hops
    farthest = max(offset for offset in chosen if last + offset < frames)  # a last hop has less room
    return [*predicted, *given], [last + min(offset, farthest) for offset in chosen]


def draw_interpolate_hop(
    rng: np.random.Generator, frames: int, context: int, max_span: int, targets: int
) -> Positions:
    """Draw consecutive targets between context frames, at least one on each side.

    Args:
        frames: length of the clip.
        context: context frames, at least 2.
        max_span: max frames from the last context frame before the targets to the first after them.
        targets: target frames.

    Raises:
        ValueError: if the span and the context frames do not fit into the clip.
    """
    if context < 2 or not targets < max_span <= frames - context + 1:
        raise ValueError(
            f"interpolate: {context} context frames around a span of {max_span} with {targets} targets do "
            f"not fit into clips of {frames} frames; change train_denoiser.context_frames or "
            "train_denoiser.max_span"
        )
    span = int(rng.integers(targets + 1, max_span + 1))
    before = int(rng.integers(1, context))
    first = int(rng.integers(before - 1, frames - span - (context - before) + 1))  # the last one before
    earlier = [first - step for step in range(before)]
    later = [first + span + step for step in range(context - before)]
    start = first + int(rng.integers(1, span - targets + 1))
    return interleave(earlier, later), list(range(start, start + targets))


def interleave(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """Alternate the items of two lists, then append the rest of the longer one."""
    both = min(len(one), len(other))
    paired = [item for pair in zip(one, other, strict=False) for item in pair]
    return [*paired, *one[both:], *other[both:]]


def draw_generate_hop(
    rng: np.random.Generator, frames: int, targets: int, from_start: bool = False
) -> Positions:
    """Draw consecutive targets in a clip, or its first frames, without context.

    Raises:
        ValueError: if the clip is shorter.
    """
    if targets > frames:
        raise ValueError(
            f"hop: {targets} targets do not fit into clips of {frames} frames; lower train_denoiser.targets"
        )
    start = 0 if from_start else int(rng.integers(0, frames - targets + 1))
    return [], list(range(start, start + targets))


def draw_restore_hop(rng: np.random.Generator, frames: int, context: int, targets: int) -> Positions:
    """Draw consecutive targets in a clip, with degraded frames around them and at their positions as context.

    Raises:
        ValueError: if the clip is shorter.
    """
    _, drawn = draw_generate_hop(rng, frames, targets)
    return degraded_around(drawn, frames, max(context, targets)), drawn


def degraded_around(targets: Sequence[int], frames: int, count: int) -> list[int]:
    """Return `count` positions around consecutive targets and at them, nearest to the first target first.

    They are shifted at the ends of the clip; for a shorter clip, all of its frames.
    """
    count = min(max(count, len(targets)), frames)
    start = targets[0] - (count - len(targets)) // 2
    start = min(max(start, 0), frames - count)
    return sorted(range(start, start + count), key=lambda at: (abs(at - targets[0]), at))


def frame_groups(hops: Sequence[int | list[int]]) -> list[list[int]]:
    """Return the frame numbers of each hop of params.yaml."""
    return [hop if isinstance(hop, list) else [hop] for hop in hops]


def hop_offsets(hops: Sequence[int | list[int]], context: int) -> set[int]:
    """Return the target offsets of a rollout that starts after `context` frames."""
    groups = frame_groups(hops)
    starts = [context, *(group[-1] for group in groups)]
    return {frame - start for start, group in zip(starts, groups, strict=False) for frame in group}
