"""The contract of a denoiser, kept by every denoiser that params.yaml can name."""

from typing import get_args

import pytest
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from vdp.diffusion.loss import velocity_loss
from vdp.models.denoisers import Dit, Unet, build_denoiser, load_denoiser
from vdp.models.denoisers.params import DenoiserConfig, DenoiserParams, DitParams, UnetParams
from vdp.models.denoisers.unet import attention_heads
from vdp.models.store import save_model
from vdp.tasks import Hops

CHANNELS = 3
NAMES = get_args(DenoiserParams.model_fields["name"].annotation)
every_denoiser = pytest.mark.parametrize("name", NAMES)


def denoiser_params(name: str) -> DenoiserParams:
    unet = UnetParams(
        base_channels=8,
        channel_mults=[1, 2, 4],
        num_res_blocks=1,
        context_frames=4,
        head_levels=2,
        head_blocks=1,
    )
    dit = DitParams(patch_size=2, hidden_dim=32, depth=2, num_heads=2)
    return DenoiserParams.model_validate({"name": name, "unet": unet, "dit": dit})


def make(name: str) -> Unet | Dit:
    """A denoiser as it is before training."""
    torch.manual_seed(0)
    return build_denoiser(denoiser_params(name), CHANNELS)


def random(name: str) -> Unet | Dit:
    """A denoiser with no weight left at zero: what starts as the identity or as nothing has a say too."""
    network = make(name)
    for parameter in network.parameters():
        if parameter.unique().numel() == 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Case:
    """Inputs of a denoiser: known frames, times of some targets, and noised draws of these."""

    def __init__(
        self,
        known: int = 5,
        targets: int = 2,
        draws: int = 3,
        height: int = 6,
        width: int = 9,
        batch: int = 2,
    ) -> None:
        self.frames = normal(batch, CHANNELS, known, height, width, seed=1)
        self.index = torch.arange(known).float().expand(batch, -1) * 1.5
        self.level = 0.3 * normal(batch, known, seed=2).abs()
        # one after the known frames and others among them, so that each has an anchor of its own
        self.target_index = 1.5 * known + 0.75 - 4.1 * torch.arange(targets).float().expand(batch, -1)
        self.xt = normal(batch, CHANNELS, targets * draws, height, width, seed=3)
        self.t = torch.linspace(0, 1, targets * draws).expand(batch, -1)

    def velocity(self, network: Unet | Dit) -> Tensor:
        context = network.context(self.frames, self.index, self.level, self.target_index)
        return network(self.xt, self.t, context)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@every_denoiser
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5), (4, 13), (8, 12)])
@torch.no_grad()
def test_any_height_and_width_will_do(name, height, width):
    case = Case(height=height, width=width)
    velocity = case.velocity(random(name))
    assert velocity.shape == case.xt.shape
    assert velocity.isfinite().all()
    assert velocity.dtype == torch.float32


@every_denoiser
@pytest.mark.parametrize("known", range(1, 13))
@torch.no_grad()
def test_any_number_of_known_frames_will_do(name, known):
    case = Case(known=known, targets=1, draws=1, batch=1)
    velocity = case.velocity(random(name))
    assert velocity.shape == case.xt.shape
    assert velocity.isfinite().all()


@every_denoiser
@pytest.mark.parametrize(("targets", "draws"), [(1, 1), (3, 1), (1, 4), (2, 3)])
@torch.no_grad()
def test_any_number_of_targets_and_draws_will_do(name, targets, draws):
    case = Case(targets=targets, draws=draws)
    assert case.velocity(random(name)).shape == (2, CHANNELS, targets * draws, 6, 9)


@every_denoiser
@torch.no_grad()
def test_the_velocity_depends_on_all_that_is_given(name):
    network, case = random(name), Case(known=3)
    before = case.velocity(network)
    for changed in ("frames", "index", "level", "target_index", "xt", "t"):
        other = Case(known=3)
        value = getattr(other, changed).clone()
        value[..., -1] += 0.4  # half an index is an index
        setattr(other, changed, value)
        assert (other.velocity(network) - before).abs().max() > 1e-4, changed


