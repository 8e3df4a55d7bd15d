"""Frames of any size at a network's size and back."""

import numpy as np
import pytest

from vdp.data.video.letterbox import Letterbox

SIZES = [(1, 1), (1, 400), (400, 1), (3, 5), (37, 91), (64, 96), (65, 97), (128, 192), (270, 480), (480, 270)]
BOXES = [Letterbox(rows, columns, 64, 96) for rows, columns in SIZES]


def smooth(rows: int, columns: int) -> np.ndarray:
    """A slow wave in each colour, (rows, columns, 3) uint8."""
    y, x = np.linspace(0, 3, rows)[:, None], np.linspace(0, 3, columns)[None]
    waves = [np.sin(x + y), np.cos(x - y), np.sin(2 * x) * np.cos(y)]
    return np.rint(127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def test_frames_of_the_networks_size_are_the_same_to_the_byte():
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 96, 3), np.uint8)
    box = Letterbox(64, 96, 64, 96)
    assert np.array_equal(box.put(frames), frames)
    assert np.array_equal(box.take(frames), frames)
    assert np.array_equal(box.take_masks(frames[..., 0]), frames[..., 0])


@pytest.mark.parametrize("box", BOXES, ids=str)
def test_every_size_goes_in_and_comes_back(box):
    frames = np.broadcast_to(smooth(box.rows, box.columns), (2, box.rows, box.columns, 3))
    inside = box.put(frames)
    assert inside.shape == (2, 64, 96, 3)
    assert box.take(inside).shape == frames.shape
    assert box.take(inside[0]).shape == frames.shape[1:]
    assert box.take_masks(inside[..., 0]).shape == frames.shape[:3]
    assert box.put(frames[:0]).shape == (0, 64, 96, 3)


@pytest.mark.parametrize("box", BOXES, ids=str)
def test_the_aspect_is_kept_to_a_pixel_and_the_picture_is_centred(box):
    top, left, height, width = box.inner
    assert height == 64 or width == 96  # as large as it can be
    assert abs(height * box.columns - width * box.rows) <= max(box.rows, box.columns)
    assert abs(64 - height - 2 * top) <= 1
    assert abs(96 - width - 2 * left) <= 1


@pytest.mark.parametrize("size", [(37, 91), (65, 97), (270, 480), (480, 270)])
def test_a_smooth_picture_survives_the_way_in_and_back(size):
    frames = smooth(*size)[None]
    box = Letterbox(*size, 64, 96)
    error = np.abs(box.take(box.put(frames)).astype(int) - frames)
    assert error.mean() < 1.5
    # the middle of the picture: at its edge half a pixel of the small one is not known
    inner = error[:, size[0] // 16 : -size[0] // 16, size[1] // 16 : -size[1] // 16]
    assert inner.max() <= 8


def test_the_bars_repeat_the_edge():
    box = Letterbox(40, 20, 64, 96)
    inside = box.put(smooth(40, 20))
    _, left, _, width = box.inner
    assert left and (inside[:, :left] == inside[:, left : left + 1]).all()
    assert (inside[:, left + width :] == inside[:, left + width - 1 : left + width]).all()


def test_masks_get_no_new_class_and_stay_where_the_frames_show_them():
    box = Letterbox(270, 481, 64, 96)
    truth = np.zeros((270, 481), np.uint8)
    truth[90:180, 160:320] = 48
    inside = np.where(box.put(np.repeat(truth[..., None], 3, axis=2))[..., 0] > 24, 48, 0).astype(np.uint8)
    back = box.take_masks(inside)
    assert set(np.unique(back)) == {0, 48}
    rows, columns = np.nonzero(back)
    assert rows.mean() == pytest.approx(134.5, abs=2)
    assert columns.mean() == pytest.approx(239.5, abs=2)


def test_another_size_is_told():
    with pytest.raises(ValueError, match=r"expected uint8 \(..., 40, 20, 3\), got uint8 \(20, 40, 3\)"):
        Letterbox(40, 20, 64, 96).put(np.zeros((20, 40, 3), np.uint8))
