"""Fit the floor and its friction to the tracks of a data set."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vdp.core.anchor import find_anchor
from vdp.core.borders import BOTTOM, touched_borders, whole_places
from vdp.core.classes import SHAPES
from vdp.core.collisions import roll_out
from vdp.core.ground import Ground, length
from vdp.core.objects import AREA, CUT, FEATURES, HEIGHT, SEEN, WIDTH, States, X, Y
from vdp.data.batches.motion import object_latents

STRETCHES = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 3.5)
SLIDING = 0.15  # speed, in sizes per frame, over which the loss of speed is measured
ENDS = (0.3, 0.4, 0.55)  # of a clip's frames, from which places are extrapolated
AHEAD = 5  # frames on: farther, most sliding objects have collided
DIAMETERS = (0.0, 0.9, 1.0, 1.1, 1.2)  # the first without collisions
RESTITUTIONS = (1.0, 0.85, 0.7, 0.55)
INSIDE = 0.02  # distance from the top and the bottom of objects that only a side can cut, in frame heights
NARROW = 0.1  # quantile
FREE = 0.3  # quantile of the errors that the stretch minimises: of objects without a collision


def fit_ground(states: States, classes: NDArray[np.uint8]) -> Ground:
    """Fit a `Ground` to tracks, (clips, N, T, F) and class ids (clips, N).

    The size by the place is a line through the roots of the areas; the reach the median of half a box over
    that size; the deceleration the median loss of speed of sliding objects; the stretch the one with the
    smallest error of extrapolated places; the entry the mean velocity of objects not visible before;
    diameter and restitution those with the smallest error at the end of the clips.

    Raises:
        ValueError: if no object is visible as a whole.
    """
    rows = states.reshape(-1, states.shape[-1])
    rows = rows[(rows[:, SEEN] > 0.5) & (rows[:, CUT] < 0.5)].astype(np.float64)
    if not len(rows):
        raise ValueError("tracks: no object is visible as a whole; expected clips with objects")
    sizes = np.sqrt(rows[:, AREA])
    slope, offset = 0.0, float(np.median(sizes))
    if np.ptp(rows[:, Y]) > 1e-3:
        slope, offset = (float(value) for value in np.polyfit(rows[:, Y], sizes, 1))
    latents = object_latents(states, classes)
    cut_off = _with_outlines(Ground(round(offset, 6), round(slope, 6), 1.0, (0.0,) * len(SHAPES)), latents)
    latents = whole_places(latents, cut_off)
    grounds = [_with_friction(replace(cut_off, stretch=stretch), latents) for stretch in STRETCHES]
    ground = min(grounds, key=lambda ground: _extrapolation_error(ground, latents))
    ground = _with_entry(ground, latents)
    collisions = [
        replace(ground, diameter=diameter, restitution=restitution)
        for diameter in DIAMETERS
        for restitution in RESTITUTIONS
    ]
    return min(collisions, key=lambda ground: _rollout_error(ground, latents))


def _with_outlines(ground: Ground, latents: Tensor) -> Ground:
    """Fill in the border of the frame and the reach of each shape; of all shapes where one never is whole."""
    frames = latents[:, :, :, 0]
    cut = (frames[:, CUT] > 0.5) & (frames[:, Y].abs() + frames[:, HEIGHT] / 2 < BOTTOM - INSIDE)
    edges = frames[:, X].abs() + frames[:, WIDTH] / 2
    # a place is the centroid of what is visible: exact for the narrowest parts, beyond the middle for others
    border = float(edges[cut].quantile(NARROW)) if cut.any() else float(edges.max())
    whole = (frames[:, SEEN] > 0.5) & (frames[:, CUT] < 0.5)
    size = ground.size(frames[:, Y])
    reach = []
    for shape in range(len(SHAPES)):
        of_shape = whole & (frames[:, len(FEATURES) + shape] > 0.5)
        rows = of_shape if of_shape.any() else whole
        across, upright = (
            round(float((frames[:, side] / size)[rows].median()) / 2, 6) for side in (WIDTH, HEIGHT)
        )
        reach.append((across, upright))
    return replace(ground, border=round(border, 6), reach=tuple(reach))


def _with_entry(ground: Ground, latents: Tensor) -> Ground:
    """Fill in the mean velocity of objects from their first sighting, cut by a border, to their second."""
    frames = latents[:, :, :, 0]
    floor = torch.stack(ground.to_floor(frames[:, X], frames[:, Y]), dim=1)
    velocity = floor[:, :, 2:] - floor[:, :, 1:-1]
    seen = frames[:, SEEN] > 0.5
    first = seen[:, 2:] & seen[:, 1:-1] & (seen[:, :-2].cumsum(dim=1) == 0)
    inwards = -frames[:, X, 1:-1].sign() * velocity[:, 0]
    entry = []
    left = first
    for touched, sign in zip(touched_borders(frames[:, :, 1:-1], ground), (1, 0, 0), strict=True):
        rows = left & touched
        left = left & ~touched
        along = float(velocity[:, 1][rows].mean()) if rows.any() else 0.0
        entry.append((sign * float(inwards[rows].mean()) if rows.any() else 0.0, along))
    return replace(ground, entry=tuple((round(x, 6), round(y, 6)) for x, y in entry))


def _rollout_error(ground: Ground, latents: Tensor) -> float:
    """Mean distance of objects from their tracks at the end, rolled out from the middle of the clips."""
    frames = latents.shape[2]
    known = max(2, frames // 2)
    index = torch.arange(known, dtype=torch.float32).expand(len(latents), -1)
    found = find_anchor(latents[:, :, :known], index, ground)
    places = roll_out(found, index[:, -1:], frames - known, ground)[:, :, -1]
    true = latents[:, :, -1, 0]
    across, along = ground.to_frame(places[:, 0], places[:, 1])
    errors = torch.hypot(across - true[:, X], along - true[:, Y])[found.present & (true[:, SEEN] > 0.5)]
    return float(errors.mean()) if len(errors) else 0.0


def _with_friction(ground: Ground, latents: Tensor) -> Ground:
    """Fill in the median loss of speed per frame of sliding objects of each shape; 0 where none slides."""
    floor = torch.stack(ground.to_floor(latents[:, X, :, 0], latents[:, Y, :, 0]), dim=1)
    whole = (latents[:, SEEN, :, 0] > 0.5) & (latents[:, CUT, :, 0] < 0.5)
    speed = length(floor[:, :, 1:] - floor[:, :, :-1])
    measured = whole[:, 1:] & whole[:, :-1]
    sliding = measured[:, 1:] & measured[:, :-1] & (speed[:, :-1] > SLIDING)
    lost = speed[:, :-1] - speed[:, 1:]
    decelerations = []
    for shape in range(len(SHAPES)):
        of_shape = lost[sliding & (latents[:, len(FEATURES) + shape, :1, 0] > 0.5)]
        decelerations.append(round(max(float(of_shape.median()), 0.0), 6) if len(of_shape) else 0.0)
    return replace(ground, deceleration=tuple(decelerations))


def _extrapolation_error(ground: Ground, latents: Tensor) -> float:
    """Quantile of the distances of extrapolated places from the tracks of moving objects."""
    frames = latents.shape[2]
    index = torch.arange(frames, dtype=torch.float32).expand(len(latents), -1)
    errors = []
    for known in {max(2, round(end * frames)) for end in ENDS}:
        target = min(known - 1 + AHEAD, frames - 1)
        found = find_anchor(latents[:, :, :known], index[:, :known], ground)
        places = found.extrapolate(index[:, target : target + 1])[:, :, 0]
        true, last = latents[:, :, target, 0], latents[:, :, known - 1, 0]
        moving = (length(found.velocity) > SLIDING) & (true[:, CUT] < 0.5)
        moving &= (true[:, SEEN] > 0.5) & (last[:, SEEN] > 0.5)
        across, along = ground.to_frame(places[:, 0], places[:, 1])
        errors.append(torch.hypot(across - true[:, X], along - true[:, Y])[moving])
    error = torch.cat(errors)
    return float(error.quantile(FREE)) if len(error) else 0.0
