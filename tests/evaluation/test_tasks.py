"""Baselines of a gap and counts of objects, where the answers are known."""

import numpy as np
import pytest

from vdp.evaluation.tasks import blend, count_objects, nearest, object_statistics


def frame(level: int) -> np.ndarray:
    return np.full((6, 8, 3), level, np.uint8)


def levels(frames: np.ndarray) -> list[int]:
    assert frames.dtype == np.uint8 and frames.shape[1:] == (6, 8, 3)
    return frames[:, 0, 0, 0].tolist()


def test_a_blend_goes_from_one_end_to_the_other_in_equal_steps():
    assert levels(blend(frame(0), frame(200), 3)) == [50, 100, 150]
    assert levels(blend(frame(200), frame(0), 1)) == [100]
    assert levels(blend(frame(255), frame(255), 7)) == [255] * 7


def test_a_blend_played_backwards_is_the_blend_of_the_ends_swapped():
    rng = np.random.default_rng(0)
    before, after = rng.integers(0, 256, (2, 6, 8, 3), np.uint8)
    assert np.array_equal(blend(before, after, 4)[::-1], blend(after, before, 4))


def test_the_nearest_frame_is_copied_and_of_two_as_near_the_later_one():
    assert levels(nearest(frame(10), frame(20), 4)) == [10, 10, 20, 20]
    assert levels(nearest(frame(10), frame(20), 3)) == [10, 20, 20]


@pytest.mark.parametrize("fill", [blend, nearest])
def test_a_gap_without_frames_or_with_ends_of_two_sizes_is_refused(fill):
    with pytest.raises(ValueError, match="1 frame or more.*got 0"):
        fill(frame(0), frame(1), 0)
    with pytest.raises(ValueError, match="expected the shape of before"):
        fill(frame(0), frame(1)[:4], 2)


def test_parts_that_do_not_touch_are_two_objects_and_a_blob_of_classes_is_one():
    mask = np.zeros((12, 16), np.uint8)
    mask[1:4, 1:4] = 7
    mask[1:4, 8:11] = 7  # apart from the first
    mask[1:4, 4:7] = 9  # touches the first
    mask[8, 2] = 7  # a speck
    assert count_objects(mask, least=4) == 2
    assert count_objects(mask, least=1) == 3
    assert count_objects(mask, least=10) == 1
    assert count_objects(np.zeros((12, 16), np.uint8), least=1) == 0


def test_parts_that_touch_at_a_corner_are_one_object_and_its_smallest_size_is_counted():
    mask = np.zeros((6, 6), np.uint8)
    mask[0:2, 0:2] = mask[2:4, 2:4] = 3
    assert count_objects(mask, least=8) == 1
    assert count_objects(mask, least=9) == 0


def test_a_mask_without_background_is_all_object():
    assert count_objects(np.full((5, 5), 4, np.uint8), least=25) == 1


def test_statistics_of_counts_are_those_of_the_frames():
    assert object_statistics([0, 2, 4, 2]) == {
        "mean": 2.0,
        "frames_with_any": 0.75,
        "fewest": 0.0,
        "most": 4.0,
    }
    with pytest.raises(ValueError, match="got none"):
        object_statistics([])
