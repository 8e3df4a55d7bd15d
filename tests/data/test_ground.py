"""The floor, fitted to tracks of objects that slide over it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vdp.core.anchor import find_anchor
from vdp.core.collisions import roll_out
from vdp.core.ground import Ground, slide
from vdp.core.objects import AREA, FEATURES, SEEN, X, Y
from vdp.data.batches.motion import object_latents
from vdp.data.ground import fit_ground

TRUE = Ground(0.15, 0.16, 2.0, (0.03, 0.016, 0.03))


def tracks(ground: Ground, clips: int = 200, frames: int = 22) -> tuple[np.ndarray, np.ndarray]:
    """One cube, sphere and cylinder per clip, at random places with random velocities."""
    rng = np.random.default_rng(0)
    start = torch.tensor(rng.uniform(-2.5, 2.5, (clips, 3, 2, 1)), dtype=torch.float32)
    angle = rng.uniform(0, 2 * np.pi, (clips, 3))
    heading = torch.tensor(np.stack([np.cos(angle), np.sin(angle)], axis=2)[..., None], dtype=torch.float32)
    speed = torch.tensor(rng.uniform(0.1, 0.5, (clips, 3, 1)), dtype=torch.float32)
    deceleration = torch.tensor(ground.deceleration)[:, None]
    path = start + heading * slide(speed, deceleration, torch.arange(float(frames)))[:, :, None]
    x, y = ground.to_frame(path[:, :, 0], path[:, :, 1])
    states = np.zeros((clips, 3, frames, len(FEATURES)), np.float32)
    states[..., X], states[..., Y], states[..., SEEN] = x, y, 1
    states[..., AREA] = ground.size(y).numpy() ** 2
    return states, np.tile(np.array([1, 17, 33], np.uint8), (clips, 1))


def test_the_floor_of_sliding_objects_is_recovered():
    found = fit_ground(*tracks(TRUE))
    assert found.offset == pytest.approx(TRUE.offset, abs=1e-3)
    assert found.slope == pytest.approx(TRUE.slope, abs=1e-3)
    assert found.stretch == TRUE.stretch
    assert found.deceleration == pytest.approx(TRUE.deceleration, abs=2e-3)


def test_objects_of_one_size_lie_on_a_flat_floor():
    assert fit_ground(*tracks(Ground(0.2, 0.0, 1.0, (0.03, 0.02, 0.03)))).flat


def test_tracks_without_objects_are_refused():
    with pytest.raises(ValueError, match="no object"):
        fit_ground(np.zeros((2, 3, 22, len(FEATURES)), np.float32), np.zeros((2, 3), np.uint8))


def test_collisions_are_recovered():
    """Pairs that meet head on: without collisions the error at the end is that of passing through."""
    states, classes = tracks(TRUE)
    floor = replace(TRUE, diameter=1.1, restitution=0.7)
    index = torch.arange(11.0).expand(len(states), -1)
    found = find_anchor(object_latents(states[:, :, :11], classes), index, TRUE)
    rng = np.random.default_rng(1)
    apart = torch.tensor(rng.uniform(-0.4, 0.4, (len(states), 2)), dtype=torch.float32)
    found.place[:, 0, 1] = found.place[:, 0, 0] + 2.0  # the second in the first one's way
    found.place[:, 1, 1] = found.place[:, 1, 0] + apart[:, 0]
    found.velocity[:, :, 0] = torch.tensor([0.6, 0.0])
    found.velocity[:, :, 1] = 0
    known = torch.arange(-10.0, 1.0)
    before = found.place[:, :, None] + found.velocity[:, :, None] * known[:, None]  # on steady paths
    path = torch.cat([before, roll_out(found, index[:, -1:], 11, floor)], dim=2)
    x, y = TRUE.to_frame(path[:, 0], path[:, 1])
    states[..., X], states[..., Y] = x.transpose(1, 2), y.transpose(1, 2)
    states[..., AREA] = TRUE.size(y).transpose(1, 2).numpy() ** 2
    found_floor = fit_ground(states, classes)
    assert found_floor.diameter == pytest.approx(1.1, abs=0.11)
    assert found_floor.restitution < 1
