import pytest
import torch
from torch import Tensor

from tests.processes import objective_of
from vdp.core.context_frames import Hops
from vdp.diffusion.objective import Objective, data_scale

SCALE = torch.tensor([0.3, 4.0])


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batches() -> list[Hops]:
    """Frames of unit size that change by SCALE."""
    made = []
    for seed in range(4):
        known = normal(seed, 50, 2, 3, 4, 4)
        change = normal(seed + 10, 50, 2, 1, 4, 4) * SCALE[:, None, None, None]
        index, target_index = torch.tensor([[2.0, 1.0, 0.0]]).expand(50, -1), torch.full((50, 1), 3.0)
        made.append(Hops(known, index, known[:, :, :1] + change, target_index))
    return made


@pytest.mark.parametrize("residual", [True, False])
def test_frames_come_back_from_what_is_diffused(residual):
    objective, hops = objective_of("flow", "flow", SCALE, residual), batches()[0]
    base = objective.base(hops.known, hops.index, hops.target_index)
    x0 = objective.to_data(hops.target, base)
    torch.testing.assert_close(objective.to_frames(x0, base), hops.target)


def test_nothing_diffused_is_the_copy_of_the_nearest_frame_or_without_residuals_the_mean_frame():
    hops, x0 = batches()[0], torch.zeros(50, 2, 1, 4, 4)
    for residual, expected in ((True, hops.known[:, :, :1]), (False, x0)):
        objective = objective_of("flow", "flow", SCALE, residual)
        base = objective.base(hops.known, hops.index, hops.target_index)
        torch.testing.assert_close(objective.to_frames(x0, base), expected)


@pytest.mark.parametrize("residual", [True, False])
def test_what_is_diffused_has_unit_size(residual):
    scale = data_scale(batches(), residual)
    expected = SCALE if residual else (1 + SCALE.square()).sqrt()
    torch.testing.assert_close(scale, expected, rtol=0.05, atol=0)
    objective = objective_of("flow", "flow", scale, residual)
    data = [objective.to_data(h.target, objective.base(h.known, h.index, h.target_index)) for h in batches()]
    torch.testing.assert_close(torch.cat(data).square().mean(dim=(0, 2, 3, 4)), torch.ones(2))


def test_the_size_of_a_change_that_is_always_the_same_is_that_change():
    hops = batches()[0]
    change = SCALE[:, None, None, None].expand_as(hops.target)
    same = Hops(hops.known, hops.index, hops.known[:, :, :1] + change, hops.target_index)
    torch.testing.assert_close(data_scale([same], residual=True), SCALE)


@pytest.mark.parametrize("still", [[0], [1], [0, 1]])
def test_a_data_set_with_a_channel_without_motion_is_refused(still):
    hops = batches()[0]
    target = hops.target.clone()
    target[:, still] = hops.known[:, still, :1]
    with pytest.raises(ValueError, match="expected clips with motion"):
        data_scale([Hops(hops.known, hops.index, target, hops.target_index)], residual=True)


def test_between_known_frames_a_change_is_measured_from_their_blend():
    """What moves evenly has no change, so that a network that knows nothing falls back to the blend."""
    index, target_index = torch.tensor([[0.0, 4.0]]), torch.tensor([[1.0, 2.0, 3.0]])
    known, target = (t[:, None, :, None, None].expand(-1, 2, -1, 3, 3) for t in (index, target_index))
    for task, changed in (("interpolate", False), ("predict", True)):
        objective = Objective(objective_of("flow", "flow", SCALE, True).process, SCALE, True, task)
        base = objective.base(known, index, target_index)
        assert bool((objective.to_data(target, base) != 0).any()) == changed


def test_the_scale_between_known_frames_is_that_of_the_change_from_their_blend():
    """Frames that move evenly, but for a constant of SCALE."""
    index, target_index = torch.tensor([[0.0, 4.0]]), torch.tensor([[1.0, 2.0, 3.0]])
    known, target = (7 * t[:, None, :, None, None].expand(-1, 2, -1, 3, 3) for t in (index, target_index))
    hops = Hops(known, index, target + SCALE[:, None, None, None], target_index, "interpolate")
    torch.testing.assert_close(data_scale([hops], residual=True), SCALE)
