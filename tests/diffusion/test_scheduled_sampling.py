from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor, nn

from tests.oracle import Oracle, moving_clips
from tests.processes import EVERY_PAIR, objective_of
from vdp.core.context_frames import Hops
from vdp.core.rng import BatchRng
from vdp.diffusion.scheduled_sampling import ScheduledSampling, replace_newest_frames
from vdp.models.layers import Unmoved

SCALE = torch.tensor([0.5, 2.0])
TRUTH = moving_clips(batch=3, channels=2, height=4, width=5)
INDICES = [8.0, 6.0, 4.0, 3.0]  # nearest to the target first
FLOW = objective_of("flow", "flow", SCALE, True)


def make_hops(known: int = 4) -> Hops:
    index, target_index = torch.tensor([INDICES[:known]]).expand(3, -1), torch.full((3, 1), 10.0)
    return Hops(TRUTH(index), index, TRUTH(target_index), target_index)


@dataclass(frozen=True)
class FixedRng(BatchRng):
    """BatchRng with a given shared number; records the shapes of normal noise."""

    number: float
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def shared(self) -> float:
        return self.number

    def normal(self, *shape: int) -> Tensor:
        self.shapes.append(shape)
        return super().normal(*shape)


def fixed_rng(number: float, seed: int = 0) -> FixedRng:
    return FixedRng(torch.Generator().manual_seed(seed), range(3), 3, number)


def sampling(frames: int, temperature: float = 1.0) -> ScheduledSampling:
    return ScheduledSampling(share=1.0, frames=frames, steps=3, temperature=temperature)


def biased_oracle() -> Oracle:
    return Oracle(lambda index: TRUTH(index) + 1, FLOW)


@pytest.mark.parametrize(("schedule", "prediction"), [pair for pair in EVERY_PAIR if pair[1] != "eps"])
@pytest.mark.parametrize("residual", [True, False])
def test_a_perfect_denoiser_predicts_the_true_frames(schedule, prediction, residual):
    objective, hops, rng = objective_of(schedule, prediction, SCALE, residual), make_hops(), fixed_rng(0.99)
    replaced = replace_newest_frames(Oracle(TRUTH, objective), hops, objective, sampling(3), rng)
    torch.testing.assert_close(replaced.known, hops.known, atol=1e-3, rtol=0)
    assert rng.shapes == 3 * [(3, 2, 1, 4, 5)]


def test_newer_frames_are_predicted_from_predicted_older_ones():
    oracle = Oracle(TRUTH, FLOW)
    replace_newest_frames(oracle, make_hops(), FLOW, sampling(3), fixed_rng(0.99))
    assert oracle.indices == [[3], [4, 3], [6, 4, 3]]
    assert oracle.calls == 3 * 3
    replaced = replace_newest_frames(biased_oracle(), make_hops(), FLOW, sampling(3), fixed_rng(0.99))
    torch.testing.assert_close(replaced.known[:, :, :3], make_hops().known[:, :, :3] + 1)
    assert torch.equal(replaced.known[:, :, 3], make_hops().known[:, :, 3])


@pytest.mark.parametrize(("number", "count"), [(0.0, 1), (0.34, 2), (0.67, 3), (0.99, 3)])
def test_the_shared_number_selects_1_to_max_frames(number, count):
    hops = make_hops()
    replaced = replace_newest_frames(biased_oracle(), hops, FLOW, sampling(3), fixed_rng(number))
    changed = (replaced.known != hops.known).flatten(3).any(dim=3).any(dim=(0, 1))
    assert changed.tolist() == [True] * count + [False] * (4 - count)


@pytest.mark.parametrize("known", [1, 3])
def test_the_oldest_frame_and_the_target_are_kept(known):
    hops = make_hops(known)
    replaced = replace_newest_frames(biased_oracle(), hops, FLOW, sampling(9), fixed_rng(0.99))
    assert torch.equal(replaced.known[:, :, -1], hops.known[:, :, -1])
    assert replaced == replace(hops, known=replaced.known)


class OneWeight(Unmoved, nn.Module):
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


def test_predicted_frames_have_no_gradient_and_at_temperature_zero_no_noise():
    def replaced(seed: int, temperature: float) -> Tensor:
        params, rng = sampling(2, temperature), fixed_rng(0.99, seed)
        return replace_newest_frames(OneWeight(), make_hops(), FLOW, params, rng).known

    assert not replaced(0, 1.0).requires_grad
    assert torch.equal(replaced(0, 0.0), replaced(1, 0.0))
    assert not torch.equal(replaced(0, 1.0), replaced(1, 1.0))


def test_composed_frames_of_the_targets_stay():
    hops = make_hops()
    composed, target_index = 7 + hops.target, hops.target_index
    hops = replace(
        hops,
        known=torch.cat([composed, hops.known], 2),
        index=torch.cat([target_index, hops.index], 1),
        bases=1,
    )
    oracle = biased_oracle()
    replaced = replace_newest_frames(oracle, hops, FLOW, sampling(3), fixed_rng(0.99))
    assert oracle.indices == [[3], [4, 3], [6, 4, 3]]
    assert torch.equal(replaced.known[:, :, :1], composed)
    torch.testing.assert_close(replaced.known[:, :, 1:4], hops.known[:, :, 1:4] + 1)
    assert torch.equal(replaced.known[:, :, 4], hops.known[:, :, 4])
