import numpy as np
import pytest

from vdp.evaluation.tasks import blend, count_objects, nearest, object_statistics, score_frames, task_table


def frame(level: int) -> np.ndarray:
    return np.full((6, 8, 3), level, np.uint8)


def levels(frames: np.ndarray) -> list[int]:
    assert frames.dtype == np.uint8 and frames.shape[1:] == (6, 8, 3)
    return frames[:, 0, 0, 0].tolist()


def test_a_blend_fades_between_the_ends_in_equal_steps():
    assert levels(blend(frame(0), frame(200), 3)) == [50, 100, 150]
    assert levels(blend(frame(255), frame(255), 7)) == [255] * 7
    before, after = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3), np.uint8)
    assert np.array_equal(blend(before, after, 4)[::-1], blend(after, before, 4))


def test_the_nearest_frame_is_copied_and_at_equal_distance_the_later_one():
    assert levels(nearest(frame(10), frame(20), 4)) == [10, 10, 20, 20]
    assert levels(nearest(frame(10), frame(20), 3)) == [10, 20, 20]


@pytest.mark.parametrize("fill", [blend, nearest])
def test_empty_spans_and_ends_of_different_sizes_are_rejected(fill):
    with pytest.raises(ValueError, match="count: expected at least 1 frame, got 0"):
        fill(frame(0), frame(1), 0)
    with pytest.raises(ValueError, match="after: expected the shape of before"):
        fill(frame(0), frame(1)[:4], 2)


def test_the_gain_is_over_the_first_baseline():
    truth = [np.full((2, 16, 24, 3), 100, np.uint8)]
    off = {name: [truth[0] + np.uint8(error)] for name, error in (("first", 10), ("second", 100))}
    scores = score_frames([truth[0] + np.uint8(1)], truth, off)
    assert list(scores) == ["psnr", "ssim", "gain_db", "first", "second"]
    assert scores["gain_db"] == pytest.approx(20)  # an error ten times as large
    assert "gain_db" not in score_frames(truth, truth, {})
    assert "first 28.13, second 8.13" in task_table({"simulated": {"predict": scores}})


@pytest.mark.parametrize(("min_pixels", "count"), [(1, 3), (4, 2), (10, 1)])
def test_objects_are_connected_components_of_any_classes(min_pixels, count):
    mask = np.zeros((12, 16), np.uint8)
    mask[1:4, 1:4] = mask[1:4, 9:12] = 7
    mask[1:4, 4:7] = 9  # touches the first
    mask[8, 2] = 7
    assert count_objects(mask, min_pixels) == count
    assert count_objects(np.zeros_like(mask), min_pixels) == 0


def test_components_are_connected_by_corners_and_need_no_background():
    mask = np.zeros((6, 6), np.uint8)
    mask[0:2, 0:2] = mask[2:4, 2:4] = 3
    assert (count_objects(mask, 8), count_objects(mask, 9)) == (1, 0)
    assert count_objects(np.full((5, 5), 4, np.uint8), 25) == 1


def test_statistics_of_counts():
    expected = {"mean": 2.0, "frames_with_any": 0.75, "fewest": 0.0, "most": 4.0}
    assert object_statistics([0, 2, 4, 2]) == expected
    with pytest.raises(ValueError, match="at least one frame"):
        object_statistics([])
