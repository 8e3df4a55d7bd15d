"""Masks by factors: 14 logits a pixel (object or not, 3 shapes, 2 materials, 8 colours) stand for 49 classes.

A class is an object with a shape, a material and a colour, so its probability is the product of theirs. The
head learns from far fewer frames than 49 free logits: each object teaches three factors that other classes
share.
Shapes: B frames, H height, W width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from vdp.core.classes import COLORS, MATERIALS, SHAPES

SPLITS = (1, len(SHAPES), len(MATERIALS), len(COLORS))
NUM_LOGITS = sum(SPLITS)
# of finding objects beside naming them; by hand: its mean is over all pixels, 95% of them easy background
DETECTION_WEIGHT = 4.9
# Of a frame's pixels, about. A mean over each frame's own object pixels would let small objects weigh
# as much as large ones, at a cost in accuracy; one over those of a batch would be no mean over its frames.
OBJECT_SHARE = 0.06
NOWHERE = -1  # in the place of a factor where there is no object


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
    """Half cross-entropy, half Dice, of each frame: logits (B, 14, H, W), ids (B, H, W) -> (B,) in fp32.

    Cross-entropy is that of `class_log_probs`, split into its four factors; those of objects are divided by
    the share of pixels that are one (`OBJECT_SHARE`), so that they weigh as much as the background does. Dice
    is that of the frame's object map, soft (Milletari et al. 2016, arXiv:1606.04797).
    """
    is_object, shape, material, color = logits.float().split(SPLITS, dim=1)
    truth = mask > 0
    detect = F.binary_cross_entropy_with_logits(is_object[:, 0], truth.float(), reduction="none")
    ids = mask.long() - 1
    per_shape = len(MATERIALS) * len(COLORS)
    identity = (
        named_loss(shape, ids // per_shape, truth)
        + named_loss(material, ids % per_shape // len(COLORS), truth)
        + named_loss(color, ids % len(COLORS), truth)
    )
    probability = is_object[:, 0].sigmoid()
    overlap = (probability * truth).sum(dim=(1, 2))
    dice = 1 - (2 * overlap + 1) / (probability.sum(dim=(1, 2)) + truth.sum(dim=(1, 2)) + 1)
    return 0.5 * (DETECTION_WEIGHT * detect.mean(dim=(1, 2)) + identity) + 0.5 * dice


def named_loss(logits: Tensor, factor: Tensor, where: Tensor) -> Tensor:
    """Cross-entropy of a factor, (B, n, H, W) against (B, H, W), in units of an average frame's: (B,)."""
    named = factor.where(where, NOWHERE)
    loss = F.cross_entropy(logits, named, ignore_index=NOWHERE, reduction="none")
    return loss.mean(dim=(1, 2)) / OBJECT_SHARE
