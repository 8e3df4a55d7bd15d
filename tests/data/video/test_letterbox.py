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


def test_frames_of_the_networks_size_are_unchanged():
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 96, 3), np.uint8)
    box = Letterbox(64, 96, 64, 96)
    assert np.array_equal(box.fit(frames), frames)
    assert np.array_equal(box.restore(frames), frames)
    assert np.array_equal(box.restore_masks(frames[..., 0]), frames[..., 0])


@pytest.mark.parametrize("box", BOXES, ids=str)
def test_every_size_is_fitted_and_restored(box):
    frames = np.broadcast_to(smooth(box.rows, box.columns), (2, box.rows, box.columns, 3))
    fitted = box.fit(frames)
    assert fitted.shape == (2, 64, 96, 3)
    assert box.restore(fitted).shape == frames.shape
    assert box.restore(fitted[0]).shape == frames.shape[1:]
    assert box.restore_masks(fitted[..., 0]).shape == frames.shape[:3]
    assert box.fit(frames[:0]).shape == (0, 64, 96, 3)


@pytest.mark.parametrize("box", BOXES, ids=str)
def test_the_aspect_ratio_is_kept_and_the_picture_is_centred(box):
    top, left, height, width = box.inner
    assert height == 64 or width == 96  # as large as possible
    assert abs(height * box.columns - width * box.rows) <= max(box.rows, box.columns)
    assert abs(64 - height - 2 * top) <= 1
    assert abs(96 - width - 2 * left) <= 1


@pytest.mark.parametrize("size", [(37, 91), (65, 97), (270, 480), (480, 270)])
def test_restore_inverts_fit_for_a_smooth_picture(size):
    frames = smooth(*size)[None]
    box = Letterbox(*size, 64, 96)
    error = np.abs(box.restore(box.fit(frames)).astype(int) - frames)
    assert error.mean() < 1.5
    # half a pixel of the small picture is unknown at the edge
    inner = error[:, size[0] // 16 : -size[0] // 16, size[1] // 16 : -size[1] // 16]
    assert inner.max() <= 8


def test_bars_repeat_the_edge():
    box = Letterbox(40, 20, 64, 96)
    fitted = box.fit(smooth(40, 20))
    _, left, _, width = box.inner
    assert left and (fitted[:, :left] == fitted[:, left : left + 1]).all()
    assert (fitted[:, left + width :] == fitted[:, left + width - 1 : left + width]).all()


def test_restored_masks_have_no_new_class_and_match_the_frames():
    box = Letterbox(270, 481, 64, 96)
    truth = np.zeros((270, 481), np.uint8)
    truth[90:180, 160:320] = 48
    fitted = np.where(box.fit(np.repeat(truth[..., None], 3, axis=2))[..., 0] > 24, 48, 0).astype(np.uint8)
    restored = box.restore_masks(fitted)
    assert set(np.unique(restored)) == {0, 48}
    rows, columns = np.nonzero(restored)
    assert rows.mean() == pytest.approx(134.5, abs=2)
    assert columns.mean() == pytest.approx(239.5, abs=2)


def test_frames_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"frames: expected uint8 \(..., 40, 20, 3\)"):
        Letterbox(40, 20, 64, 96).fit(np.zeros((20, 40, 3), np.uint8))
