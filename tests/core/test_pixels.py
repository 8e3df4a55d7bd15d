import warnings

import numpy as np
import pytest
import torch

from vdp.core.pixels import to_pixels, to_uint8


@pytest.mark.parametrize("shape", [(16, 16, 3), (2, 8, 16, 3), (2, 4, 4, 8, 3)])
def test_every_byte_survives_the_round_trip_at_any_number_of_axes(shape):
    frames = np.arange(256, dtype=np.uint8).repeat(3).reshape(shape)
    assert to_pixels(frames).shape == (*shape[:-3], 3, *shape[-3:-1])
    np.testing.assert_array_equal(to_uint8(to_pixels(frames)), frames)


def test_pixels_are_in_minus_one_to_one_with_channels_first():
    pixels = to_pixels(np.array([[[0, 255, 51]]], np.uint8))
    assert pixels.shape == (3, 1, 1)
    torch.testing.assert_close(pixels.flatten(), torch.tensor([-1.0, 1.0, -0.6]))


def test_values_out_of_range_are_clamped():
    pixels = torch.tensor([-3.0, 1.2, 0.0]).reshape(3, 1, 1)
    assert to_uint8(pixels).flatten().tolist() == [0, 255, 128]


def test_read_only_and_flipped_arrays_are_converted_without_a_warning():
    frames = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    frames.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flipped = to_pixels(frames[:, :, ::-1])
    assert torch.equal(flipped, to_pixels(frames).flip(-1))
