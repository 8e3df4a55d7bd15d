"""The mover: kernels with a known answer, gradients, and a training on moving blobs."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.models.denoiser_cases import CHANNELS, Case, assert_close, denoiser_params, normal, random_denoiser
from tests.processes import objective_of
from vdp.core.context_frames import Hops
from vdp.core.rng import whole_batch
from vdp.diffusion.loss import HopLoss
from vdp.diffusion.moved import with_moved
from vdp.diffusion.scheduled_sampling import ScheduledSampling
from vdp.models.denoisers.moved import NEAREST, MovedDenoiser, Mover
from vdp.models.denoisers.params import MoverParams
from vdp.models.denoisers.unet import UNet

SLOTS, SIZE = 3, 3
HEIGHT, WIDTH = 6, 9
FLOW = objective_of("flow", "flow", torch.ones(CHANNELS), True)
LOSS = HopLoss({"predict": FLOW}, None, 1.0, 1, 0.0, 0.0, ScheduledSampling(0.0, 1, 1, 1.0))


def new_mover(size: int = SIZE, slots: int = SLOTS, channels: int = CHANNELS) -> Mover:
    torch.manual_seed(0)
    return Mover(MoverParams(base_channels=8, kernel_size=size, slots=slots), channels)


def reading(slot: int, down: int, right: int, size: int = SIZE) -> Mover:
    """A mover that reads each position from `down` and `right` of it in the frame of a slot."""
    mover = new_mover(size)
    bias = torch.full((SLOTS, size, size), -1e4)
    bias[slot, down + size // 2, right + size // 2] = 0
    mover.logits.bias.data = bias.flatten()
    return mover


def shifted(frame: Tensor, down: int, right: int) -> Tensor:
    """Read (B, C, H, W) from `down` and `right` of each position; beyond the border, from the border."""
    rows = (torch.arange(frame.shape[2]) + down).clamp(0, frame.shape[2] - 1)
    columns = (torch.arange(frame.shape[3]) + right).clamp(0, frame.shape[3] - 1)
    return frame[:, :, rows][:, :, :, columns]


INDEX = torch.tensor([[0.0, 4.0, 1.0, 5.0], [9.0, 1.0, 2.0, 3.0]])  # in any order
FRAMES = normal(2, CHANNELS, 4, HEIGHT, WIDTH)
TARGETS = torch.tensor([[6.0, 0.4], [6.0, 0.4]])
NEAREST_OF = {0: ([3, 0], [0, 1]), 1: ([1, 2], [3, 2]), 2: ([2, 1], [2, 3])}  # by slot, clip and target


@torch.no_grad()
@pytest.mark.parametrize(("down", "right"), [(0, 0), (1, 0), (0, -1), (-1, 1)])
@pytest.mark.parametrize("slot", NEAREST_OF)
def test_a_kernel_of_one_position_shifts_the_frame_of_its_slot(slot, down, right):
    moved = reading(slot, down, right)(FRAMES, INDEX, TARGETS)
    assert moved.shape == (2, CHANNELS, 2, HEIGHT, WIDTH)
    for target in range(2):
        expected = torch.stack([FRAMES[clip, :, NEAREST_OF[slot][clip][target]] for clip in range(2)])
        assert_close(moved[:, :, target], shifted(expected, down, right))


@torch.no_grad()
def test_large_kernels_reach_farther():
    moved = reading(0, -3, 3, size=7)(FRAMES, INDEX, TARGETS[:, :1])
    expected = torch.stack([FRAMES[0, :, 3], FRAMES[1, :, 0]])
    assert_close(moved[:, :, 0], shifted(expected, -3, 3))


@torch.no_grad()
def test_a_new_mover_starts_near_a_copy_of_the_nearest_frame():
    """Softmax of one logit of `NEAREST` and zeros: a known weighted mean."""
    moved = new_mover()(FRAMES, INDEX, TARGETS[:, :1])[:, :, 0]
    slots = [
        torch.stack([FRAMES[clip, :, NEAREST_OF[slot][clip][0]] for clip in range(2)])
        for slot in range(SLOTS)
    ]
    padded = [F.pad(frame, (1, 1, 1, 1), mode="replicate") for frame in slots]
    box = sum(F.avg_pool2d(frame, SIZE, stride=1) * SIZE**2 for frame in padded)
    copy = torch.tensor(NEAREST).exp()
    expected = (box + (copy - 1) * slots[0]) / (SLOTS * SIZE**2 - 1 + copy)
    assert_close(moved, expected)
    errors = [(moved - frame).square().mean() for frame in slots]
    assert errors[0] < 0.3 * min(errors[1:])


@torch.no_grad()
@pytest.mark.parametrize("known", [1, 2, 3, 5])
def test_weights_are_of_the_frames_that_are_present(known):
    """Weights add up to one: a mean of equal frames is that frame, with free slots too."""
    mover = new_mover()
    torch.nn.init.normal_(mover.logits.weight)
    frames = normal(2, CHANNELS, 1, 1, 1).expand(-1, -1, known, HEIGHT, WIDTH)
    index = torch.arange(float(known)).expand(2, -1)
    moved = mover(frames, index, torch.full((2, 1), float(known)))
    assert_close(moved, frames[:, :, :1])


@torch.no_grad()
def test_targets_and_clips_are_moved_independently_and_the_order_of_frames_is_free():
    mover = new_mover()
    torch.nn.init.normal_(mover.logits.weight)
    moved = mover(FRAMES, INDEX, TARGETS)
    for target in range(2):
        assert_close(mover(FRAMES, INDEX, TARGETS[:, target : target + 1])[:, :, 0], moved[:, :, target])
    assert_close(mover(FRAMES[1:], INDEX[1:], TARGETS[1:])[0], moved[1])
    order = torch.tensor([2, 0, 3, 1])
    assert_close(mover(FRAMES[:, :, order], INDEX[:, order], TARGETS), moved)
    assert_close(mover(FRAMES, INDEX + 512, TARGETS + 512), moved)
    later = mover(FRAMES, INDEX, TARGETS + 1.0)
    assert (later - moved).abs().max() > 1e-3  # the kernels depend on the offsets


@pytest.mark.parametrize("name", ["unet-moved", "dit-moved"])
def test_without_context_frames_and_without_a_mover_nothing_is_moved(name):
    case, network = Case(known=2), random_denoiser(name)
    assert network.move(case.frames[:, :, :0], case.index[:, :0], case.target_index) is None
    assert network.move(case.frames, case.index, case.target_index).shape == (2, CHANNELS, 2, 6, 9)
    given = with_moved(
        network, case.frames[:, :, :0], case.index[:, :0], case.level[:, :0], case.target_index
    )
    assert given.frames.shape[2] == 0 and given.moved is None
    plain = random_denoiser(name.replace("moved", {"unet": "features", "dit": "one_way"}[name.split("-")[0]]))
    assert plain.move(case.frames, case.index, case.target_index) is None


@pytest.mark.parametrize("name", ["unet-moved", "dit-moved"])
def test_the_mover_learns_from_its_own_loss_alone_and_the_denoiser_from_the_other(name):
    network, index = random_denoiser(name).train(), torch.tensor([[2.0, 1.0, 0.0]]).expand(2, -1)
    frames = normal(2, CHANNELS, 4, HEIGHT, WIDTH)
    hops = Hops(frames[:, :, :3], index, frames[:, :, 3:], torch.full((2, 1), 3.0))

    losses = LOSS(network, hops, whole_batch(torch.Generator().manual_seed(0), 2))
    for value, part in ((losses["moved"], "mover"), (losses["loss"] - losses["moved"], "network")):
        parameters = dict(network.named_parameters())
        found = torch.autograd.grad(value, list(parameters.values()), retain_graph=True, allow_unused=True)
        reached = {
            name.split(".")[0]
            for name, gradient in zip(parameters, found, strict=True)
            if gradient is not None and gradient.abs().max() > 1e-7
        }
        assert reached == {part}


def moving_blobs(batch: int, generator: torch.Generator) -> Hops:
    """Blobs on a torus that move by one position per frame in one of four directions; two channels."""
    side, frames = 8, 4
    heading = torch.tensor([[0, 1], [0, -1], [1, 0], [-1, 0]])[
        torch.randint(4, (batch,), generator=generator)
    ]
    start = torch.randint(side, (batch, 2), generator=generator)
    place = start[:, None] + heading[:, None] * torch.arange(frames)[:, None]  # (B, T, 2)
    offset = (torch.arange(side) - place[..., None] + side // 2) % side - side // 2  # (B, T, 2, side)
    blob = torch.exp(-offset.square().float() / 2)
    clip = (blob[:, :, 0, :, None] * blob[:, :, 1, None])[:, None].expand(-1, 2, -1, -1, -1)
    index = torch.arange(frames - 2.0, -1, -1).expand(batch, -1)
    return Hops(clip[:, :, :-1].flip(2), index, clip[:, :, -1:], torch.full((batch, 1), frames - 1.0))


@pytest.mark.slow
def test_training_moves_a_blob_on():
    """The error of the moved frame falls below half of that of the start, which is near that of a copy."""
    objective = objective_of("flow", "flow", torch.ones(2), True)
    loss = HopLoss({"predict": objective}, None, 1.0, 1, 0.0, 0.0, ScheduledSampling(0.0, 1, 1, 1.0))
    torch.manual_seed(0)
    small = denoiser_params("unet-features", channel_mults=[1], attention_levels=[], head_levels=1)
    network = MovedDenoiser(UNet(small.unet, 2), new_mover(channels=2))
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    errors = []
    for _ in range(120):
        losses = loss(network, moving_blobs(16, generator), whole_batch(generator, 16))
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        errors.append(losses["moved"].item())
    copy = moving_blobs(64, generator)
    assert errors[0] < 1.2 * (copy.target - copy.known[:, :, :1]).square().mean()
    assert sum(errors[-10:]) / 10 < 0.5 * errors[0]
