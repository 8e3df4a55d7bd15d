import pytest
import torch
from torch import Tensor

from tests.processes import objective_of
from vdp.core.context_frames import Hops
from vdp.diffusion.objective import Objective, data_scale

SCALE = torch.tensor([0.3, 4.0])


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_batches() -> list[Hops]:
    """Frames of unit mean square with residuals of SCALE."""
    batches = []
    for seed in range(4):
        known = normal(seed, 50, 2, 3, 4, 4)
        change = normal(seed + 10, 50, 2, 1, 4, 4) * SCALE[:, None, None, None]
        index, target_index = torch.tensor([[2.0, 1.0, 0.0]]).expand(50, -1), torch.full((50, 1), 3.0)
        batches.append(Hops(known, index, known[:, :, :1] + change, target_index))
    return batches


@pytest.mark.parametrize("residual", [True, False])
def test_to_frames_inverts_to_data(residual):
    objective, hops = objective_of("flow", "flow", SCALE, residual), make_batches()[0]
    base = objective.base(hops.known, hops.index, hops.target_index)
    x0 = objective.to_data(hops.target, base)
    torch.testing.assert_close(objective.to_frames(x0, base), hops.target)


def test_x0_of_zero_is_a_copy_of_the_nearest_context_frame_or_without_residuals_zero():
    hops, x0 = make_batches()[0], torch.zeros(50, 2, 1, 4, 4)
    for residual, expected in ((True, hops.known[:, :, :1]), (False, x0)):
        objective = objective_of("flow", "flow", SCALE, residual)
        base = objective.base(hops.known, hops.index, hops.target_index)
        torch.testing.assert_close(objective.to_frames(x0, base), expected)


@pytest.mark.parametrize("residual", [True, False])
def test_diffused_data_has_unit_mean_square(residual):
    scale = data_scale(make_batches(), residual)
    expected = SCALE if residual else (1 + SCALE.square()).sqrt()
    torch.testing.assert_close(scale, expected, rtol=0.05, atol=0)
    objective = objective_of("flow", "flow", scale, residual)
    data = [
        objective.to_data(h.target, objective.base(h.known, h.index, h.target_index)) for h in make_batches()
    ]
    torch.testing.assert_close(torch.cat(data).square().mean(dim=(0, 2, 3, 4)), torch.ones(2))


def test_the_scale_of_a_constant_residual_is_its_magnitude():
    hops = make_batches()[0]
    change = SCALE[:, None, None, None].expand_as(hops.target)
    same = Hops(hops.known, hops.index, hops.known[:, :, :1] + change, hops.target_index)
    torch.testing.assert_close(data_scale([same], residual=True), SCALE)


@pytest.mark.parametrize("static", [[0], [1], [0, 1]])
def test_a_channel_without_motion_is_rejected(static):
    hops = make_batches()[0]
    target = hops.target.clone()
    target[:, static] = hops.known[:, static, :1]
    with pytest.raises(ValueError, match="latents: .*motion"):
        data_scale([Hops(hops.known, hops.index, target, hops.target_index)], residual=True)


def test_residuals_of_linear_motion_are_zero_in_interpolate_only():
    index, target_index = torch.tensor([[0.0, 4.0]]), torch.tensor([[1.0, 2.0, 3.0]])
    known, target = (t[:, None, :, None, None].expand(-1, 2, -1, 3, 3) for t in (index, target_index))
    for task, nonzero in (("interpolate", False), ("predict", True)):
        objective = Objective(objective_of("flow", "flow", SCALE, True).process, SCALE, True, task)
        base = objective.base(known, index, target_index)
        assert bool((objective.to_data(target, base) != 0).any()) == nonzero


def test_the_scale_of_interpolate_is_that_of_the_residual_from_the_blend():
    index, target_index = torch.tensor([[0.0, 4.0]]), torch.tensor([[1.0, 2.0, 3.0]])
    known, target = (7 * t[:, None, :, None, None].expand(-1, 2, -1, 3, 3) for t in (index, target_index))
    hops = Hops(known, index, target + SCALE[:, None, None, None], target_index, "interpolate")
    torch.testing.assert_close(data_scale([hops], residual=True), SCALE)
