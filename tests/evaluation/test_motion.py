"""Errors and calibration of sampled places."""

import numpy as np
import pytest

from vdp.evaluation.motion import place_errors, share_inside

RNG = np.random.default_rng(0)


def test_errors_of_known_places():
    truth = np.array([[0.0, 0.0], [1.0, 1.0]])
    samples = truth[:, None] + np.array([[3.0, 4.0], [3.0, 4.0], [0.0, 0.0]])
    errors = place_errors(samples, truth)
    assert (errors.median, errors.mean) == (5, 5)  # the median of each coordinate is 3 and 4
    assert errors.sample_mean == pytest.approx(10 / 3)
    assert (errors.sample_median, errors.best_mean) == (5, 0)


def test_samples_of_the_truth_s_own_distribution_are_calibrated():
    spread = RNG.uniform(0.1, 3, (4000, 1))
    truth = RNG.normal(0, spread, (4000, 2))
    samples = RNG.normal(0, spread[:, None], (4000, 200, 2))
    errors = place_errors(samples, truth)
    assert errors.inside_50 == pytest.approx(0.5, abs=0.02)
    assert errors.inside_90 == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize(("factor", "compare"), [(0.5, "under"), (2.0, "over")])
def test_a_wrong_spread_shows(factor, compare):
    truth = RNG.normal(0, 1, (4000, 2))
    inside = share_inside(factor * RNG.normal(0, 1, (4000, 200, 2)), truth, 0.5)
    assert inside < 0.4 if compare == "under" else inside > 0.6


def test_no_objects_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        place_errors(np.zeros((0, 4, 2)), np.zeros((0, 2)))


def test_a_few_samples_of_the_truth_s_own_distribution_are_calibrated():
    truth = RNG.normal(0, 1, (20000, 2))
    samples = RNG.normal(0, 1, (20000, 32, 2))
    assert share_inside(samples, truth, 0.5) == pytest.approx(0.5, abs=0.01)
    assert share_inside(samples, truth, 0.9) == pytest.approx(0.9, abs=0.01)