@every_denoiser
@torch.no_grad()
def test_only_differences_of_time_matter(name):
    network, case = random(name), Case()
    before = case.velocity(network)
    case.index, case.target_index = case.index + 3.25, case.target_index + 3.25
    assert_close(case.velocity(network), before)


@every_denoiser
@torch.no_grad()
def test_the_order_in_which_known_frames_are_given_does_not_matter(name):
    network, case = random(name), Case(known=6)
    before = case.velocity(network)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    case.frames, case.index, case.level = case.frames[:, :, order], case.index[:, order], case.level[:, order]
    assert_close(case.velocity(network), before)


@every_denoiser
@torch.no_grad()
def test_clips_of_a_batch_do_not_see_each_other(name):
    network, case = random(name), Case()
    before = case.velocity(network)
    case.frames[1], case.xt[1] = 5.0, -5.0
    assert_close(case.velocity(network)[0], before[0])


@every_denoiser
@torch.no_grad()
def test_targets_do_not_see_each_other(name):
    network, case = random(name), Case(targets=3, draws=1)
    before = case.velocity(network)
    for target in range(3):
        alone = Case(targets=3, draws=1)
        alone.xt, alone.t = case.xt[:, :, target : target + 1], case.t[:, target : target + 1]
        alone.target_index = case.target_index[:, target : target + 1]
        assert_close(alone.velocity(network)[:, :, 0], before[:, :, target])


@every_denoiser
@torch.no_grad()
def test_draws_of_one_target_stand_side_by_side_and_do_not_see_each_other(name):
    network, case = random(name), Case(targets=2, draws=3)
    before = case.velocity(network)
    for draw in range(3):
        alone = Case(targets=2, draws=1)
        alone.xt, alone.t = case.xt[:, :, draw::3], case.t[:, draw::3]
        assert_close(alone.velocity(network), before[:, :, draw::3])


@every_denoiser
@torch.no_grad()
def test_a_context_encoded_once_serves_all_sampling_steps(name):
    """As in sampling: the next step's input comes from the last step's output."""
    network, case = random(name), Case(draws=1)
    given = (case.frames, case.index, case.level, case.target_index)
    cache = network.context(*given)
    once = again = case.xt
    for step in range(4, 0, -1):
        t = torch.full_like(case.t, step / 4)
        once = once - 0.25 * network(once, t, cache)
        again = again - 0.25 * network(again, t, network.context(*given))
    assert (once - case.xt).abs().max() > 0.1
    assert_close(once, again)


def joint_pass(network: Dit, case: Case) -> Tensor:
    """The DiT without a cache: known and noised tokens in one sequence, who sees whom told by a mask."""
    count, known = case.xt.shape[2], case.frames.shape[2]
    draws = count // case.target_index.shape[1]
    distance = (case.index[0, :, None] - case.target_index[0]).abs()
    anchor = case.frames[:, :, distance.argmin(dim=0)].repeat_interleave(draws, dim=2)
    before, grid = network._tokens(network.known_in, case.frames)
    after, _ = network._tokens(network.noisy_in, torch.cat([case.xt, anchor], dim=1))
    patches = before.shape[1]
    x = torch.cat([rearrange(y, "(b t) n d -> b (t n) d", b=2) for y in (before, after)], dim=1)
    level = torch.cat([network._embed(case.level, role=0), network._embed(case.t, role=1)], dim=1)
    embedding = level.repeat_interleave(patches, dim=1)
    times = torch.cat([case.index, case.target_index.repeat_interleave(draws, dim=1)], dim=1)
    position = rearrange(network._positions(times, grid), "b t n p -> b (t n) p")
    frame = torch.arange(known + count).repeat_interleave(patches)
    sees = (frame[None, :] < known) | (frame[None, :] == frame[:, None])
    for block in network.blocks:
        modulation = block.modulation(F.silu(embedding)).chunk(6, dim=-1)
        q, k, v = block.keys(x, modulation, position)
        x = block.finish(x, F.scaled_dot_product_attention(q, k, v, attn_mask=sees), modulation)
    x, embedding = x[:, known * patches :], embedding[:, known * patches :]
    shift, scale = network.modulation(F.silu(embedding)).chunk(2, dim=-1)
    pixels = rearrange(
        network.out(network.norm(x) * (1 + scale) + shift),
        "b (t gh gw) (c p q) -> b c t (gh p) (gw q)",
        t=count, gh=grid[0], gw=grid[1], p=network.patch, q=network.patch,
    )[..., : case.xt.shape[3], : case.xt.shape[4]]  # fmt: skip
    gate = rearrange(network.pass_noise(embedding), "b (t n) c -> b c t n", t=count)[..., 0]
    return pixels + gate[..., None, None] * case.xt


