"""Masks by factors: 14 logits a pixel (object or not, 3 shapes, 2 materials, 8 colours) stand for 49 classes.

A class is an object with a shape, a material and a colour, so its probability is the product of theirs. The
head learns from far fewer frames than 49 free logits: each object teaches three factors that other classes
share.
Shapes: B frames, H height, W width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from vdp.classes import COLORS, MATERIALS, SHAPES

SPLITS = (1, len(SHAPES), len(MATERIALS), len(COLORS))
NUM_LOGITS = sum(SPLITS)
# of finding objects beside naming them; by hand: its mean is over all pixels, 95% of them easy background
DETECTION_WEIGHT = 4.9


def class_log_probs(logits: Tensor) -> Tensor:
    """Log-probabilities of the 49 classes, (B, 14, H, W) -> (B, 49, H, W) in fp32; they sum to one.

    Raises:
        ValueError: if there are not 14 logits.
    """
    if logits.shape[1] != NUM_LOGITS:
        raise ValueError(f"logits: expected {NUM_LOGITS} factor logits on axis 1, got {tuple(logits.shape)}")
    is_object, shape, material, color = logits.float().split(SPLITS, dim=1)
    shape, material, color = (x.log_softmax(dim=1) for x in (shape, material, color))
    # the order of the axes is the order of class ids: 1 + 16 shape + 8 material + colour
    joint = shape[:, :, None, None] + material[:, None, :, None] + color[:, None, None, :]
    objects = F.logsigmoid(is_object) + joint.flatten(1, 3)
    return torch.cat([F.logsigmoid(-is_object), objects], dim=1)


def factor_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Half cross-entropy, half Dice, for factor logits (B, 14, H, W) against class ids (B, H, W); a scalar.

    Cross-entropy is that of `class_log_probs`, split into its four factors; the factors of an object are
    averaged over object pixels, so that they weigh as much as the background that covers 95% of a frame. Dice
    is that of the object map, soft and pooled over the batch (Milletari et al. 2016, arXiv:1606.04797).
    """
    is_object, shape, material, color = logits.float().split(SPLITS, dim=1)
    truth = mask > 0
    detect = F.binary_cross_entropy_with_logits(is_object[:, 0], truth.float())
    ids = mask[truth].long() - 1
    per_shape = len(MATERIALS) * len(COLORS)
    parts = (
        (shape, ids // per_shape),
        (material, ids % per_shape // len(COLORS)),
        (color, ids % len(COLORS)),
    )
    where = truth.nonzero(as_tuple=True)
    # a sum over a clamped count rather than a mean: a batch without objects must give zero, not NaN
    identity = sum(
        F.cross_entropy(part[where[0], :, where[1], where[2]], target, reduction="sum")
        for part, target in parts
    ) / max(len(ids), 1)
    probability = is_object[:, 0].sigmoid()
    overlap = (probability * truth).sum()
    dice = 1 - (2 * overlap + 1) / (probability.sum() + truth.sum() + 1)
    return 0.5 * (DETECTION_WEIGHT * detect + identity) + 0.5 * dice
