"""95 % bootstrap intervals of the pooled Jaccard index over clips (Efron 1979, percentile bootstrap).

A resample draws as many clips as there are, with replacement, and pools them as the score does. Two
candidates are compared on the same resamples (paired), as a hard clip lowers the scores of both.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vdp.evaluation.mask import PixelCounts, jaccard_of_counts

RESAMPLES = 1000
TAILS = (0.025, 0.975)  # quantiles at the ends of a 95 % interval


@dataclass(frozen=True)
class Interval:
    """Ends of a 95 % interval."""

    low: float
    high: float


def draw_resamples(clips: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw how often each resample contains each clip, (RESAMPLES, clips); every row adds up to `clips`."""
    times = np.zeros((RESAMPLES, clips), np.int64)
    np.add.at(times, (np.arange(RESAMPLES)[:, None], rng.integers(clips, size=times.shape)), 1)
    return times


def resampled_jaccard(counts: PixelCounts, resamples: NDArray[np.int64]) -> NDArray[np.float64]:
    """Compute the pooled Jaccard index of each resample; classes absent from a resample are left out.

    Args:
        counts: pixel counts of each clip, (clips, 3, classes); see `vdp.evaluation.mask.pixel_counts`.
        resamples: how often each resample contains each clip, (resamples, clips).

    Returns:
        (resamples,)
    """
    # As float64, in one BLAS product: sums of integers below 2^53 are exact in any order.
    pooled = np.tensordot(resamples.astype(np.float64), counts.astype(np.float64), axes=1)
    return np.asarray(np.nanmean(jaccard_of_counts(pooled), axis=1))


def interval(values: NDArray[np.float64]) -> Interval:
    """Return the central 95 % of the values of all resamples."""
    low, high = np.quantile(values, TAILS)
    return Interval(float(low), float(high))
