import numpy as np
import pytest

from vdp.data.video.resize import resize_frame, resize_mask


def test_area_resizing_keeps_the_mean():
    frame = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    small = resize_frame(frame, 16, 24, "stretch")
    np.testing.assert_allclose(small, frame.reshape(16, 4, 24, 4, 3).mean((1, 3)), atol=0.51)


def test_a_resized_mask_stays_over_its_object():
    mask = np.zeros((160, 240), np.uint8)
    mask[40:90, 100:160] = 7
    frame = np.repeat((mask == 7).astype(np.uint8)[..., None] * 255, 3, axis=2)
    small_mask, small_frame = resize_mask(mask, 64, 96, "crop"), resize_frame(frame, 64, 96, "crop")
    assert set(np.unique(small_mask)) == {0, 7}
    weight = small_frame[..., 0] / 255.0
    rows, columns = np.mgrid[:64, :96]
    centre = [(rows * weight).sum() / weight.sum(), (columns * weight).sum() / weight.sum()]
    np.testing.assert_allclose(np.argwhere(small_mask == 7).mean(0), centre, atol=0.2)


@pytest.mark.parametrize("size", [(20, 31), (128, 200)])
def test_no_class_appears_between_two_others(size):
    mask = np.full((64, 96), 10, np.uint8)
    mask[:, 48:] = 30
    assert set(np.unique(resize_mask(mask, *size, "stretch"))) == {10, 30}


def test_cropping_keeps_the_middle_of_frames_and_masks():
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:96] = 255  # the middle square
    assert (resize_frame(wide, 32, 32, "crop") == 255).all()
    assert not (resize_frame(wide, 32, 32, "stretch") == 255).all()
    assert (resize_frame(wide.transpose(1, 0, 2), 32, 32, "crop") == 255).all()
    assert (resize_mask(wide[..., 0], 32, 32, "crop") == 255).all()


@pytest.mark.parametrize("fit", ["crop", "stretch"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (7, 13), (64, 96)])
def test_any_size_becomes_any_other(shape, fit):
    frame = resize_frame(np.full((*shape, 3), 90, np.uint8), 32, 48, fit)
    mask = resize_mask(np.full(shape, 9, np.uint8), 32, 48, fit)
    assert frame.shape == (32, 48, 3) and (frame == 90).all()
    assert mask.shape == (32, 48) and (mask == 9).all()


def test_resizing_to_the_same_size_changes_nothing():
    frame = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_frame(frame, 32, 48, "crop"), frame)
