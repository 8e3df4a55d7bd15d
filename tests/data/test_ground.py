"""The floor, fitted to tracks of objects that slide over it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vdp.core.anchor import find_anchor
from vdp.core.collisions import roll_out
from vdp.core.ground import Ground, slide
from vdp.core.objects import AREA, CUT, FEATURES, HEIGHT, SEEN, WIDTH, X, Y
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


# --- Objects that the border cuts ------------------------------------------------------------------------

FLAT = Ground(
    0.2, 0.0, 1.0, (0.0,) * 3, border=0.75, reach=((0.6, 0.4), (0.5, 0.5), (0.4, 0.7)),
    entry=((0.3, 0.05), (0.0, 0.2), (0.0, -0.3)),
)  # fmt: skip


def entering(clips: int = 120, frames: int = 22) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of a cube, a sphere and a cylinder per clip that enter at a side, the top or the bottom.

    They keep their velocity, which is that of their side on average; a state is that of the visible part.
    """
    rng = np.random.default_rng(0)
    side = rng.integers(0, 4, (clips, 3))  # left, right, top, bottom
    kind = np.maximum(side - 1, 0)
    speed = np.array(FLAT.entry)[kind] * rng.uniform(0.7, 1.3, (clips, 3, 1))
    inwards = np.where(side == 1, -1, 1)
    velocity = FLAT.offset * speed * np.stack([inwards, np.ones_like(side)], axis=2)
    half = FLAT.offset * np.array(FLAT.reach)  # (3, 2), by shape
    along_border = rng.uniform(-0.15, 0.15, (clips, 3, 2))
    outside = rng.uniform(0.02, 0.15, (clips, 3))
    at_side, upright = side < 2, np.where(side == 2, -1, 1)
    start = np.stack(
        [
            np.where(at_side, -inwards * (FLAT.border + half[:, 0] + outside), along_border[..., 0]),
            np.where(at_side, along_border[..., 1], upright * (0.5 + half[:, 1] + outside)),
        ],
        axis=2,
    )
    path = start[:, :, None] + velocity[:, :, None] * np.arange(frames)[:, None]
    limit = np.array([FLAT.border, 0.5])
    low, high = (np.clip(path + sign * half[:, None], -limit, limit) for sign in (-1, 1))
    size = np.maximum(high - low, 0)
    states = np.zeros((clips, 3, frames, len(FEATURES)), np.float32)
    states[..., [X, Y]], states[..., [WIDTH, HEIGHT]] = (low + high) / 2, size
    states[..., SEEN] = (size > 1e-4).all(axis=-1)
    states[..., CUT] = (size < 2 * half[:, None] - 1e-6).any(axis=-1)
    states[..., AREA] = FLAT.offset**2 * size.prod(axis=-1) / (2 * half).prod(axis=-1)[:, None]
    states *= states[..., SEEN : SEEN + 1]
    return states, np.tile(np.array([1, 17, 33], np.uint8), (clips, 1))


def test_border_and_reach_are_recovered_from_cut_and_whole_objects():
    found = fit_ground(*entering())
    assert found.flat and found.offset == pytest.approx(FLAT.offset, abs=1e-4)
    assert found.border == pytest.approx(FLAT.border, abs=1e-3)
    np.testing.assert_allclose(found.reach, FLAT.reach, atol=1e-3)


def test_the_velocity_of_entering_objects_is_their_mean_from_the_first_to_the_second_sighting():
    np.testing.assert_allclose(fit_ground(*entering()).entry, FLAT.entry, atol=0.02)


def test_objects_of_the_first_frame_do_not_enter():
    """Cut by the border or not."""
    states, classes = entering()
    enters_at = states[..., SEEN].argmax(axis=2)
    states, classes = states[(enters_at == 3).any(axis=1)][:, :, 3:], classes[(enters_at == 3).any(axis=1)]
    states *= (enters_at[(enters_at == 3).any(axis=1)] == 3)[:, :, None, None]
    assert len(states) > 20 and (states[:, :, 0, CUT] == 1).any()
    assert fit_ground(states, classes).entry == ((0.0, 0.0),) * 3
    states, classes = tracks(TRUE)
    assert fit_ground(states, classes).entry == ((0.0, 0.0),) * 3


def test_without_cut_objects_the_border_is_where_the_outermost_edge_was():
    states, classes = tracks(TRUE)
    states[..., [WIDTH, HEIGHT]] = 0.1
    found = fit_ground(states, classes)
    assert found.border == pytest.approx(np.abs(states[..., X]).max() + 0.05, abs=1e-4)


def test_a_shape_that_is_never_whole_has_the_reach_of_all_shapes():
    states, classes = entering()
    states[:, 1, :, CUT] = states[:, 1, :, SEEN]
    found = fit_ground(states, classes).reach
    assert 0.4 <= found[1][0] <= 0.6 and 0.4 <= found[1][1] <= 0.7
    assert found[0] == pytest.approx(FLAT.reach[0], abs=1e-3)
