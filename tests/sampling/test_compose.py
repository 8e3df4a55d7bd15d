"""Frames and masks composed of moved objects."""

import numpy as np
import pytest

from vdp.core.ground import Ground
from vdp.core.objects import FEATURES, SEEN, X, Y
from vdp.data.object_states import object_states
from vdp.sampling.compose import Composer, background, best_frame, size_at

SIZE = (32, 48)
FLAT = Ground(0.2, 0.0, 1.0, (0.0, 0.0, 0.0))  # no perspective


def square(frames: int, number: int, top: int, left: int, side: int = 6) -> np.ndarray:
    labels = np.zeros((frames, *SIZE), np.uint8)
    labels[:, top : top + side, left : left + side] = number
    return labels


def composer(labels: np.ndarray, classes: list[int], ground: Ground = FLAT) -> Composer:
    colors = np.array([[40, 40, 40], [250, 10, 10], [10, 250, 10]], np.uint8)
    return Composer(
        colors[labels], labels, object_states(labels, len(classes)), np.array(classes, np.uint8), ground
    )


def places(labels: np.ndarray, count: int) -> np.ndarray:
    return object_states(labels, count)[:, -1][:, [X, Y, SEEN]]


def test_an_object_that_stays_gives_the_context_frame_and_its_mask():
    labels = square(3, 1, 10, 20)
    frame, mask = composer(labels, [5])(places(labels, 1))
    np.testing.assert_array_equal(mask, np.where(labels[-1], 5, 0))
    assert frame[12, 22].tolist() == [250, 10, 10]
    assert frame[0, 0].tolist() == [40, 40, 40]


def test_a_moved_object_is_drawn_at_its_place_and_leaves_the_background():
    labels = square(3, 1, 10, 20)
    moved = places(labels, 1)
    moved[0, :2] += np.array([8, -4]) / SIZE[0]
    frame, mask = composer(labels, [5])(moved)
    np.testing.assert_array_equal(mask, np.where(square(1, 1, 6, 28)[0], 5, 0))
    assert frame[8, 30].tolist() == [250, 10, 10]
    assert abs(int(frame[15, 20, 0]) - 40) <= 2


def test_the_mask_alone_is_the_mask_of_the_frame():
    labels = square(3, 1, 10, 20) + square(3, 2, 18, 24)
    compose = composer(labels, [5, 9])
    where = places(labels, 2) + np.array([0.03, 0.01, 0], np.float32)
    np.testing.assert_array_equal(compose.mask(where), compose(where)[1])


def test_the_lower_one_of_two_objects_hides_the_other():
    labels = square(3, 1, 4, 20) + square(3, 2, 16, 20)
    where = places(labels, 2)
    where[0, :2] = where[1, :2] - [0, 3 / SIZE[0]]
    mask = composer(labels, [5, 9]).mask(where)
    assert (mask == 9).sum() == 36
    assert (mask == 5).sum() == 18


def test_an_object_grows_as_it_comes_nearer():
    labels = square(3, 1, 10, 20)
    where = places(labels, 1)
    near = where + np.array([0, 0.25, 0], np.float32)
    ground = Ground(0.2, 0.2, 1.0, (0.0, 0.0, 0.0))
    grown = (composer(labels, [5], ground).mask(near) > 0).sum()
    expected = 36 * (size_at(ground, near[0, Y]) / size_at(ground, where[0, Y])) ** 2
    assert grown == pytest.approx(expected, rel=0.15)
    assert grown > 36


def test_an_object_that_is_not_visible_is_not_drawn_and_one_outside_is_cut():
    labels = square(3, 1, 10, 20)
    where = places(labels, 1)
    hidden = where * [1, 1, 0]
    assert not composer(labels, [5]).mask(hidden.astype(np.float32)).any()
    where[0, 0] = SIZE[1] / 2 / SIZE[0]
    assert 0 < (composer(labels, [5]).mask(where) > 0).sum() < 36
    where[0, 0] = 3
    assert not composer(labels, [5]).mask(where).any()


def test_the_best_frame_is_the_latest_that_shows_the_object_whole():
    whole, half, absent = square(1, 1, 10, 20), square(1, 1, 10, 20, side=3), square(1, 0, 10, 20)
    states = object_states(np.concatenate([whole, whole, half, absent]), 1)[0]
    assert best_frame(states, FLAT) == 1
    assert best_frame(np.zeros((3, len(FEATURES)), np.float32), FLAT) is None
    cut = object_states(np.concatenate([whole, square(1, 1, 0, 20)]), 1)[0]
    assert best_frame(cut, FLAT) == 0


def test_the_background_is_seen_behind_a_moving_object_and_filled_behind_a_resting_one():
    moving = np.concatenate([square(1, 1, 10, 4 + 8 * k) for k in range(3)])
    frames = np.full((3, *SIZE, 3), 90, np.uint8)
    frames[moving > 0] = 200
    assert (background(frames, moving > 0) == 90).all()
    resting = square(3, 1, 10, 20)
    frames = np.full((3, *SIZE, 3), 90, np.uint8)
    frames[resting > 0] = 200
    assert np.abs(background(frames, resting > 0).astype(int) - 90).max() <= 2


def test_the_rim_of_an_object_moves_with_it_and_leaves_no_outline_behind():
    """A pixel at the edge mixes object and floor, and belongs to no mask."""
    labels = square(3, 1, 10, 20)
    rim = square(1, 1, 9, 19, side=8)[0].astype(bool) & (labels[0] == 0)
    frames = np.full((3, *SIZE, 3), 90, np.uint8)
    frames[labels > 0] = 200
    frames[:, rim] = 150
    states, classes = object_states(labels, 1), np.array([5], np.uint8)
    compose = Composer(frames, labels, states, classes, FLAT)
    np.testing.assert_array_equal(compose(places(labels, 1))[0], frames[0])
    moved = places(labels, 1)
    moved[0, :2] += np.array([12, 6]) / SIZE[0]
    frame, mask = compose(moved)
    assert (frame[np.roll(rim, (6, 12), (0, 1))] == 150).all()
    assert (mask > 0).sum() == 36
    assert np.abs(frame[8:17, 18:27].astype(int) - 90).max() <= 2  # where it was


def test_the_rim_of_an_object_has_no_pixels_of_its_neighbour():
    labels = square(3, 1, 10, 20) + square(3, 2, 10, 26)
    moved = places(labels, 2)
    moved[0, 1] += 12 / SIZE[0]
    frame, _ = composer(labels, [5, 9])(moved)
    assert frame[23:27, 26].tolist() == [[40, 40, 40]] * 4
