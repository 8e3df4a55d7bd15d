import itertools
import math

import pytest
import torch
from torch import Tensor

from vdp.core.classes import COLORS, MATERIALS, NUM_CLASSES, SHAPES, class_id, factor_indices
from vdp.models.factored_classes import (
    LABEL_SMOOTHING,
    NUM_LOGITS,
    OBJECT_PIXELS,
    OBJECT_SHARE,
    SPLITS,
    class_dice,
    class_log_probs,
    factor_loss,
    object_loss,
)

CERTAIN = 30.0  # a logit with a probability of 1
FACTORS = [*itertools.product(range(len(SHAPES)), range(len(MATERIALS)), range(len(COLORS)))]


def logits_of(shape: int, material: int, color: int, logit: float = CERTAIN) -> Tensor:
    """Logits of one object pixel of the given factors, (1, 14, 1, 1)."""
    logits = torch.zeros(1, NUM_LOGITS, 1, 1)
    logits[0, 0] = logit
    logits[0, 1 + shape] = logit
    logits[0, 1 + len(SHAPES) + material] = logit
    logits[0, 1 + len(SHAPES) + len(MATERIALS) + color] = logit
    return logits


def random_logits(seed: int) -> Tensor:
    return 4 * torch.randn((2, NUM_LOGITS, 5, 7), generator=torch.Generator().manual_seed(seed))


def test_probabilities_sum_to_one():
    total = class_log_probs(random_logits(0)).exp().sum(dim=1)
    torch.testing.assert_close(total, torch.ones(2, 5, 7))


def test_classes_are_in_the_order_of_class_ids():
    for shape, material, color in FACTORS:
        probs = class_log_probs(logits_of(shape, material, color)).exp().flatten()
        assert probs.argmax() == class_id(shape, material, color)
        assert probs.max() > 0.999


def test_low_objectness_is_background_for_any_factors():
    logits = logits_of(2, 1, 7)
    logits[0, 0] = -CERTAIN
    assert class_log_probs(logits).exp()[0, 0].item() == pytest.approx(1)


def test_logits_of_zero_give_half_background_and_equal_objects():
    probs = class_log_probs(torch.zeros(1, NUM_LOGITS, 1, 1)).exp().flatten()
    torch.testing.assert_close(probs, torch.tensor([1 / 2] + [1 / 96] * 48))


def test_extreme_logits_stay_finite():
    logits = 1e4 * torch.sign(random_logits(3))
    assert class_log_probs(logits).isfinite().all()
    assert factor_loss(logits, torch.full((2, 5, 7), 5, dtype=torch.uint8)).isfinite().all()


@pytest.mark.parametrize("count", [13, 49])
def test_another_number_of_logits_is_rejected(count):
    with pytest.raises(ValueError, match=f"logits: expected 14 .*\\(1, {count}"):
        class_log_probs(torch.zeros(1, count, 2, 2))


def test_loss_of_logits_of_zero_is_known():
    """One object pixel of two."""
    mask = torch.tensor([[[0, 17]]], dtype=torch.uint8)
    detection = NUM_CLASSES / 10 * math.log(2)
    identity = (math.log(3) + math.log(2) + math.log(8)) / 2 / OBJECT_SHARE
    dice = 1 - (2 * 0.5 + 1) / ((0.5 + 0.5) + 1 + 1)
    loss = factor_loss(torch.zeros(1, NUM_LOGITS, 1, 2), mask)
    assert loss.item() == pytest.approx(0.5 * (detection + identity) + 0.5 * dice)


@pytest.mark.parametrize("truth", [1, 8, 9, 16, 17, 31, 48])
def test_the_true_class_has_the_min_loss_of_zero_and_the_loss_decreases_in_its_probability(truth):
    mask = torch.full((1, 1, 1), truth, dtype=torch.uint8)
    losses = {class_id(*factors): factor_loss(logits_of(*factors), mask).item() for factors in FACTORS}
    assert min(losses, key=lambda number: losses[number]) == truth
    assert losses[truth] == pytest.approx(0, abs=1e-5)
    (factors,) = (factors for factors in FACTORS if class_id(*factors) == truth)
    path = [factor_loss(logits_of(*factors, logit), mask).item() for logit in (0.0, 1.0, 2.0, 4.0, 8.0)]
    assert path == sorted(path, reverse=True)


