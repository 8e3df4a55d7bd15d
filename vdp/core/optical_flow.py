"""Frames without a network: pixels move on at the velocity between the last two context frames.

A baseline of the scores, and the base of a denoiser (`diffusion.base: optical_flow`).

Velocities are dense optical flow by DIS (Kroeger et al. 2016, arXiv:1603.03590). Pixels of the last frame are
splatted forwards (Niklaus & Liu 2020, arXiv:2003.05534): each has its own velocity, so an object leaves its
place however far it moves.
"""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
Plane = NDArray[np.float64]

MIN_SIDE = 16  # pixels; DIS refuses smaller frames
PATCH_STRIDE = 1  # pixels; with `FINEST_SCALE`, flow of objects of a few pixels
FINEST_SCALE = 0  # full resolution
IMPORTANCE = 4.0  # log weight per pixel of speed: where pixels meet, the faster ones are taken as nearer
MAX_IMPORTANCE = 20.0
MIN_COVERAGE = 0.25  # of a pixel of the target; below, it is a hole
INPAINT_RADIUS = 3  # pixels
DECAYS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)  # of the velocity, from frame to frame


def flow_extrapolation(known: Frames, steps: Sequence[int], decay: float = 1.0) -> Frames:
    """Move every pixel of the last context frame on at constant or decaying velocity.

    Where pixels meet, the fastest are kept; holes that a moving object leaves are inpainted from what is
    around them. The result does not depend on the number of threads.

    Args:
        known: context frames, (T, H, W, 3); the last two give the velocity, one alone is copied.
        steps: frames from the last context frame to each target, each >= 0.
        decay: factor of the velocity from frame to frame, 0 (a copy)..1 (constant).

    Returns:
        Target frames, (len(steps), H, W, 3).

    Raises:
        ValueError: if `known` has no frame.
    """
    return _move(known, [_distance(step, decay) for step in steps])


def fit_decay(clips: Iterable[Frames], known: int) -> float:
    """Return the decay, of `DECAYS`, with the least squared error over the frames after the first `known`.

    Args:
        clips: (T, H, W, 3) each, longer than `known`.

    Raises:
        ValueError: if there are none.
    """
    errors, count = np.zeros(len(DECAYS)), 0
    for clip in clips:
        count += 1
        truth = clip[known:].astype(np.float64)
        steps = range(1, len(truth) + 1)
        moved = _move(clip[:known], [_distance(step, decay) for decay in DECAYS for step in steps])
        errors += [np.square(part - truth).mean() for part in np.split(moved, len(DECAYS))]
    if not count:
        raise ValueError(f"clips: expected some of more than {known} frames, to measure how motion goes on")
    return DECAYS[int(errors.argmin())]


def _move(known: Frames, distances: Sequence[float]) -> Frames:
    """Move the last context frame on by a number of frames at its velocity, for each of some numbers."""
    if not len(known):
        raise ValueError("known: expected at least one frame, got none")
    last = np.ascontiguousarray(known[-1])
    if len(known) == 1:
        return np.repeat(last[None], len(distances), axis=0)
    velocity = _velocity(np.ascontiguousarray(known[-2]), last)
    targets = np.empty((len(distances), *last.shape), np.uint8)
    for target, distance in zip(targets, distances, strict=True):
        target[:] = _splat(last, velocity, distance)
    return targets


def _distance(step: int, decay: float) -> float:
    """Frames at the first velocity that cover the way of `step` frames at a decaying one."""
    return float(sum(decay**frame for frame in range(1, step + 1)))


def _velocity(before: Frames, last: Frames) -> Plane:
    """Pixels per frame, (right, down), of each pixel of the last frame, (H, W, 2)."""
    height, width = last.shape[:2]
    down, right = max(MIN_SIDE - height, 0), max(MIN_SIDE - width, 0)
    gray = [
        cv2.copyMakeBorder(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), 0, down, 0, right, cv2.BORDER_REPLICATE)
        for frame in (last, before)
    ]
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(FINEST_SCALE)
    dis.setPatchStride(PATCH_STRIDE)
    start = np.zeros((*gray[0].shape, 2), np.float32)
    backwards = np.asarray(dis.calc(gray[0], gray[1], start))[:height, :width]
    return -backwards.astype(np.float64)


def _splat(frame: Frames, velocity: Plane, step: float) -> Frames:
    """Add each pixel to the four pixels around its new place, and fill the holes."""
    height, width = frame.shape[:2]
    row, column = np.mgrid[:height, :width]
    x, y = column + step * velocity[..., 0], row + step * velocity[..., 1]
    importance = np.exp(np.minimum(IMPORTANCE * np.hypot(*np.moveaxis(velocity, 2, 0)), MAX_IMPORTANCE))
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    coverage, total = np.zeros(height * width), np.zeros((4, height * width))
    for i, j in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
        place = (i * width + j)[inside]
        share = ((1 - np.abs(x - j)) * (1 - np.abs(y - i)))[inside]
        coverage += np.bincount(place, share, height * width)
        weight = share * importance[inside]
        values = (weight, *(weight * frame[inside][:, channel] for channel in range(3)))
        total += np.stack([np.bincount(place, value, height * width) for value in values])
    holes = coverage < MIN_COVERAGE
    target = np.rint(total[1:] / np.where(holes, 1, total[0])).clip(0, 255).astype(np.uint8)
    target = np.ascontiguousarray(target.T.reshape(frame.shape))
    if not holes.any():
        return target
    if holes.all():  # everything left the frame
        return frame
    mask = holes.reshape(height, width).astype(np.uint8)
    return np.asarray(cv2.inpaint(target, mask, INPAINT_RADIUS, cv2.INPAINT_TELEA))
