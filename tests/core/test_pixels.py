import warnings

import numpy as np
import torch

from vdp.core.pixels import to_pixels, to_uint8


def test_every_byte_comes_back_as_it_went_in():
    frames = np.arange(256, dtype=np.uint8).repeat(3).reshape(2, 8, 16, 3)
    np.testing.assert_array_equal(to_uint8(to_pixels(frames)), frames)


def test_pixels_lie_between_minus_one_and_one_with_colours_first():
    pixels = to_pixels(np.array([[[0, 255, 51]]], np.uint8))
    assert pixels.shape == (3, 1, 1)
    torch.testing.assert_close(pixels.flatten(), torch.tensor([-1.0, 1.0, -0.6]))


def test_values_beyond_the_range_are_cut_and_do_not_wrap_around():
    pixels = torch.tensor([-3.0, 1.2, 0.0]).reshape(3, 1, 1)
    assert to_uint8(pixels).flatten().tolist() == [0, 255, 128]


def test_any_number_of_axes_may_stand_in_front():
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 6, 3), dtype=np.uint8)
    assert to_pixels(frames).shape == (2, 4, 3, 5, 6)
    np.testing.assert_array_equal(to_uint8(to_pixels(frames)), frames)


def test_read_only_and_mirrored_arrays_are_taken_without_a_warning():
    frames = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    frames.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mirrored = to_pixels(frames[:, :, ::-1])
    assert torch.equal(mirrored, to_pixels(frames).flip(-1))
