"""Jaccard index of class masks, computed from confusion matrices.

The headline number equals `MulticlassJaccardIndex(num_classes=49)` of torchmetrics >= 1.0: one confusion
matrix pooled over all clips, macro average, background counted, classes absent from both prediction and truth
left out.
"""

import numpy as np
from numpy.typing import NDArray

from vdp.core.classes import NUM_CLASSES

Mask = NDArray[np.uint8]
Confusion = NDArray[np.int64]  # (classes, classes) pixel counts; rows: true class, columns: predicted class
PixelCounts = NDArray[np.int64]  # (..., 3, classes): pixels of intersection, prediction and truth


def confusion_matrix(prediction: Mask, truth: Mask, classes: int = NUM_CLASSES) -> Confusion:
    """Count pixels by true class (row) and predicted class (column). Matrices of several clips add up.

    Raises:
        ValueError: if the shapes differ or an id is not below `classes`.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction: expected the shape of truth, {truth.shape}, got {prediction.shape}")
    highest = max(prediction.max(initial=0), truth.max(initial=0))
    if highest >= classes:
        raise ValueError(f"class ids: expected 0..{classes - 1}, got {highest}")
    pairs = truth.astype(np.int64).ravel() * classes + prediction.ravel()
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def class_jaccard(confusion: Confusion) -> NDArray[np.float64]:
    """Intersection over union of each class, (classes,); NaN where the union is empty."""
    return jaccard_of_counts(pixel_counts(confusion))


def pixel_counts(confusion: Confusion) -> PixelCounts:
    """Reduce a confusion matrix to the pixels of intersection, prediction and truth, (3, classes)."""
    return np.stack([confusion.diagonal(), confusion.sum(0), confusion.sum(1)])


def jaccard_of_counts(counts: PixelCounts | NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union, (..., 3, classes) -> (..., classes); NaN where the union is empty."""
    intersection, predicted, true = np.moveaxis(counts, -2, 0)
    union = predicted + true - intersection
    return np.divide(intersection, union, out=np.full(union.shape, np.nan), where=union > 0)


def jaccard(confusion: Confusion) -> float:
    """Mean over the classes with a non-empty union, background counted.

    Raises:
        ValueError: if the matrix is empty.
    """
    if not confusion.any():
        raise ValueError("confusion matrix: expected at least one pixel, got none; are there clips to score?")
    return float(np.nanmean(class_jaccard(confusion)))


def jaccard_foreground(confusion: Confusion) -> float:
    """`jaccard` without class 0; 1 if neither mask has an object."""
    scores = class_jaccard(confusion)[1:]
    return float(np.nanmean(scores)) if np.isfinite(scores).any() else 1.0


def foreground_share(confusion: Confusion) -> float:
    """Foreground pixels of the prediction / of the truth (at least 1); 1 if neither has any."""
    predicted, true = int(confusion[:, 1:].sum()), int(confusion[1:].sum())
    return predicted / max(true, 1) if predicted or true else 1.0


def only_seen_classes(truth: Mask, context: Mask) -> Mask:
    """Return the true mask (H, W) without classes absent from the context masks (K, H, W): an upper bound."""
    return np.where(np.isin(truth, np.unique(context)), truth, np.uint8(0)).astype(np.uint8)
