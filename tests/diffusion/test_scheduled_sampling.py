"""Known frames that the network makes itself in training."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor, nn

from tests.oracle import Oracle, moving_clips
from tests.processes import EVERY_PAIR, objective_of
from vdp.core.context_frames import Hops
from vdp.core.rng import BatchRng
from vdp.diffusion.scheduled_sampling import ScheduledSampling, replace_newest_frames

SCALE = torch.tensor([0.5, 2.0])
TRUTH = moving_clips(batch=3, channels=2, height=4, width=5)
TIMES = [8.0, 6.0, 4.0, 3.0]  # nearest to the target first


def make_hops(known: int = 4) -> Hops:
    index, target_index = torch.tensor([TIMES[:known]]).expand(3, -1), torch.full((3, 1), 10.0)
    return Hops(TRUTH(index), index, TRUTH(target_index), target_index)


@dataclass(frozen=True)
class Dice(BatchRng):
    """BatchRng that remembers for what noise it was asked; the number that all hops share is given."""

    given: float
    asked: list[tuple[int, ...]] = field(default_factory=list)

    def shared(self) -> float:
        return self.given

    def normal(self, *shape: int) -> Tensor:
        self.asked.append(shape)
        return super().normal(*shape)


def dice_of(shared: float, seed: int = 0) -> Dice:
    return Dice(torch.Generator().manual_seed(seed), range(3), 3, shared)


def own_of(frames: int, steps: int = 3, temperature: float = 1.0) -> ScheduledSampling:
    return ScheduledSampling(share=1.0, frames=frames, steps=steps, temperature=temperature)


@pytest.mark.parametrize(
    ("schedule", "prediction"), [pair for pair in EVERY_PAIR if pair[1] != "eps"]
)  # eps tells nothing at pure noise, and params.yaml refuses it here
@pytest.mark.parametrize("residual", [True, False])
def test_a_network_that_knows_the_truth_makes_the_true_frames(schedule, prediction, residual):
    objective, hops, dice = objective_of(schedule, prediction, SCALE, residual), make_hops(), dice_of(0.99)
    made = replace_newest_frames(Oracle(TRUTH, objective), hops, objective, own_of(3), dice)
    torch.testing.assert_close(made.known, hops.known, atol=1e-3, rtol=0)
    assert dice.asked == 3 * [(3, 2, 1, 4, 5)]


def test_newer_frames_are_made_from_those_made_before():
    objective, dice = objective_of("flow", "flow", SCALE, True), dice_of(0.99)
    oracle = Oracle(TRUTH, objective)
    replace_newest_frames(oracle, make_hops(), objective, own_of(3), dice)
    assert oracle.shown == [[3], [4, 3], [6, 4, 3]]
    assert oracle.calls == 3 * 3  # three steps for each of them
    wrong = Oracle(lambda index: TRUTH(index) + 1, objective)
    made = replace_newest_frames(wrong, make_hops(), objective, own_of(3), dice)
    torch.testing.assert_close(made.known[:, :, :3], make_hops().known[:, :, :3] + 1)
    assert torch.equal(made.known[:, :, 3], make_hops().known[:, :, 3])  # there is nothing to make it from


@pytest.mark.parametrize(("batch_rng", "made"), [(0.0, 1), (0.34, 2), (0.67, 3), (0.99, 3)])
def test_one_frame_up_to_the_most_is_made(batch_rng, made):
    objective, dice, hops = objective_of("flow", "flow", SCALE, True), dice_of(batch_rng), make_hops()
    wrong = Oracle(lambda index: TRUTH(index) + 1, objective)
    again = replace_newest_frames(wrong, hops, objective, own_of(3), dice)
    changed = (again.known != hops.known).flatten(3).any(dim=3).any(dim=(0, 1))
    assert changed.tolist() == [True] * made + [False] * (4 - made)


def test_the_rest_of_the_hops_stays_and_nothing_is_made_from_nothing():
    objective, dice = objective_of("flow", "flow", SCALE, True), dice_of(0.99)
    for known in (1, 3):
        hops = make_hops(known)
        again = replace_newest_frames(Oracle(TRUTH, objective), hops, objective, own_of(9), dice)
        assert torch.equal(again.known[:, :, -1], hops.known[:, :, -1])
        assert again == replace(hops, known=again.known)


class Trainable(nn.Module):
    """A denoiser with one weight, which knows all it is given."""

    joint = False

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3))

    def context(
        self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
    ) -> Tensor:
        assert not level.any() and not dropped.any()
        return frames[:, :, :1]

    def forward(self, xt: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return self.weight * (xt + context)


def test_no_gradient_flows_through_what_the_network_made():
    objective, dice, network = objective_of("flow", "flow", SCALE, True), dice_of(0.99), Trainable()
    made = replace_newest_frames(network, make_hops(), objective, own_of(2), dice)
    assert not made.known.requires_grad


def test_at_temperature_zero_no_chance_is_left():
    objective, network = objective_of("flow", "flow", SCALE, True), Trainable()

    def made(seed: int, temperature: float) -> Tensor:
        dice, own = dice_of(0.99, seed), own_of(2, temperature=temperature)
        return replace_newest_frames(network, make_hops(), objective, own, dice).known

    assert torch.equal(made(0, 0.0), made(1, 0.0))
    assert not torch.equal(made(0, 1.0), made(1, 1.0))
