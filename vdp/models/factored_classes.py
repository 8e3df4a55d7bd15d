"""Factored mask classes: 14 logits per pixel (objectness, 3 shapes, 2 materials, 8 colours) for 49 classes.

The probability of a class is the product of the probabilities of its factors. Classes share factors, so the
head needs far fewer frames than 49 independent logits.
Shapes: B frames, H height, W width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from vdp.core.classes import COLORS, MATERIALS, NUM_CLASSES, SHAPES, factor_indices

SPLITS = (1, len(SHAPES), len(MATERIALS), len(COLORS))
NUM_LOGITS = sum(SPLITS)
DETECTION_WEIGHT = 4.9  # weight of objectness; tuned, as its mean is over all pixels, 95% of them background
# Average share of object pixels. A mean over each frame's object pixels would weight small objects as large
# ones, at a cost in accuracy; one over those of a batch would not be a mean over frames.
OBJECT_SHARE = 0.06
CROP_OBJECT_SHARE = 0.25  # the same of crops around objects
OBJECT_PIXELS = 6  # min pixels of an object whose mean logits are trained
LABEL_SMOOTHING = 0.02  # of objects and crops
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


def factor_loss(logits: Tensor, mask: Tensor, object_share: float = OBJECT_SHARE) -> Tensor:
    """Compute half cross-entropy, half Dice of each frame: (B, 14, H, W), ids (B, H, W) -> (B,) in fp32.

    The cross-entropy is that of `class_log_probs`, split into four factors; those of object pixels are
    divided by `object_share`, their average share of the pixels. Dice is soft, of the object map
    (Milletari et al. 2016, arXiv:1606.04797).
    """
    is_object, shape, material, color = logits.float().split(SPLITS, dim=1)
    truth = mask > 0
    detect = F.binary_cross_entropy_with_logits(is_object[:, 0], truth.float(), reduction="none")
    true_shape, true_material, true_color = factor_indices(mask.long())
    identity = (
        factor_cross_entropy(shape, true_shape, truth)
        + factor_cross_entropy(material, true_material, truth)
        + factor_cross_entropy(color, true_color, truth)
    ) / object_share
    probability = is_object[:, 0].sigmoid()
    overlap = (probability * truth).sum(dim=(1, 2))
    dice = 1 - (2 * overlap + 1) / (probability.sum(dim=(1, 2)) + truth.sum(dim=(1, 2)) + 1)
    return 0.5 * (DETECTION_WEIGHT * detect.mean(dim=(1, 2)) + identity) + 0.5 * dice


def class_dice(logits: Tensor, mask: Tensor) -> Tensor:
    """Compute the soft Dice loss of each class in a frame's mask, the mean over these classes and background.

    Args:
        logits: (B, 14, H, W).
        mask: class ids, (B, H, W).

    Returns:
        (B,) in fp32, 0 to 1.

    Source: Milletari et al. 2016 (arXiv:1606.04797), with squares left out.
    """
    probability = class_log_probs(logits).exp().flatten(2)
    truth = F.one_hot(mask.long().flatten(1), NUM_CLASSES).transpose(1, 2)  # (B, 49, H*W)
    overlap, size = (probability * truth).sum(dim=2), truth.sum(dim=2)
    dice = (2 * overlap + 1) / (probability.sum(dim=2) + size + 1)
    present = size > 0
    present[:, 0] = True
    return ((1 - dice) * present).sum(dim=1) / present.sum(dim=1)


def factor_cross_entropy(logits: Tensor, factor: Tensor, where: Tensor) -> Tensor:
    """Mean over all pixels of the cross-entropy at pixels `where`, (B, n, H, W), (B, H, W) -> (B,)."""
    labels = factor.where(where, IGNORE_INDEX)
    loss = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="none")
    return loss.mean(dim=(1, 2))


def object_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Compute the cross-entropy of the mean logits of each object, summed over the objects of a frame.

    Pixels of one class are one object; those of fewer than `OBJECT_PIXELS` are left out. The mean shows the
    shape, which single pixels confuse.

    Args:
        logits: (B, 14, H, W).
        mask: class ids, (B, H, W).

    Returns:
        (B,) in fp32; 0 without objects.
    """
    factors, ids = logits.float().flatten(2)[:, 1:], mask.long().flatten(1)
    batch, pixels = ids.shape
    sums = factors.new_zeros(batch, NUM_LOGITS - 1, NUM_CLASSES)
    sums = sums.scatter_add(2, ids[:, None].expand(-1, NUM_LOGITS - 1, -1), factors)
    counts = factors.new_zeros(batch, NUM_CLASSES).scatter_add(1, ids, factors.new_ones(batch, pixels))
    means = (sums / counts[:, None].clamp(min=1)).split(SPLITS[1:], dim=1)
    counted = counts >= OBJECT_PIXELS
    counted[:, 0] = False  # the background
    classes = torch.arange(NUM_CLASSES, device=mask.device).clamp(min=1).expand(batch, -1)
    losses = [
        F.cross_entropy(factor, true, reduction="none", label_smoothing=LABEL_SMOOTHING)
        for factor, true in zip(means, factor_indices(classes), strict=True)
    ]
    return (torch.stack(losses).sum(dim=0) * counted).sum(dim=1)
