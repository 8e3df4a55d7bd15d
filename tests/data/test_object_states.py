"""States of objects, measured from label maps."""

import numpy as np
import pytest

from vdp.core.objects import AREA, CUT, HEIGHT, SEEN, WIDTH, X, Y
from vdp.data.object_states import MIN_PIXELS, class_labels, object_states


def box_labels(rows: slice, columns: slice, number: int = 1, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    labels = np.zeros((1, *size), np.uint8)
    labels[0, rows, columns] = number
    return labels


def test_a_box_is_measured_in_frame_heights_from_the_centre():
    state = object_states(box_labels(slice(4, 8), slice(20, 26)), 1)[0, 0]
    assert state[X] == pytest.approx((23 - 15) / 20)
    assert state[Y] == pytest.approx((6 - 10) / 20)
    assert state[[SEEN, CUT]].tolist() == [1, 0]
    assert state[WIDTH] == pytest.approx(6 / 20)
    assert state[HEIGHT] == pytest.approx(4 / 20)
    assert state[AREA] == pytest.approx(24 / 400)


def test_states_do_not_depend_on_the_resolution():
    labels = box_labels(slice(4, 8), slice(20, 26))
    larger = labels.repeat(3, axis=1).repeat(3, axis=2)
    np.testing.assert_allclose(object_states(larger, 1), object_states(labels, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (slice(0, 3), slice(5, 9)),
        (slice(17, 20), slice(5, 9)),
        (slice(5, 9), slice(0, 3)),
        (slice(5, 9), slice(27, 30)),
    ],
)
def test_an_object_at_a_border_is_cut(rows, columns):
    assert object_states(box_labels(rows, columns), 1)[0, 0, CUT] == 1


def test_an_object_of_too_few_pixels_is_not_visible():
    labels = box_labels(slice(4, 5), slice(4, 4 + MIN_PIXELS - 1))
    assert not object_states(labels, 1).any()
    assert object_states(box_labels(slice(4, 5), slice(4, 4 + MIN_PIXELS)), 1)[0, 0, SEEN] == 1


def test_objects_are_measured_apart_and_absent_ones_are_zero():
    labels = box_labels(slice(1, 5), slice(1, 5), 1) + box_labels(slice(10, 14), slice(10, 14), 3)
    states = object_states(labels, 3)
    assert states[:, 0, SEEN].tolist() == [1, 0, 1]
    assert not states[1].any()
    alone = object_states(box_labels(slice(10, 14), slice(10, 14), 1), 1)
    np.testing.assert_array_equal(states[2], alone[0])


def test_labels_of_class_masks_keep_the_objects():
    masks = np.zeros((2, 4, 4), np.uint8)
    masks[0, 1], masks[1, 2] = 7, 48
    labels, classes = class_labels(masks)
    assert classes.tolist() == [7, 48]
    np.testing.assert_array_equal(np.concatenate([[0], classes])[labels], masks)
