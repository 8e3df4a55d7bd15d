from pathlib import Path

import numpy as np
import pytest

from vdp.evaluation.baselines import (
    DECAYS,
    DEFAULT_DECAY,
    Decay,
    choose_decay,
    constant_velocity,
    copy_last,
    decayed_velocity,
)
from vdp.evaluation.mask import confusion_matrix, jaccard

REAL_CLIPS = Path(__file__).resolve().parents[3] / "shared" / "real_clips" / "train"

Box = tuple[int, int, int, int, int]  # class, top, left, height, width


def draw(*boxes: Box) -> np.ndarray:
    """Boxes on a background, later ones on top, cut at the picture's border."""
    mask = np.zeros((60, 90), np.uint8)
    for label, top, left, rows, columns in boxes:
        mask[max(top, 0) : max(top + rows, 0), max(left, 0) : max(left + columns, 0)] = label
    return mask


def moving(label: int, top: int, left: int, down: int, right: int, frames: int) -> np.ndarray:
    return np.stack([draw((label, top + down * k, left + right * k, 8, 10)) for k in range(frames)])


@pytest.mark.parametrize(("down", "right"), [(0, 2), (1, -1), (-1, 2), (0, 0)])
def test_objects_at_constant_velocity_are_predicted_exactly(down, right):
    clip = moving(7, 25, 40, down, right, 22) + moving(30, 2, 70, 0, -2, 22)
    np.testing.assert_array_equal(constant_velocity(clip[:11], steps=11), clip[21])


def test_velocity_is_measured_over_two_frames():
    clip = np.stack([draw((7, 20, 10 + k // 2, 8, 10)) for k in range(23)])  # half a pixel per frame
    np.testing.assert_array_equal(constant_velocity(clip[:11], steps=10), clip[20])


def test_decay_zero_is_a_copy_and_one_is_constant_velocity():
    context = moving(7, 20, 10, 1, 2, 11)
    np.testing.assert_array_equal(decayed_velocity(context, 11, 0.0), copy_last(context))
    np.testing.assert_array_equal(decayed_velocity(context, 11, 1.0), constant_velocity(context, 11))


def test_displacements_decay_as_a_geometric_series():
    """4 pixels per frame, halved at each of 3 steps: 2 + 1 + 0.5 = 3.5, rounded to the even 4."""
    moved = decayed_velocity(moving(7, 20, 10, 0, 4, 11), 3, 0.5)
    np.testing.assert_array_equal(moved, draw((7, 20, 10 + 4 * 10 + 4, 8, 10)))


def test_of_overlapping_objects_the_lower_one_is_on_top():
    """The order of the class ids is the reverse of the order in depth."""
    clip = np.stack([draw((30, 20, 10 + k, 10, 12), (7, 26, 54 - k, 10, 12)) for k in range(22)])
    predicted = constant_velocity(clip[:11], steps=11)
    np.testing.assert_array_equal(predicted, clip[21])
    assert (predicted == 7).sum() == 120 > (predicted == 30).sum()


def test_objects_are_cut_at_the_border_and_may_leave():
    context = moving(7, 20, 64, 0, 1, 11)  # columns 74..83 in frame 11
    np.testing.assert_array_equal(constant_velocity(context, 10), draw((7, 20, 84, 8, 10)))
    assert not constant_velocity(context, 20).any()


def test_an_object_seen_twice_moves_and_one_seen_once_stays():
    context = moving(7, 20, 10, 0, 2, 11)
    context[:9] = 0
    np.testing.assert_array_equal(constant_velocity(context, 5), draw((7, 20, 10 + 2 * 15, 8, 10)))
    context[:10] = 0
    np.testing.assert_array_equal(constant_velocity(context, 5), context[-1])
    np.testing.assert_array_equal(constant_velocity(context[-1:], 11), context[-1])


@pytest.mark.parametrize("decay", DECAYS)
def test_the_decay_of_moving_masks_is_recovered(decay):
    """4 pixels per frame up to the last context frame, then slower by `decay` at every step."""
    reach = round(4 * sum(decay**k for k in range(1, 12)))
    clips = [
        (moving(label, 20, left, 0, 4, 3), draw((label, 20, left + 2 * 4 + reach, 8, 10)))
        for label, left in ((7, 5), (30, 15), (7, 10))
    ]
    assert choose_decay(iter(clips), steps=11) == Decay(decay, 3)


def test_without_clips_the_decay_is_a_constant():
    assert choose_decay([], steps=11) == Decay(DEFAULT_DECAY, 0)


def test_decay_scores_higher_than_constant_velocity_on_real_clips():
    masks = [np.load(path) for path in sorted(REAL_CLIPS.glob("video_*/mask.npy"))]
    if not masks:
        pytest.skip(f"{REAL_CLIPS} is missing")

    def score(decay: float) -> float:
        return jaccard(sum(confusion_matrix(decayed_velocity(m[:11], 11, decay), m[21]) for m in masks))

    assert score(0.9) > score(1.0)