def test_losses_of_frames_are_independent():
    logits, mask = random_logits(4), torch.zeros(2, 5, 7, dtype=torch.uint8)
    mask[1, 1:4, 2:6] = torch.arange(1, 13, dtype=torch.uint8).reshape(3, 4)
    losses = factor_loss(logits, mask)
    single = torch.cat([factor_loss(logits[i : i + 1], mask[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(losses, single)


def test_cross_entropy_is_that_of_the_classes():
    logits, mask = random_logits(5), torch.zeros(2, 5, 7, dtype=torch.uint8)
    mask[:, 1, 2:5] = torch.tensor([[3, 20, 48], [9, 9, 33]], dtype=torch.uint8)
    class_log_prob = class_log_probs(logits).gather(1, mask.long()[:, None])[:, 0]
    object_log_prob = torch.nn.functional.logsigmoid(logits[:, 0])
    objects = (mask > 0).float()
    identity = -((class_log_prob - object_log_prob) * objects).mean(dim=(1, 2)) / OBJECT_SHARE
    detection = -torch.where(mask > 0, object_log_prob, class_log_prob).mean(dim=(1, 2))
    probability = logits[:, 0].sigmoid()
    overlap = (probability * objects).sum(dim=(1, 2))
    dice = 1 - (2 * overlap + 1) / (probability.sum(dim=(1, 2)) + 3 + 1)
    expected = 0.5 * (NUM_CLASSES / 10 * detection + identity + dice)
    torch.testing.assert_close(factor_loss(logits, mask), expected)


def test_frames_without_objects_have_a_finite_gradient_on_objectness_only():
    logits = random_logits(1).requires_grad_()
    loss = factor_loss(logits, torch.zeros(2, 5, 7, dtype=torch.uint8)).mean()
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert not logits.grad[:, 1:].any()


def test_factors_of_background_pixels_have_no_effect_on_the_loss():
    logits = random_logits(2)
    mask = torch.zeros(2, 5, 7, dtype=torch.uint8)
    mask[0, 2, 3] = 20
    other = logits.clone()
    other[:, 1:, 0] += 5  # the first row is background
    assert torch.equal(factor_loss(other, mask), factor_loss(logits, mask))


# --- Loss of objects -------------------------------------------------------------------------------------


def object_mask(pixels: int, label: int) -> Tensor:
    """A mask of one object, (1, 4, 5)."""
    mask = torch.zeros(1, 4, 5, dtype=torch.uint8)
    mask.view(-1)[:pixels] = label
    return mask


def test_the_loss_of_an_object_is_that_of_its_mean_logits():
    """Pixels that disagree are right in the mean."""
    mask = object_mask(OBJECT_PIXELS, class_id(2, 1, 7))
    logits = torch.zeros(1, NUM_LOGITS, 4, 5)
    right, wrong = (logits_of(*factors, logit=3.0)[..., 0] for factors in ((2, 1, 7), (0, 0, 3)))
    logits.flatten(2)[:, :, :1] = 6 * right
    logits.flatten(2)[:, :, 1:OBJECT_PIXELS] = 0.2 * wrong
    mean = (6 * right + (OBJECT_PIXELS - 1) * 0.2 * wrong) / OBJECT_PIXELS
    shape, material, color = (part[0, :, 0] for part in mean[:, 1:].split((3, 2, 8), dim=1))
    expected = -sum(
        (1 - LABEL_SMOOTHING) * part.log_softmax(0)[index] + LABEL_SMOOTHING * part.log_softmax(0).mean()
        for part, index in ((shape, 2), (material, 1), (color, 7))
    )
    torch.testing.assert_close(object_loss(logits, mask), expected[None])


def test_the_loss_of_a_frame_is_the_sum_over_its_objects():
    both = object_mask(2 * OBJECT_PIXELS, 9)
    both.view(-1)[OBJECT_PIXELS : 2 * OBJECT_PIXELS] = 30
    logits = random_logits(1)[:1, :, :4, :5]
    each = [object_loss(logits, torch.where(both == label, both, 0)) for label in (9, 30)]
    torch.testing.assert_close(object_loss(logits, both), each[0] + each[1])


def test_small_objects_and_empty_masks_have_no_loss():
    logits = random_logits(1)[:1, :, :4, :5].requires_grad_()
    loss = object_loss(logits, object_mask(OBJECT_PIXELS - 1, 9))
    loss.sum().backward()
    assert loss.item() == 0 and not logits.grad.any()
    assert object_loss(logits, object_mask(0, 0)).item() == 0


def test_the_loss_of_objects_is_independent_of_their_objectness_and_background():
    logits, mask = random_logits(1)[:1, :, :4, :5], object_mask(OBJECT_PIXELS, 9)
    changed = torch.where(mask[:, None] > 0, logits, -logits)
    changed[:, 0] = 7.0
    torch.testing.assert_close(object_loss(changed, mask), object_loss(logits, mask))


def test_a_larger_object_share_weights_identity_less():
    mask = object_mask(OBJECT_PIXELS, 9)
    logits = random_logits(1)[:1, :, :4, :5]
    detection = factor_loss(logits, mask, 1e9)
    identity = [factor_loss(logits, mask, share) - detection for share in (0.1, 0.4)]
    torch.testing.assert_close(identity[0], 4 * identity[1])
    torch.testing.assert_close(factor_loss(logits, mask), factor_loss(logits, mask, OBJECT_SHARE))


def test_the_dice_of_classes_is_zero_for_the_truth_and_counts_each_class_equally():
    """Two classes of one and of many pixels: missing either costs the same."""
    mask = torch.zeros(1, 6, 6, dtype=torch.uint8)
    mask[0, :2] = 5
    mask[0, 4, 4] = 20

    def logits(shown: torch.Tensor) -> torch.Tensor:
        objects = torch.where(shown > 0, 40.0, -40.0)[:, None]
        factors = [
            40.0 * torch.nn.functional.one_hot(factor.clamp(min=0), size).movedim(-1, 1)
            for factor, size in zip(factor_indices(shown.long()), SPLITS[1:], strict=True)
        ]
        return torch.cat([objects, *factors], dim=1)

    assert class_dice(logits(mask), mask).item() == pytest.approx(0.0, abs=1e-5)
    without_large, without_small = (mask.where(mask != label, 0) for label in (5, 20))
    large, small = (class_dice(logits(shown), mask).item() for shown in (without_large, without_small))
    # Dice of the missing class is 1 / (size + 1); background grows by as many pixels
    background = 36 - 12 - 1
    for found, size in ((large, 12), (small, 1)):
        overlap = (2 * background + 1) / (2 * background + size + 1)
        assert found == pytest.approx((1 - 1 / (size + 1) + 1 - overlap) / 3, abs=1e-4)


def test_the_dice_of_a_frame_without_objects_is_that_of_the_background():
    mask = torch.zeros(2, 4, 4, dtype=torch.uint8)
    logits = torch.zeros(2, NUM_LOGITS, 4, 4)  # half of each pixel
    expected = 1 - (2 * 8 + 1) / (8 + 16 + 1)
    assert class_dice(logits, mask).tolist() == pytest.approx([expected] * 2)
