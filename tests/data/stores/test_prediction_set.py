"""Sampled motions of a test set in pixels of its frames."""

import numpy as np
import pytest

from vdp.core.objects import FEATURES, SEEN, X, Y
from vdp.data.stores.prediction_set import MotionSet
from vdp.data.stores.tracks import Tracks, write_tracks

HEIGHT, WIDTH = 32, 48
SAMPLES, HOPS = 2, 3


def place(column: float, row: float) -> list[float]:
    """Coordinates of a pixel in frame heights from the frame's centre."""
    return [(column - (WIDTH - 1) / 2) / HEIGHT, (row - (HEIGHT - 1) / 2) / HEIGHT]


@pytest.fixture
def motion(tmp_path) -> MotionSet:
    """An object seen in frames 0 and 2, one never seen, one seen once, one absent; a clip with none seen."""
    states = np.zeros((3, 3, len(FEATURES)), np.float32)
    for number, frame, pixel in ((0, 0, (4, 5)), (0, 2, (6, 9)), (2, 1, (40, 0))):
        states[number, frame, [X, Y, SEEN]] = [*place(*pixel), 1]
    tracks = [
        Tracks("a", states, np.array([7, 8, 9], np.uint8)),
        Tracks("b", np.zeros((4, 3, len(FEATURES)), np.float32), np.array([1, 2, 3, 4], np.uint8)),
    ]
    write_tracks(tmp_path / "tracks", tracks, 3)
    places = np.zeros((2, SAMPLES, 4, HOPS, 3), np.float32)
    for sample in range(SAMPLES):
        for hop in range(HOPS):
            places[0, sample, 0, hop, :2] = place(10 + hop, 20 + sample)
            places[0, sample, 2, hop, :2] = place(30, 1 + hop)
    (tmp_path / "motion").mkdir()
    np.save(tmp_path / "motion/places.npy", places)
    np.save(tmp_path / "motion/composed.npy", np.zeros((2, HOPS, HEIGHT, WIDTH, 3), np.uint8))
    return MotionSet(tmp_path / "motion", tmp_path / "tracks")


def test_paths_are_in_pixels_of_the_frames(motion):
    (label, known, samples), (_, once, _) = motion.paths(0)
    assert label == 7
    np.testing.assert_allclose(known, [[4, 5], [6, 9]], atol=1e-4)  # frame 1, hidden, is left out
    assert samples.shape == (SAMPLES, HOPS, 2)
    np.testing.assert_allclose(samples[1], [[10, 21], [11, 21], [12, 21]], atol=1e-4)
    np.testing.assert_allclose(once, [[40, 0]], atol=1e-4)


def test_only_objects_that_are_seen_in_the_context_have_paths(motion):
    assert [label for label, _, _ in motion.paths(0)] == [7, 9]
    assert motion.paths(1) == []
