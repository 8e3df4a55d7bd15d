import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from vdp.evaluation.bootstrap import RESAMPLES, Interval, draw_resamples, interval, resampled_jaccard
from vdp.evaluation.mask import confusion_matrix, jaccard, pixel_counts

CLIPS = 12


def resamples(clips: int, seed: int = 0) -> np.ndarray:
    return draw_resamples(clips, np.random.default_rng(seed))


def clips_of_few_classes(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Predictions right at about half of the pixels, and the truth; each clip has a class of its own."""
    rng = np.random.default_rng(seed)
    truth, other = (rng.integers(0, 3, (2, CLIPS, 10, 15)) * np.arange(1, CLIPS + 1)[:, None, None]).astype(
        np.uint8
    )
    return np.where(rng.random(truth.shape) < 0.5, truth, other), truth


def counts_of(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.stack([pixel_counts(confusion_matrix(p, t)) for p, t in zip(prediction, truth, strict=True)])


def test_a_resample_holds_as_many_clips_as_there_are_each_as_likely():
    times = resamples(CLIPS)
    assert times.shape == (RESAMPLES, CLIPS) and (times.sum(1) == CLIPS).all()
    np.testing.assert_allclose(times.mean(0), 1, atol=0.15)
    assert times.var() == pytest.approx(1 - 1 / CLIPS, abs=0.05), "the variance of a binomial count"
    np.testing.assert_array_equal(times, resamples(CLIPS))
    assert (times != resamples(CLIPS, seed=1)).any()


def test_a_resample_scores_as_scikit_learn_does_on_its_repeated_clips():
    """Every clip has classes that no other has, so most resamples lack some."""
    prediction, truth = clips_of_few_classes(0)
    times = resamples(CLIPS)[:20]
    scores = resampled_jaccard(counts_of(prediction, truth), times)
    for count, score in zip(times, scores, strict=True):
        rows = np.repeat(np.arange(CLIPS), count)
        known = jaccard_score(truth[rows].ravel(), prediction[rows].ravel(), average="macro")
        assert score == pytest.approx(known, abs=1e-6)
    assert len(np.unique(scores)) == 20


def test_all_clips_taken_once_score_as_the_set():
    prediction, truth = clips_of_few_classes(1)
    pooled = sum(confusion_matrix(p, t) for p, t in zip(prediction, truth, strict=True))
    scores = resampled_jaccard(counts_of(prediction, truth), np.ones((1, CLIPS), np.int64))
    assert scores.tolist() == pytest.approx([jaccard(pooled)], abs=1e-12)


@pytest.mark.parametrize("clips", [1, 8])
def test_equal_clips_have_an_interval_of_no_width_at_the_score(clips):
    prediction, truth = (np.repeat(masks[:1], clips, axis=0) for masks in clips_of_few_classes(2))
    found = interval(resampled_jaccard(counts_of(prediction, truth), resamples(clips)))
    assert found.low == found.high == pytest.approx(jaccard(confusion_matrix(prediction[0], truth[0])))


def test_an_interval_holds_the_central_95_percent():
    assert interval(np.random.default_rng(0).permutation(1001).astype(float)) == Interval(25, 975)


def test_the_spread_of_a_score_is_its_standard_error():
    """One pixel per clip, of class 1 or by mistake of class 2: the score is half the share of right clips."""
    clips = 2000
    right = np.random.default_rng(0).random(clips) < 0.8
    truth = np.ones((clips, 1, 1), np.uint8)
    counts = counts_of(np.where(right, 1, 2).astype(np.uint8)[:, None, None], truth)
    share = right.mean()
    error = np.sqrt(share * (1 - share) / clips) / 2
    found = interval(resampled_jaccard(counts, resamples(clips)))
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert (found.high + found.low) / 2 == pytest.approx(share / 2, abs=0.3 * error)
