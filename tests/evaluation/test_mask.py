import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from vdp.evaluation.mask import (
    class_jaccard,
    confusion_matrix,
    foreground_share,
    jaccard,
    jaccard_foreground,
    only_seen_classes,
)

TRUTH = np.array([[0, 0, 0, 1], [0, 1, 1, 1]], np.uint8)
PREDICTION = np.array([[0, 0, 1, 1], [0, 1, 2, 2]], np.uint8)


def random_masks(seed: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """A prediction that is right at about half of the pixels, and the truth."""
    rng = np.random.default_rng(seed)
    truth, other = rng.integers(0, classes, (2, 5, 20, 30), dtype=np.uint8)
    return np.where(rng.random(truth.shape) < 0.5, truth, other), truth


@pytest.mark.parametrize("classes", [3, 49])  # of 49 classes, 46 are absent
def test_scores_of_three_classes_are_as_worked_out(classes):
    """Background: 3 of 4 pixels of the union; class 1: 2 of 5; class 2, never true: 0 of 2."""
    confusion = confusion_matrix(PREDICTION, TRUTH, classes=classes)
    np.testing.assert_allclose(class_jaccard(confusion)[:3], [3 / 4, 2 / 5, 0])
    assert np.isnan(class_jaccard(confusion)[3:]).all()
    assert jaccard(confusion) == pytest.approx((3 / 4 + 2 / 5 + 0) / 3)
    assert jaccard_foreground(confusion) == pytest.approx((2 / 5 + 0) / 2)


@pytest.mark.parametrize("classes", [3, 20, 49])
def test_pooled_jaccard_equals_that_of_scikit_learn(classes):
    prediction, truth = random_masks(classes, classes)
    pooled = sum(confusion_matrix(p, t) for p, t in zip(prediction, truth, strict=True))
    assert jaccard(pooled) == pytest.approx(jaccard_score(truth.ravel(), prediction.ravel(), average="macro"))


@pytest.mark.parametrize("truth", [random_masks(1, 49)[1], np.zeros((4, 4), np.uint8)])
def test_a_perfect_prediction_scores_one_also_without_objects(truth):
    confusion = confusion_matrix(truth, truth)
    assert jaccard(confusion) == jaccard_foreground(confusion) == 1


def test_permuting_the_classes_changes_nothing():
    prediction, truth = random_masks(2, 49)
    names = np.random.default_rng(3).permutation(49).astype(np.uint8)
    before = jaccard(confusion_matrix(prediction, truth))
    assert jaccard(confusion_matrix(names[prediction], names[truth])) == pytest.approx(before)


def test_the_ceiling_leaves_out_classes_absent_from_the_context():
    context = np.array([[[0, 0], [1, 0]], [[0, 0], [0, 2]]], np.uint8)
    truth = np.array([[1, 3], [2, 0]], np.uint8)
    assert only_seen_classes(truth, context).tolist() == [[1, 0], [2, 0]]


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (np.zeros((2, 3), np.uint8), r"prediction: .*\(2, 4\), got \(2, 3\)"),
        (np.full((2, 4), 49, np.uint8), r"class ids: expected 0..48, got 49"),
    ],
)
def test_invalid_masks_are_rejected(prediction, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(prediction, TRUTH)


def test_an_empty_confusion_matrix_is_rejected():
    with pytest.raises(ValueError, match="at least one pixel"):
        jaccard(np.zeros((49, 49), np.int64))


def test_the_foreground_share_counts_pixels_of_any_object():
    empty = np.zeros_like(TRUTH)
    assert foreground_share(confusion_matrix(PREDICTION, TRUTH)) == 5 / 4
    assert foreground_share(confusion_matrix(TRUTH, PREDICTION)) == 4 / 5
    assert foreground_share(confusion_matrix(empty, TRUTH)) == 0
    assert foreground_share(confusion_matrix(empty, empty)) == 1
    assert foreground_share(confusion_matrix(TRUTH, empty)) == 4