@torch.no_grad()
def test_the_dit_with_its_cache_equals_one_pass_over_all_tokens_without():
    network, case = random("dit"), Case(known=4, targets=2, draws=2)
    assert isinstance(network, Dit)
    assert_close(case.velocity(network), joint_pass(network, case))


@torch.no_grad()
def test_the_unet_looks_at_its_nearest_known_frames_alone():
    network, case = random("unet"), Case(known=7, targets=1)
    before = case.velocity(network)
    case.frames[:, :, :3] = 9  # four slots hold frames 3..6
    assert_close(case.velocity(network), before)
    case.frames[:, :, 3] = 9
    assert (case.velocity(network) - before).abs().max() > 1e-3


@pytest.mark.parametrize("channels", [1, 8, 31, 32, 64, 72, 96, 100, 110, 192, 1021])
def test_attention_heads_divide_the_channels(channels):
    heads = attention_heads(channels)
    assert channels % heads == 0
    assert heads == 1 or channels // heads >= 32


# --- Learning --------------------------------------------------------------------------------------------


def tiny_hops() -> Hops:
    """Four clips whose last frame no rule gives: they have to be learnt by heart."""
    frames = normal(4, CHANNELS, 4, 6, 6, seed=5)
    index = torch.tensor([2.0, 1.0, 0.0]).expand(4, -1)
    return Hops(frames[:, :, :3], index, frames[:, :, 3:], torch.full((4, 1), 3.0))


def loss_of(network: Unet | Dit, hops: Hops, generator: torch.Generator, draws: int = 4) -> Tensor:
    t = torch.rand((4, draws), generator=generator)
    noise = torch.randn((4, CHANNELS, draws, 6, 6), generator=generator)
    level = torch.zeros_like(hops.index)
    return velocity_loss(
        network, hops, torch.ones(CHANNELS), "flow", t, noise, level, torch.zeros_like(hops.known)
    )


@every_denoiser
def test_four_tiny_clips_are_learnt_by_heart(name):
    network, hops = make(name), tiny_hops()
    optimizer = torch.optim.Adam(network.parameters(), lr=4e-3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        before = loss_of(network, hops, torch.Generator().manual_seed(1), draws=16).item()
    for _ in range(150):
        optimizer.zero_grad()
        loss_of(network, hops, generator).backward()
        optimizer.step()
    with torch.no_grad():
        after = loss_of(network, hops, torch.Generator().manual_seed(1), draws=16).item()
    assert after < before / 5


@every_denoiser
def test_gradients_reach_every_parameter(name):
    network, case = random(name), Case()
    case.velocity(network).square().mean().backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


# --- Store -----------------------------------------------------------------------------------------------


@every_denoiser
@torch.no_grad()
def test_a_saved_denoiser_is_rebuilt_from_its_folder_alone(tmp_path, name):
    network = random(name)
    config = DenoiserConfig(
        denoiser=denoiser_params(name),
        channels=CHANNELS,
        known=5,
        process="v",
        change_scale=(0.1, 0.2, 0.3),
        latent_mean=(0.0, 1.0, 2.0),
        latent_std=(1.0, 2.0, 3.0),
    )
    save_model(tmp_path / "denoiser", network, config)
    again = load_denoiser(tmp_path / "denoiser", torch.device("cpu"))
    assert torch.equal(Case().velocity(again.network), Case().velocity(network))
    assert not again.network.training
    assert (again.known, again.process) == (5, "v")
    assert torch.equal(again.change_scale, torch.tensor([0.1, 0.2, 0.3]))
    assert (again.latent_mean, again.latent_std) == (config.latent_mean, config.latent_std)
