"""Scores of the tasks beside their baselines: interpolated and restored frames, objects in generated clips.

A span is the number of unknown frames between two context frames. Generated clips have no truth: they are
compared with true clips by the number of objects that a segmenter finds per frame.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias, Union

import cv2
import numpy as np
from numpy.typing import NDArray

from vdp.evaluation.frame import frame_score

Pixels = NDArray[np.uint8]

TaskScores: TypeAlias = Mapping[str, Union[float, "TaskScores"]]  # one task of results/tasks.json


def score_frames(
    predicted: Sequence[Pixels], truth: Sequence[Pixels], baselines: Mapping[str, Sequence[Pixels]]
) -> TaskScores:
    """Compute PSNR in dB and SSIM over all frames of some clips, and those of each baseline.

    `gain_db` is the difference in PSNR to the first baseline; without baselines it is left out.
    """
    scores = _psnr_ssim(predicted, truth)
    others = {name: _psnr_ssim(clips, truth) for name, clips in baselines.items()}
    for first in list(others.values())[:1]:
        scores["gain_db"] = round(scores["psnr"] - first["psnr"], 6)
    return {**scores, **others}


def _psnr_ssim(predicted: Sequence[Pixels], truth: Sequence[Pixels]) -> dict[str, float]:
    result = frame_score(zip(predicted, truth, strict=True))
    return {"psnr": round(result.psnr, 6), "ssim": round(result.ssim, 6)}


def blend(before: Pixels, after: Pixels, count: int) -> Pixels:
    """Cross-fade: frame k of n is k / (n + 1) of the frame after the span.

    Args:
        before: the last context frame before the span, (H, W, 3).
        after: the first context frame after it, (H, W, 3).
        count: frames of the span, at least 1.

    Returns:
        (count, H, W, 3), rounded.

    Raises:
        ValueError: if `count` is below 1, or the two frames differ in shape.
    """
    _check_span(before, after, count)
    share = np.arange(1, count + 1)[:, None, None, None] / (count + 1)
    return np.rint((1 - share) * before + share * after).astype(np.uint8)


def nearest(before: Pixels, after: Pixels, count: int) -> Pixels:
    """Copy the context frame nearer in time, at equal distance the later one; arguments as of `blend`."""
    _check_span(before, after, count)
    ends = np.stack([before, after])
    return ends[[int(2 * number >= count + 1) for number in range(1, count + 1)]]


def _check_span(before: Pixels, after: Pixels, count: int) -> None:
    if count < 1:
        raise ValueError(f"count: expected at least 1 frame, got {count}")
    if before.shape != after.shape:
        raise ValueError(f"after: expected the shape of before, {before.shape}, got {after.shape}")


def count_objects(mask: Pixels, min_pixels: int) -> int:
    """Count objects: 8-connected components of the foreground, of any classes.

    Args:
        mask: class ids, (H, W); 0 is the background.
        min_pixels: pixels of the smallest component counted.
    """
    components = cv2.connectedComponentsWithStats((mask > 0).astype(np.uint8), connectivity=8)[2]
    return int((components[1:, cv2.CC_STAT_AREA] >= min_pixels).sum())  # the first is the background


def object_statistics(counts: Sequence[int]) -> dict[str, float]:
    """Mean, minimum and maximum number of objects per frame, and the share of frames with any.

    Raises:
        ValueError: if there are no frames.
    """
    if not counts:
        raise ValueError("counts: expected those of at least one frame, got none")
    return {
        "mean": round(sum(counts) / len(counts), 6),
        "frames_with_any": round(sum(count > 0 for count in counts) / len(counts), 6),
        "fewest": float(min(counts)),
        "most": float(max(counts)),
    }


def task_table(results: Mapping[str, Mapping[str, TaskScores]]) -> str:
    """Format results/tasks.json: a line for each score, with the PSNR of its baselines."""
    lines = []
    for name, tasks in results.items():
        if not tasks:
            continue
        lines.append(f"{name + ':':<28} {'PSNR':>9} {'SSIM':>7}   PSNR of the baselines")
        for task, scores in tasks.items():
            lines += _lines(task, scores)
    return "\n".join(lines)


def _lines(label: str, scores: TaskScores) -> Iterator[str]:
    for name, part in score_parts(label, scores):
        if "mean" in part:
            yield f"  {name:<26} {part['mean']:>6.2f} objects a frame"
        else:
            others = ", ".join(_baselines(part))
            yield f"  {name:<26} {part['psnr']:>6.2f} dB {part['ssim']:>7.4f}   {others}".rstrip()


def score_parts(label: str, scores: TaskScores) -> Iterator[tuple[str, TaskScores]]:
    """Yield the name and the numbers of each part of a task's scores: of a kind, of a number of frames."""
    if "psnr" in scores or "mean" in scores:
        yield label, scores
        return
    for name, inner in scores.items():
        if isinstance(inner, Mapping):
            yield from score_parts(f"{label} {name}".strip(), inner)


def _baselines(scores: TaskScores) -> list[str]:
    return [f"{k} {v['psnr']:.2f}" for k, v in scores.items() if isinstance(v, Mapping) and "psnr" in v]


def score_cells(task: str, scores: TaskScores) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of a table of a task's scores."""
    parts = list(score_parts("", scores))
    if all("mean" in part for _, part in parts):
        header = ("clips", "objects a frame", "frames with any", "fewest", "most")
        keys = ("mean", "frames_with_any", "fewest", "most")
        return header, [(name, *(f"{part[key]:.2f}" for key in keys)) for name, part in parts]
    rows: list[tuple[str, ...]] = [
        (name or task, f"{part['psnr']:.2f}", f"{part['ssim']:.4f}", ", ".join(_baselines(part)))
        for name, part in parts
    ]
    return ("", "PSNR, dB", "SSIM", "PSNR of the baselines"), rows


def task_verdict(task: str, scores: TaskScores) -> tuple[str, bool]:
    """Compare a task with its first baseline in one sentence; True where a part of it is under it."""
    parts = [(name or task, part) for name, part in score_parts("", scores)]
    gains = {name: gain for name, part in parts if isinstance(gain := part.get("gain_db"), float)}
    under = [name for name, gain in gains.items() if gain < 0]
    if under:
        return f"FAILED: UNDER the baseline in {', '.join(under)}: {_gains(gains)}", True
    if gains:
        return f"not under the baseline: {_gains(gains)}", False
    return ", ".join(f"{name}: {part['mean']:.2f} objects a frame" for name, part in parts), False


def _gains(gains: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {gain:+.2f} dB" for name, gain in gains.items())
