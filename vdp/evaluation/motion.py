"""Errors and calibration of sampled places of objects.

Shapes: N objects (of all clips), R samples. Places are x and y; distances are in their unit.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.floating]


@dataclass(frozen=True)
class PlaceErrors:
    """Distances from the true places, and how often these lie inside the samples' central regions."""

    median: float  # of the distance of the samples' median
    mean: float
    sample_median: float  # of the distance of a single sample
    sample_mean: float
    best_mean: float  # of the distance of the nearest sample
    inside_50: float  # share of true coordinates in the central half of the samples
    inside_90: float  # in the central nine tenths


def place_errors(samples: Places, truth: Places) -> PlaceErrors:
    """Compare sampled places (N, R, 2) with the true ones (N, 2).

    Raises:
        ValueError: if there are no objects.
    """
    if not len(truth):
        raise ValueError("places: expected at least one object, got none")
    distances = np.linalg.norm(samples - truth[:, None], axis=2)
    of_median = np.linalg.norm(np.median(samples, axis=1) - truth, axis=1)
    return PlaceErrors(
        median=float(np.median(of_median)),
        mean=float(of_median.mean()),
        sample_median=float(np.median(distances)),
        sample_mean=float(distances.mean()),
        best_mean=float(distances.min(axis=1).mean()),
        inside_50=share_inside(samples, truth, 0.5),
        inside_90=share_inside(samples, truth, 0.9),
    )


def share_inside(samples: Places, truth: Places, share: float) -> float:
    """Share of true coordinates inside the central region of the samples, (N, R, 2) and (N, 2).

    The region of R samples (Weibull's quantiles) holds one more sample with the probability `share`; where R
    is too small for it, it lies between the least and the greatest.
    """
    edges = [(1 - share) / 2, (1 + share) / 2]
    low, high = np.quantile(samples, edges, axis=1, method="weibull")
    return float(((truth >= low) & (truth <= high)).mean())
