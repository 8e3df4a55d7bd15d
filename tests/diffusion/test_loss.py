import pytest
import torch
from torch import Tensor

from tests.oracle import Oracle, moving_clips
from vdp.diffusion.loss import change_scale, hop_loss, shift_time, velocity_loss
from vdp.diffusion.params import DiffusionParams
from vdp.diffusion.process import target
from vdp.tasks import Hops, anchor_frames

SCALE = torch.tensor([0.5, 2.0])
TRUTH = moving_clips(batch=3, channels=2, height=4, width=5)
both_processes = pytest.mark.parametrize("kind", ["flow", "v"])


def make_hops() -> Hops:
    index = torch.tensor([[8.0, 6.0, 5.0, 4.0]]).expand(3, -1)
    target_index = torch.tensor([[10.0, 2.5]]).expand(3, -1)
    return Hops(TRUTH(index), index, TRUTH(target_index), target_index)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Silent:
    """A denoiser that always says zero; remembers what it was given."""

    def context(self, frames: Tensor, index: Tensor, level: Tensor, target_index: Tensor) -> Tensor:
        self.frames, self.level = frames, level
        return target_index

    def __call__(self, xt: Tensor, t: Tensor, context: Tensor) -> Tensor:
        self.xt, self.t = xt, t
        return torch.zeros_like(xt)


@both_processes
def test_the_loss_of_a_network_that_knows_the_truth_is_zero(kind):
    hops, t = make_hops(), 0.05 + 0.95 * torch.rand((3, 6), generator=torch.Generator().manual_seed(0))
    level = torch.full((3, 4), 0.2)
    noise, context_noise = normal(1, 3, 2, 6, 4, 5), normal(2, 3, 2, 4, 4, 5)
    loss = velocity_loss(Oracle(TRUTH, SCALE, kind), hops, SCALE, kind, t, noise, level, context_noise)
    assert loss.item() == pytest.approx(0, abs=1e-8)
    wrong = Oracle(TRUTH, 1.1 * SCALE, kind)
    assert velocity_loss(wrong, hops, SCALE, kind, t, noise, level, context_noise) > 1e-4


@both_processes
def test_the_loss_of_a_network_that_says_nothing_is_the_mean_square_of_the_target(kind):
    hops, t = make_hops(), torch.rand((3, 2), generator=torch.Generator().manual_seed(0))
    noise, none = normal(1, 3, 2, 2, 4, 5), torch.zeros(3, 2, 4, 4, 5)
    loss = velocity_loss(Silent(), hops, SCALE, kind, t, noise, torch.zeros(3, 4), none)
    change = (hops.target - anchor_frames(hops.known, hops.index, hops.target_index)) / SCALE[
        :, None, None, None
    ]
    torch.testing.assert_close(loss, target(change, noise, t, kind).square().mean())


def test_known_frames_are_noised_to_the_level_that_the_network_is_told():
    hops, network = make_hops(), Silent()
    level = torch.rand((3, 4), generator=torch.Generator().manual_seed(3))
    context_noise = normal(2, 3, 2, 4, 4, 5)
    t, noise = torch.full((3, 2), 0.5), normal(1, 3, 2, 2, 4, 5)
    velocity_loss(network, hops, SCALE, "flow", t, noise, level, context_noise)
    added = (network.frames - hops.known) / context_noise
    torch.testing.assert_close(added, level[:, None, :, None, None].expand_as(added), atol=1e-3, rtol=1e-3)
    assert torch.equal(network.level, level)


def test_draws_of_one_target_stand_side_by_side():
    """Without noise the network sees the change itself, twice for each of the two targets."""
    hops, network = make_hops(), Silent()
    zero = torch.zeros(3, 4, 4)
    none = torch.zeros(3, 2, 4, 4, 5)
    velocity_loss(network, hops, SCALE, "flow", zero[:, 0], normal(1, 3, 2, 4, 4, 5), torch.zeros(3, 4), none)
    torch.testing.assert_close(network.xt[:, :, 0], network.xt[:, :, 1])
    torch.testing.assert_close(network.xt[:, :, 2], network.xt[:, :, 3])
    assert not torch.allclose(network.xt[:, :, 0], network.xt[:, :, 2])


@pytest.mark.parametrize("context_noise", [0.0, 0.3])
def test_the_drawn_loss_takes_its_chance_from_the_generator_alone(context_noise):
    params = DiffusionParams(process="flow", time_shift=2.0)

    def drawn(seed: int) -> tuple[Tensor, Silent]:
        network = Silent()
        generator = torch.Generator().manual_seed(seed)
        return hop_loss(network, make_hops(), SCALE, params, 3, context_noise, generator)["loss"], network

    (first, network), (again, _), (other, _) = drawn(0), drawn(0), drawn(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert network.t.shape == (3, 6) and network.t.min() >= 0 and network.t.max() <= 1
    assert network.level.min() >= 0 and network.level.max() <= context_noise
    assert (network.level == network.level[:, :1]).all()  # one level for all known frames of a clip


def test_half_of_the_clips_have_clean_known_frames():
    params = DiffusionParams(process="flow", time_shift=1.0)
    network, generator, clean = Silent(), torch.Generator().manual_seed(0), 0
    for _ in range(300):
        hop_loss(network, make_hops(), SCALE, params, 1, 0.3, generator)
        clean += int((network.level[:, 0] == 0).sum())
    assert clean / 900 == pytest.approx(0.5, abs=0.05)


# --- Times and scales ------------------------------------------------------------------------------------


def test_a_shift_of_one_leaves_times_alone_and_a_larger_one_moves_them_towards_one():
    t = torch.linspace(0, 1, 11)
    torch.testing.assert_close(shift_time(t, 1.0), t)
    assert (shift_time(t, 3.0)[1:-1] > t[1:-1]).all()
    assert shift_time(t, 3.0)[[0, -1]].tolist() == [0, 1]
    assert shift_time(torch.tensor(0.5), 3.0).item() == pytest.approx(0.75)


def test_opposite_shifts_undo_each_other():
    t = torch.linspace(0, 1, 11)
    torch.testing.assert_close(shift_time(shift_time(t, 4.0), 0.25), t)


def test_changes_divided_by_their_scale_have_unit_size():
    batches = []
    for seed in range(4):
        known = normal(seed, 50, 2, 3, 4, 4)
        change = normal(seed + 10, 50, 2, 1, 4, 4) * torch.tensor([0.3, 4.0])[:, None, None, None]
        index, target_index = torch.tensor([[2.0, 1.0, 0.0]]).expand(50, -1), torch.full((50, 1), 3.0)
        batches.append(Hops(known, index, known[:, :, :1] + change, target_index))
    torch.testing.assert_close(change_scale(batches), torch.tensor([0.3, 4.0]), rtol=0.05, atol=0)


def test_a_data_set_without_motion_is_refused():
    hops = make_hops()
    still = Hops(torch.ones_like(hops.known), hops.index, torch.ones_like(hops.target), hops.target_index)
    with pytest.raises(ValueError, match="expected clips with motion"):
        change_scale([still])
