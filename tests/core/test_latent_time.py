import numpy as np
import pytest

from vdp.core.latent_time import EVERY_FRAME, LatentTime


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("known", [1, 2, 5, 11, 12])
def test_the_known_frames_end_a_group(factor, known):
    time = LatentTime(factor, known)
    assert 0 <= time.padding < factor
    assert time.position(known - 1) == factor * (time.count(known) - 1)
    assert time.latent_of(known) == time.latent_of(known - 1) + 1


@pytest.mark.parametrize("factor", [2, 4])
def test_each_latent_frame_codes_a_group_of_the_padded_frames(factor):
    time = LatentTime(factor, known=11)
    padded = [0] * time.padding + list(range(30))
    for latent in range(1, time.latent_of(29) + 1):
        for frame in padded[1 + factor * (latent - 1) : 1 + factor * latent]:
            if frame > 0:  # the padding repeats the first frame, whose own place is its last one
                assert time.latent_of(frame) == latent


def test_a_clip_of_the_competition_in_groups_of_four():
    """11 known frames are padded to 13; 12..15, 16..19 and 20..22 are the groups after them."""
    time = LatentTime(4, known=11)
    assert (time.padding, time.count(11), time.count(22)) == (2, 4, 7)
    assert time.hops([[13], [15], [17], [19], [21], [22]]) == [[5], [6], [7]]
    assert time.hops([[12, 13], [14, 22]]) == [[5], [7]]
    assert time.hops([list(range(12, 23))]) == [[5, 6, 7]]


def test_a_clip_is_padded_with_copies_of_its_first_frame():
    frames = np.arange(11, dtype=np.uint8)[:, None, None, None].repeat(3, axis=-1)
    assert LatentTime(4, known=11).pad(frames)[:, 0, 0, 0].tolist() == [0, 0, *range(11)]
    assert LatentTime(2, known=11).pad(frames) is frames


def test_without_groups_latent_frames_are_frames():
    hops = [[13], [15, 17], [22]]
    time = LatentTime(1, known=11)
    assert time.hops(hops) == hops and time.count(22) == 22 and time.padding == 0
    assert EVERY_FRAME.count(7) == 7
