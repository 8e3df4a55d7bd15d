"""What the tasks beside prediction are measured by: simple ways to fill a gap, and the objects in a clip.

A gap is a number of unknown frames between two known ones. Where objects are counted there is no truth to
compare with: frames made of nothing should show about as many objects as true ones do.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias, Union

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

TaskScores: TypeAlias = Mapping[str, Union[float, "TaskScores"]]  # numbers of a task as in results/tasks.json


def blend(before: Pixels, after: Pixels, count: int) -> Pixels:
    """Frames that fade from one to another: the k-th of n has k / (n + 1) of the one after.

    Args:
        before: the last known frame before the gap, (H, W, 3).
        after: the first known frame after it, (H, W, 3).
        count: frames in the gap, 1 or more.

    Returns:
        (count, H, W, 3), rounded.

    Raises:
        ValueError: if there is no frame to fill, or the two frames differ in shape.
    """
    _check_gap(before, after, count)
    share = np.arange(1, count + 1)[:, None, None, None] / (count + 1)
    return np.rint((1 - share) * before + share * after).astype(np.uint8)


def nearest(before: Pixels, after: Pixels, count: int) -> Pixels:
    """Copies of whichever known frame is nearer in time; of two as near, the one after.

    Args and errors as of `blend`.
    """
    _check_gap(before, after, count)
    ends = np.stack([before, after])
    return ends[[int(2 * number >= count + 1) for number in range(1, count + 1)]]


def count_objects(mask: Pixels, least: int) -> int:
    """Objects in a mask: connected parts (of 8 neighbours) that are no background, of whatever classes.

    Objects that touch count as one, so that a blob of several classes is not counted for each of them.

    Args:
        mask: class ids, (H, W); 0 is the background.
        least: pixels that a part must have to be counted.
    """
    parts = cv2.connectedComponentsWithStats((mask > 0).astype(np.uint8), connectivity=8)[2]
    return int((parts[1:, cv2.CC_STAT_AREA] >= least).sum())  # the first is the background


def object_statistics(counts: Sequence[int]) -> dict[str, float]:
    """How many objects frames show: the mean, the share of frames with any, the fewest and the most.

    Raises:
        ValueError: if there are no frames.
    """
    if not counts:
        raise ValueError("counts: expected those of one frame or more, got none")
    return {
        "mean": sum(counts) / len(counts),
        "frames_with_any": sum(count > 0 for count in counts) / len(counts),
        "fewest": float(min(counts)),
        "most": float(max(counts)),
    }


def _check_gap(before: Pixels, after: Pixels, count: int) -> None:
    if count < 1:
        raise ValueError(f"count: expected 1 frame or more to fill, got {count}")
    if before.shape != after.shape:
        raise ValueError(f"after: expected the shape of before, {before.shape}, got {after.shape}")


def task_table(results: Mapping[str, Mapping[str, TaskScores]]) -> str:
    """The scores of each test set for people: a line for each answer, what a simple one came to beside it.

    Args:
        results: scores by test set and task, as in results/tasks.json.
    """
    lines = []
    for name, tasks in results.items():
        lines.append(f"{name + ':':<28} {'PSNR':>9} {'SSIM':>7}   PSNR of the simple answer")
        for task, scores in tasks.items():
            lines += _lines(task, scores)
    return "\n".join(lines)


def _lines(label: str, scores: TaskScores) -> Iterator[str]:
    simple = [f"{k} {v['psnr']:.2f}" for k, v in scores.items() if isinstance(v, Mapping) and "psnr" in v]
    if "psnr" in scores:
        yield f"  {label:<26} {scores['psnr']:>6.2f} dB {scores['ssim']:>7.4f}   {', '.join(simple)}".rstrip()
    elif "mean" in scores:
        yield f"  {label:<26} {scores['mean']:>6.2f} objects a frame"
    else:
        for name, inner in scores.items():
            if isinstance(inner, Mapping):
                yield from _lines(f"{label} {name}", inner)
