"""Jaccard index of class masks, from confusion matrices: pure functions.

The headline number is that of torchmetrics >= 1.0, `MulticlassJaccardIndex(num_classes=49)`: ONE confusion
matrix pooled over all clips, the mean over classes, background counted, classes absent from both prediction
and truth left out. A mean over clips or batches is another number and has another name here.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vdp.core.classes import NUM_CLASSES, class_name

Mask = NDArray[np.uint8]
Confusion = NDArray[np.int64]  # (classes, classes) pixels: row is the true class, column the predicted one


@dataclass(frozen=True)
class ClassScore:
    """One row of the per-class table; `jaccard` is NaN where neither mask has the class."""

    class_id: int
    name: str
    jaccard: float
    pixels: int  # of the truth


def confusion_matrix(prediction: Mask, truth: Mask, classes: int = NUM_CLASSES) -> Confusion:
    """Pixels of each true class (row) by predicted class (column); matrices of several clips add up.

    Args:
        prediction: class ids, any shape.
        truth: class ids, the shape of `prediction`.
        classes: number of classes.

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
    intersection = np.diag(confusion).astype(np.float64)
    union = confusion.sum(0) + confusion.sum(1) - intersection
    return np.divide(intersection, union, out=np.full(len(confusion), np.nan), where=union > 0)


def jaccard(confusion: Confusion) -> float:
    """Mean over the classes whose union is not empty, background counted.

    Raises:
        ValueError: if the matrix is empty.
    """
    if not confusion.any():
        raise ValueError(
            "confusion matrix: expected at least one pixel, got none; are there no clips to score?"
        )
    return float(np.nanmean(class_jaccard(confusion)))


def jaccard_foreground(confusion: Confusion) -> float:
    """As `jaccard` without class 0; 1 if neither mask has an object."""
    scores = class_jaccard(confusion)[1:]
    return float(np.nanmean(scores)) if np.isfinite(scores).any() else 1.0


def per_class_table(confusion: Confusion) -> list[ClassScore]:
    """A row for each class, in the order of ids."""
    scores, pixels = class_jaccard(confusion), confusion.sum(1)
    return [ClassScore(c, class_name(c), float(scores[c]), int(pixels[c])) for c in range(len(confusion))]


def only_seen_classes(truth: Mask, known: Mask) -> Mask:
    """The true mask without the objects that no known frame shows: the best that any prediction can know.

    Args:
        truth: class ids of the target frame, (H, W).
        known: true class ids of the known frames, (K, H, W).
    """
    return np.where(np.isin(truth, np.unique(known)), truth, np.uint8(0)).astype(np.uint8)
