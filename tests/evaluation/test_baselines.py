from pathlib import Path

import numpy as np
import pytest

from vdp.evaluation.baselines import constant_velocity, copy_last, decayed_velocity
from vdp.evaluation.mask import confusion_matrix, jaccard

REAL_CLIPS = Path(__file__).resolve().parents[3] / "shared" / "real_clips" / "train"

Box = tuple[int, int, int, int, int]  # class, top, left, height, width


def draw(boxes: list[Box], height: int = 60, width: int = 90) -> np.ndarray:
    """Boxes on a background, later ones on top, cut at the picture's edge."""
    mask = np.zeros((height, width), np.uint8)
    for label, top, left, rows, columns in boxes:
        mask[max(top, 0) : max(top + rows, 0), max(left, 0) : max(left + columns, 0)] = label
    return mask


def moving(label: int, top: int, left: int, down: int, right: int, frames: int) -> np.ndarray:
    return np.stack([draw([(label, top + down * k, left + right * k, 8, 10)]) for k in range(frames)])


@pytest.mark.parametrize(("down", "right"), [(0, 2), (1, -1), (-1, 2), (0, 0)])
def test_an_object_at_constant_velocity_is_predicted_exactly(down, right):
    clip = moving(7, 25, 40, down, right, 22)
    np.testing.assert_array_equal(constant_velocity(clip[:11], steps=11), clip[21])


def test_half_a_pixel_a_frame_is_seen_over_two_frames():
    clip = np.stack([draw([(7, 20, 10 + k // 2, 8, 10)]) for k in range(23)])
    np.testing.assert_array_equal(constant_velocity(clip[:11], steps=10), clip[20])


def test_objects_at_rest_stay_whatever_the_decay():
    known = np.repeat(draw([(3, 5, 5, 9, 9), (40, 30, 50, 10, 12)])[None], 11, axis=0)
    for decay in (0.0, 0.5, 1.0):
        np.testing.assert_array_equal(decayed_velocity(known, 11, decay), known[-1])


def test_objects_move_independently():
    first, second = moving(7, 10, 10, 0, 1, 22), moving(30, 40, 70, 0, -2, 22)
    np.testing.assert_array_equal(constant_velocity((first + second)[:11], steps=11), first[21] + second[21])


def test_decay_zero_is_a_copy_and_one_is_constant_velocity():
    known = moving(7, 20, 10, 1, 2, 11)
    np.testing.assert_array_equal(decayed_velocity(known, 11, 0.0), copy_last(known))
    np.testing.assert_array_equal(decayed_velocity(known, 11, 1.0), constant_velocity(known, 11))


def test_a_decaying_object_goes_as_far_as_the_series_says():
    """4 pixels a frame, halved at each of 3 steps: 2 + 1 + 0.5 = 3.5, which is rounded to the even 4."""
    known = moving(7, 20, 10, 0, 4, 11)
    moved = decayed_velocity(known, 3, 0.5)
    np.testing.assert_array_equal(moved, draw([(7, 20, 10 + 4 * 10 + 4, 8, 10)]))


def test_the_nearer_object_lies_on_top_where_two_meet():
    """The lower in the picture is the nearer; class ids are chosen so that their order would be wrong."""
    boxes = [[(30, 20, 10 + k, 10, 12), (7, 26, 54 - k, 10, 12)] for k in range(22)]
    clip = np.stack([draw(b) for b in boxes])
    predicted = constant_velocity(clip[:11], steps=11)
    np.testing.assert_array_equal(predicted, clip[21])
    assert (predicted == 7).sum() == 120 > (predicted == 30).sum()


def test_an_object_is_cut_off_at_the_edge_and_may_leave():
    known = moving(7, 20, 64, 0, 1, 11)  # columns 74..83 in frame 11
    np.testing.assert_array_equal(constant_velocity(known, 10), draw([(7, 20, 84, 8, 10)]))
    assert (constant_velocity(known, 10) == 7).sum() == 8 * 6
    assert not constant_velocity(known, 20).any()


def test_an_object_that_entered_late_moves_if_seen_twice_and_stays_if_seen_once():
    known = moving(7, 20, 10, 0, 2, 11)
    known[:9] = 0
    np.testing.assert_array_equal(constant_velocity(known, 5), draw([(7, 20, 10 + 2 * 15, 8, 10)]))
    known[:10] = 0
    np.testing.assert_array_equal(constant_velocity(known, 5), known[-1])


def test_one_known_frame_is_copied():
    known = moving(7, 20, 10, 0, 2, 1)
    np.testing.assert_array_equal(constant_velocity(known, 11), known[0])


def test_real_objects_slow_down():
    """On the real clips a decaying velocity is nearer to the truth than a constant one."""
    masks = [np.load(path) for path in sorted(REAL_CLIPS.glob("video_*/mask.npy"))]
    if not masks:
        pytest.skip(f"{REAL_CLIPS} is not here")

    def score(decay: float) -> float:
        return jaccard(sum(confusion_matrix(decayed_velocity(m[:11], 11, decay), m[21]) for m in masks))

    assert score(0.9) > score(1.0)
