import math

import pytest
import torch
from torch import Tensor

from vdp.core.classes import COLORS, MATERIALS, NUM_CLASSES, SHAPES, class_id
from vdp.models.factored_classes import NUM_LOGITS, OBJECT_SHARE, class_log_probs, factor_loss

SURE = 30.0  # a logit of no doubt


def logits_of(shape: int, material: int, color: int, sure: float = SURE) -> Tensor:
    """Logits of one pixel that is an object of the given factors, (1, 14, 1, 1)."""
    logits = torch.zeros(1, NUM_LOGITS, 1, 1)
    logits[0, 0] = sure
    logits[0, 1 + shape] = sure
    logits[0, 1 + len(SHAPES) + material] = sure
    logits[0, 1 + len(SHAPES) + len(MATERIALS) + color] = sure
    return logits


def random_logits(seed: int, height: int = 5, width: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 4 * torch.randn((2, NUM_LOGITS, height, width), generator=generator)


def test_the_probabilities_of_the_49_classes_sum_to_one_at_each_pixel():
    total = class_log_probs(random_logits(0)).exp().sum(dim=1)
    torch.testing.assert_close(total, torch.ones(2, 5, 7))


def test_the_order_of_the_classes_is_that_of_class_ids():
    for shape in range(len(SHAPES)):
        for material in range(len(MATERIALS)):
            for color in range(len(COLORS)):
                probs = class_log_probs(logits_of(shape, material, color)).exp().flatten()
                assert probs.argmax() == class_id(shape, material, color)
                assert probs.max() > 0.999


def test_a_pixel_that_is_no_object_is_background_whatever_its_factors():
    logits = logits_of(2, 1, 7)
    logits[0, 0] = -SURE
    assert class_log_probs(logits).exp()[0, 0].item() == pytest.approx(1)


def test_logits_of_zero_share_the_objects_half_among_48_classes():
    probs = class_log_probs(torch.zeros(1, NUM_LOGITS, 1, 1)).exp().flatten()
    torch.testing.assert_close(probs, torch.tensor([1 / 2] + [1 / 96] * 48))


def test_extreme_logits_stay_finite():
    logits = 1e4 * torch.sign(random_logits(3))
    assert class_log_probs(logits).isfinite().all()
    mask = torch.full((2, 5, 7), 5, dtype=torch.uint8)
    assert factor_loss(logits, mask).isfinite().all()


@pytest.mark.parametrize("count", [13, 49])
def test_another_number_of_logits_is_refused(count):
    with pytest.raises(ValueError, match=f"expected 14 factor logits on axis 1, got \\(1, {count}"):
        class_log_probs(torch.zeros(1, count, 2, 2))


def test_the_loss_of_logits_of_zero_is_worked_by_hand():
    """One object pixel of two: every factor is a fair guess, and half of each pixel is called an object."""
    mask = torch.tensor([[[0, 17]]], dtype=torch.uint8)
    detect = NUM_CLASSES / 10 * math.log(2)
    identity = (math.log(3) + math.log(2) + math.log(8)) / 2 / OBJECT_SHARE
    dice = 1 - (2 * 0.5 + 1) / ((0.5 + 0.5) + 1 + 1)
    loss = factor_loss(torch.zeros(1, NUM_LOGITS, 1, 2), mask)
    assert loss.item() == pytest.approx(0.5 * (detect + identity) + 0.5 * dice)


@pytest.mark.parametrize("truth", [1, 8, 9, 16, 17, 31, 48])
def test_of_all_sure_answers_the_right_class_has_the_least_loss_and_it_is_zero(truth):
    mask = torch.full((1, 1, 1), truth, dtype=torch.uint8)
    losses = {
        class_id(s, m, c): factor_loss(logits_of(s, m, c), mask).item()
        for s in range(len(SHAPES))
        for m in range(len(MATERIALS))
        for c in range(len(COLORS))
    }
    assert min(losses, key=lambda number: losses[number]) == truth
    assert losses[truth] == pytest.approx(0, abs=1e-5)


def test_the_loss_falls_as_the_right_class_grows_likelier():
    mask = torch.full((1, 1, 1), class_id(1, 0, 6), dtype=torch.uint8)
    losses = [factor_loss(logits_of(1, 0, 6, sure), mask).item() for sure in (0.0, 1.0, 2.0, 4.0, 8.0)]
    assert losses == sorted(losses, reverse=True)


def test_every_frame_has_the_loss_that_it_has_alone():
    """Also where one of them has no object, or most of them are in another."""
    logits, mask = random_logits(4), torch.zeros(2, 5, 7, dtype=torch.uint8)
    mask[1, 1:4, 2:6] = torch.arange(1, 13, dtype=torch.uint8).reshape(3, 4)
    losses = factor_loss(logits, mask)
    assert losses.shape == (2,)
    for frame in range(2):
        alone = factor_loss(logits[frame : frame + 1], mask[frame : frame + 1])
        torch.testing.assert_close(losses[frame : frame + 1], alone)


def test_the_cross_entropy_of_a_frame_is_that_of_its_classes():
    """With objects weighed up by their share of an average frame, and beside it the part of Dice."""
    logits, mask = random_logits(5), torch.zeros(2, 5, 7, dtype=torch.uint8)
    mask[:, 1, 2:5] = torch.tensor([[3, 20, 48], [9, 9, 33]], dtype=torch.uint8)
    named = class_log_probs(logits).gather(1, mask.long()[:, None])[:, 0]
    detected = torch.nn.functional.logsigmoid(logits[:, 0])
    objects = (mask > 0).float()
    identity = -((named - detected) * objects).mean(dim=(1, 2)) / OBJECT_SHARE
    detect = -torch.where(mask > 0, detected, named).mean(dim=(1, 2))
    found = logits[:, 0].sigmoid()
    dice = 1 - (2 * (found * objects).sum(dim=(1, 2)) + 1) / (found.sum(dim=(1, 2)) + 3 + 1)
    expected = 0.5 * (NUM_CLASSES / 10 * detect + identity + dice)
    torch.testing.assert_close(factor_loss(logits, mask), expected)


def test_frames_without_objects_have_a_finite_loss_and_gradient():
    logits = random_logits(1).requires_grad_()
    loss = factor_loss(logits, torch.zeros(2, 5, 7, dtype=torch.uint8)).mean()
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert not logits.grad[:, 1:].any()  # what is no object has no factors to learn


def test_factors_are_not_learnt_from_the_background():
    logits = random_logits(2)
    mask = torch.zeros(2, 5, 7, dtype=torch.uint8)
    mask[0, 2, 3] = 20
    other = logits.clone()
    other[:, 1:, 0] += 5  # the first row is background
    assert torch.equal(factor_loss(other, mask), factor_loss(logits, mask))
