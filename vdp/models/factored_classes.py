"""Factored mask classes: 14 logits per pixel (objectness, 3 shapes, 2 materials, 8 colours) for 49 classes.

The probability of a class is the product of the probabilities of its factors. Classes share factors, so the
head needs far fewer frames than 49 independent logits.
Shapes: B frames, H height, W width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from vdp.core.classes import COLORS, MATERIALS, SHAPES, factor_indices

SPLITS = (1, len(SHAPES), len(MATERIALS), len(COLORS))
NUM_LOGITS = sum(SPLITS)
DETECTION_WEIGHT = 4.9  # weight of objectness; tuned, as its mean is over all pixels, 95% of them background
# Average share of object pixels. A mean over each frame's object pixels would weight small objects as large
# ones, at a cost in accuracy; one over those of a batch would not be a mean over frames.
OBJECT_SHARE = 0.06
IGNORE_INDEX = -1  # factor of background pixels


def class_log_probs(logits: Tensor) -> Tensor:
    """Compute log-probabilities of the 49 classes, (B, 14, H, W) -> (B, 49, H, W) in fp32."""
    if logits.shape[1] != NUM_LOGITS:
        raise ValueError(f"logits: expected {NUM_LOGITS} factor logits on axis 1, got {tuple(logits.shape)}")
    is_object, shape, material, color = logits.float().split(SPLITS, dim=1)
    objects = F.logsigmoid(is_object) + object_log_probs(shape, material, color)
    return torch.cat([F.logsigmoid(-is_object), objects], dim=1)


def object_log_probs(shape: Tensor, material: Tensor, color: Tensor) -> Tensor:
    """Compute log-probabilities of the 48 object classes from factor logits, (B, n, ...) -> (B, 48, ...)."""
    shape, material, color = (x.log_softmax(dim=1) for x in (shape, material, color))
    # the order of the axes is the order of class ids: 1 + 16 shape + 8 material + colour
    joint = shape[:, :, None, None] + material[:, None, :, None] + color[:, None, None, :]
    return joint.flatten(1, 3)


def factor_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Compute half cross-entropy, half Dice of each frame: (B, 14, H, W), ids (B, H, W) -> (B,) in fp32.

    The cross-entropy is that of `class_log_probs`, split into four factors; those of object pixels are
    divided by `OBJECT_SHARE`. Dice is soft, of the object map (Milletari et al. 2016, arXiv:1606.04797).
    """
    is_object, shape, material, color = logits.float().split(SPLITS, dim=1)
    truth = mask > 0
    detect = F.binary_cross_entropy_with_logits(is_object[:, 0], truth.float(), reduction="none")
    true_shape, true_material, true_color = factor_indices(mask.long())
    identity = (
        factor_cross_entropy(shape, true_shape, truth)
        + factor_cross_entropy(material, true_material, truth)
        + factor_cross_entropy(color, true_color, truth)
    )
    probability = is_object[:, 0].sigmoid()
    overlap = (probability * truth).sum(dim=(1, 2))
    dice = 1 - (2 * overlap + 1) / (probability.sum(dim=(1, 2)) + truth.sum(dim=(1, 2)) + 1)
    return 0.5 * (DETECTION_WEIGHT * detect.mean(dim=(1, 2)) + identity) + 0.5 * dice


def factor_cross_entropy(logits: Tensor, factor: Tensor, where: Tensor) -> Tensor:
    """Compute the cross-entropy of a factor on pixels `where`, (B, n, H, W), (B, H, W) -> (B,)."""
    labels = factor.where(where, IGNORE_INDEX)
    loss = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="none")
    return loss.mean(dim=(1, 2)) / OBJECT_SHARE
