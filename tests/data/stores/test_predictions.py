"""What is kept of the predictions of a test set."""

import numpy as np
import pytest

from vdp.data.stores.clips import Clip, write_clips
from vdp.data.stores.prediction_set import PredictionSet
from vdp.data.stores.predictions import kept_arrays, kept_hops, write_predictions

NAMES, HOPS, SAMPLES = ["a", "b", "c"], [3, 5, 6], 2
RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 256, (3, SAMPLES, 3, 8, 12, 3), dtype=np.uint8)
LATENTS = RNG.standard_normal((3, SAMPLES, 4, 2, 3)).astype(np.float16)


def predictions(folder, keep) -> PredictionSet:
    """Written in parts of two clips and one, and opened."""
    clips = [Clip(name, np.zeros((6, 8, 12, 3), np.uint8), None) for name in NAMES]
    write_clips(folder / "clips", clips, shard_mb=1)
    parts = [kept_arrays(FRAMES[rows], LATENTS[rows], keep) for rows in (slice(0, 2), slice(2, 3))]
    write_predictions(folder / "set", NAMES, kept_hops(HOPS, keep), SAMPLES, parts)
    return PredictionSet(folder / "clips", folder / "set")


def test_all_frames_of_all_samples_are_kept(tmp_path):
    found = predictions(tmp_path, "all")
    assert found.hops == HOPS and found.samples == SAMPLES
    for row in range(3):
        np.testing.assert_array_equal(np.stack(found.predicted(row), axis=1), FRAMES[row])


def test_the_first_sample_is_kept_of_the_earlier_hops(tmp_path):
    found = predictions(tmp_path, "hops")
    assert found.hops == HOPS and found.target == 6
    for row in range(3):
        *earlier, last = found.predicted(row)
        np.testing.assert_array_equal(np.stack(earlier, axis=1), FRAMES[row, :1, :2])
        np.testing.assert_array_equal(last, FRAMES[row, :, 2])


def test_the_last_frame_alone_is_kept(tmp_path):
    found = predictions(tmp_path, "last")
    assert found.hops == [6]
    for row in range(3):
        (last,) = found.predicted(row)
        np.testing.assert_array_equal(last, FRAMES[row, :, 2])


@pytest.mark.parametrize("keep", ["last", "hops"])
def test_fewer_frames_take_less_space(tmp_path, keep):
    def size(kept: str) -> int:
        predictions(tmp_path / kept, kept)
        return sum(path.stat().st_size for path in (tmp_path / kept / "set").glob("*.npy"))

    assert size(keep) < size("all")


def test_a_rollout_of_one_hop_has_no_earlier_ones():
    arrays = kept_arrays(FRAMES[:, :, :1], LATENTS, "hops")
    assert set(arrays) == {"frames", "latents"}
