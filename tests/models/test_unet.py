"""The U-Net's own promises; those that every denoiser keeps are in test_denoisers.py."""

from typing import get_args

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vdp.models.denoisers.params import UNetParams
from vdp.models.denoisers.unet import (
    FEATURES,
    MAX_OFFSET,
    Spade,
    Stage,
    TimeAttention,
    TimeConv,
    UNet,
    UNetBodySpec,
    UNetContext,
    attention_heads,
)
from vdp.models.layers import ImageAttention, ResBlock, fourier_features, modulated

CHANNELS = 3
SLOTS = 4
CONDITIONINGS = get_args(UNetParams.model_fields["conditioning"].annotation)
every_conditioning = pytest.mark.parametrize("conditioning", CONDITIONINGS)
with_and_without_time = pytest.mark.parametrize("temporal", [False, True])

SMALL = UNetParams(
    conditioning="features",
    base_channels=8,
    channel_mults=[1, 2, 4],
    num_res_blocks=1,
    attention_levels=[2],
    temporal=False,
    context_slots=SLOTS,
    head_levels=2,
    head_blocks=1,
)


def make(conditioning: str, temporal: bool) -> UNet:
    """A U-Net as it is before training."""
    torch.manual_seed(0)
    return UNet(SMALL.model_copy(update={"conditioning": conditioning, "temporal": temporal}), CHANNELS)


def stirred(network: nn.Module) -> nn.Module:
    """The network with no weight left at zero: what starts as nothing has a say too."""
    for parameter in network.parameters():
        if parameter.unique().numel() == 1:
            nn.init.normal_(parameter, std=0.2)
    return network.eval()


def random(conditioning: str, temporal: bool) -> UNet:
    network = make(conditioning, temporal)
    stirred(network)
    return network


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Case:
    """Inputs of a U-Net: known frames of two clips, times of some targets, and noised draws of these."""

    def __init__(
        self, known: int = 5, targets: int = 2, draws: int = 3, height: int = 6, width: int = 9
    ) -> None:
        self.frames = normal(2, CHANNELS, known, height, width, seed=1)
        self.index = torch.arange(known).float().expand(2, -1) * 1.5
        self.level = 0.3 * normal(2, known, seed=2).abs()
        self.dropped = torch.zeros(2, dtype=torch.bool)
        self.target_index = 1.5 * known + 0.75 * torch.arange(targets).float().expand(2, -1)
        self.xt = normal(2, CHANNELS, targets * draws, height, width, seed=3)
        self.t = torch.linspace(0, 1, targets * draws).expand(2, -1)

    def context(self, network: UNet) -> UNetContext:
        return network.context(self.frames, self.index, self.level, self.dropped, self.target_index)

    def output(self, network: UNet) -> Tensor:
        return network(self.xt, self.t, self.context(network))


def between(index: Tensor) -> Tensor:
    """Features of the times between targets (B, N), as the network's context has them."""
    return fourier_features(index[:, None, :] - index[:, :, None], FEATURES, MAX_OFFSET)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


# --- Every configuration ---------------------------------------------------------------------------------


@every_conditioning
@with_and_without_time
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5), (2, 13)])
@torch.no_grad()
def test_any_height_and_width_will_do_in_every_configuration(conditioning, temporal, height, width):
    case = Case(height=height, width=width)
    output = case.output(random(conditioning, temporal))
    assert output.shape == case.xt.shape
    assert output.isfinite().all()


@every_conditioning
@pytest.mark.parametrize("targets", [1, 2, 7])
@torch.no_grad()
def test_any_number_of_targets_is_denoised_together(conditioning, targets):
    case = Case(targets=targets, draws=2)
    assert case.output(random(conditioning, temporal=True)).shape == case.xt.shape


@every_conditioning
@with_and_without_time
def test_gradients_reach_every_parameter_in_every_configuration(conditioning, temporal):
    network = random(conditioning, temporal)
    Case().output(network).square().mean().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@every_conditioning
@with_and_without_time
@torch.no_grad()
def test_in_bf16_the_output_is_fp32_and_near(conditioning, temporal):
    network, case = random(conditioning, temporal), Case()
    exact = case.output(network)
    case.xt = case.xt.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        output = case.output(network)
    assert output.dtype == torch.float32
    assert (output - exact).square().mean() < 0.01 * exact.square().mean()


@every_conditioning
@with_and_without_time
@torch.no_grad()
def test_dropped_hides_pictures_and_their_noise_wholly_but_not_times(conditioning, temporal):
    network, case = random(conditioning, temporal), Case()
    given = case.output(network)
    case.dropped = torch.tensor([True, False])
    before = case.output(network)
    assert_close(before[1], given[1])
    case.frames[0], case.level[0] = torch.nan, 0.9
    assert torch.equal(case.output(network), before)
    case.index = case.index - torch.tensor([[0.5], [0.0]])
    assert (case.output(network)[0] - before[0]).abs().max() > 1e-3


@every_conditioning
@torch.no_grad()
def test_a_withheld_picture_is_not_taken_for_a_black_one(conditioning):
    network, case = random(conditioning, temporal=False), Case()
    case.frames, case.level = torch.zeros_like(case.frames), torch.zeros_like(case.level)
    black = case.output(network)
    case.dropped = torch.ones_like(case.dropped)
    assert (case.output(network) - black).abs().max() > 1e-5


# --- Slots -----------------------------------------------------------------------------------------------


@every_conditioning
@torch.no_grad()
def test_the_unet_looks_at_its_nearest_known_frames_alone(conditioning):
    network, case = random(conditioning, temporal=False), Case(known=7, targets=1)
    before = case.output(network)
    case.frames[:, :, :3] = 9  # four slots hold frames 3..6
    assert_close(case.output(network), before)
    case.frames[:, :, 3] = 9
    assert (case.output(network) - before).abs().max() > 1e-3


@torch.no_grad()
def test_slots_hold_the_nearest_frame_and_what_differs_from_it():
    case = Case(known=3, targets=1)
    slots = case.context(make("concat", temporal=False)).slots
    assert slots is not None
    first, second, third, empty = rearrange(slots[0], "b (s c) h w -> s b c h w", s=SLOTS)
    newest = case.frames[:, :, 2]
    assert torch.equal(first, newest)
    assert torch.equal(second, case.frames[:, :, 1] - newest)
    assert torch.equal(third, case.frames[:, :, 0] - newest)
    assert not empty.any()


# --- Attention over positions ----------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 8, 31, 32, 64, 72, 96, 100, 110, 192, 1021])
def test_attention_heads_divide_the_channels(channels):
    heads = attention_heads(channels)
    assert channels % heads == 0
    assert heads == 1 or channels // heads >= 32


@every_conditioning
@pytest.mark.parametrize("levels", [[], [0], [2], [2, 1]])
def test_attention_is_at_the_levels_asked_for_and_nowhere_else(conditioning, levels):
    network = UNet(
        SMALL.model_copy(update={"conditioning": conditioning, "attention_levels": levels}), CHANNELS
    )
    found = {name for name, module in network.named_modules() if isinstance(module, ImageAttention)}
    whole = {f"{side}.{i}.attention" for i in levels for side in ("down", "up")} - {"up.2.attention"}
    if conditioning == "concat":
        assert found == {f"head.{name}" for name in whole}
    else:
        light = {f"{side}.{i}.attention" for i in levels for side in ("down", "up")}
        light -= {"down.2.attention", "up.1.attention", "up.2.attention"}  # the head has levels 0 and 1
        assert found == {f"encoder.{name}" for name in whole} | {f"head.{name}" for name in light}


# --- Conditioning ----------------------------------------------------------------------------------------


@torch.no_grad()
def test_constant_maps_are_another_scale_and_shift_of_the_normalisations():
    """GroupNorm has weight w and bias b: (1 + s) (w n + b) + z has weight (1 + s) w, bias (1 + s) b + z."""
    torch.manual_seed(0)
    block = ResBlock(8, 16, embedding_dim=5)
    stirred(block)
    x, embedding = normal(4, 8, 3, 5), normal(4, 5, seed=1)
    maps = [normal(2 * channels, seed=2 + i) for i, channels in enumerate((8, 16))]
    first, second = (m[None, :, None, None].expand(2, -1, 3, 5) for m in maps)
    actual = block(x, embedding, (first, second))
    for norm, both in zip((block.norm1, block.norm2), maps, strict=True):
        scale, shift = both.chunk(2)
        norm.weight.mul_(1 + scale)
        norm.bias.mul_(1 + scale).add_(shift)
    assert_close(actual, block(x, embedding))


def test_maps_serve_all_the_pictures_that_stand_beside_each_other():
    x, maps = normal(6, 4, 2, 3), normal(2, 8, 2, 3, seed=1)
    scale, shift = maps.repeat_interleave(3, dim=0).chunk(2, dim=1)
    assert_close(modulated(x, maps), x * (1 + scale) + shift)


@torch.no_grad()
def test_spade_encodes_and_makes_its_maps_once_for_all_steps_and_draws():
    network, case = random("spade", temporal=False), Case(draws=3)
    calls: list[str] = []
    once = [module for module in network.modules() if isinstance(module, Spade)]
    assert len(once) == 3  # a head of two levels: two stages down, one up
    for module in (*once, network.encoder):
        module.register_forward_hook(lambda module, *_: calls.append(type(module).__name__))
    context = case.context(network)
    for step in range(4):
        network(case.xt, torch.full_like(case.t, step / 4), context)
    assert sorted(calls) == ["UNetBody", "Spade", "Spade", "Spade"]


@torch.no_grad()
def test_each_stage_of_a_spade_head_listens_to_its_maps_and_a_new_one_is_deaf():
    case = Case()
    new = make("spade", temporal=False)
    stirred(new.head.down), stirred(new.head.up)
    before = case.output(new)
    case.frames = -case.frames
    assert torch.equal(case.output(new), before)
    for spade in range(3):
        network = random("spade", temporal=False)
        for other, module in enumerate(network.head.spade):
            if other != spade:
                nn.init.zeros_(module.conv.weight)
                nn.init.zeros_(module.conv.bias)
        after = case.output(network)
        case.frames = -case.frames
        assert (case.output(network) - after).abs().max() > 1e-3, spade


@torch.no_grad()
def test_spade_and_concat_give_the_head_no_features():
    case = Case()
    spade = case.context(random("spade", temporal=False))
    assert (spade.features, spade.slots) == ((), None)
    concat = case.context(random("concat", temporal=False))
    assert (concat.features, concat.maps) == ((), ())


def test_concat_is_one_whole_unet_whatever_the_head_is():
    def shapes(**changed: int | str) -> dict[str, torch.Size]:
        network = UNet(SMALL.model_copy(update={"conditioning": "concat", **changed}), CHANNELS)
        return {name: value.shape for name, value in network.state_dict().items()}

    assert shapes(head_levels=1, head_blocks=3) == shapes()
    assert shapes(num_res_blocks=2) != shapes()
    assert not [name for name in shapes() if name.startswith(("encoder", "context_in"))]
    assert shapes()["noisy_in.weight"][1] == CHANNELS * (1 + SLOTS)


# --- Along time ------------------------------------------------------------------------------------------


@every_conditioning
@torch.no_grad()
def test_with_temporal_a_draws_targets_see_each_other_and_nobody_else(conditioning):
    network, case = random(conditioning, temporal=True), Case(targets=3, draws=2)
    assert network.joint
    before = case.output(network)
    case.xt[0, :, 2 * 1 + 1] += 1.0  # of the first clip, the second target's second draw
    changed = (case.output(network) - before).abs().amax(dim=(1, 3, 4)) > 1e-4  # (B, N*R)
    assert changed.tolist() == [[False, True] * 3, [False] * 6]


@every_conditioning
@torch.no_grad()
def test_without_temporal_there_is_nothing_along_time(conditioning):
    network, case = random(conditioning, temporal=False), Case(targets=3, draws=1)
    assert not network.joint
    assert not [name for name, _ in network.named_modules() if "time_attention" in name or "convs." in name]
    before = case.output(network)
    case.xt[:, :, 1] += 1.0
    assert_close(case.output(network)[:, :, ::2], before[:, :, ::2])


@every_conditioning
@torch.no_grad()
def test_what_runs_along_time_starts_as_nothing(conditioning):
    plain, with_time = random(conditioning, temporal=False), make(conditioning, temporal=True)
    left, unknown = with_time.load_state_dict(plain.state_dict(), strict=False)
    assert left and not unknown
    assert torch.equal(Case().output(with_time), Case().output(plain))


@torch.no_grad()
def test_a_new_stage_is_the_identity():
    torch.manual_seed(0)
    spec = UNetBodySpec(
        widths=[8], blocks=2, dim=5, attention_levels=[0], extra=[0], spade=None, temporal=True
    )
    x, maps = normal(6, 8, 4, 3), normal(3, 16, 4, 3, seed=1)
    offsets = between(torch.tensor([[0.0, 1.0, 2.5]]))
    stage = Stage(spec, 0, channels_in=8)
    assert torch.equal(stage(x, normal(6, 5), ((maps, maps), (maps, maps)), offsets), x)


@every_conditioning
@torch.no_grad()
def test_with_temporal_only_differences_of_time_matter(conditioning):
    network, case = random(conditioning, temporal=True), Case(targets=3)
    before = case.output(network)
    case.index, case.target_index = case.index + 3.25, case.target_index + 3.25
    assert_close(case.output(network), before)


@torch.no_grad()
def test_a_target_alone_meets_the_centre_tap_of_the_convolution():
    torch.manual_seed(0)
    layer = TimeConv(8)
    stirred(layer)
    x = normal(6, 8, 4, 3)  # two clips, three draws of one target
    centre = F.conv2d(F.silu(layer.norm(x)), layer.conv.weight[:, :, 1:2], layer.conv.bias)
    assert_close(layer(x, between(torch.zeros(2, 1))), x + centre)


@torch.no_grad()
def test_a_tap_of_the_convolution_looks_at_the_target_before():
    """So it goes by the order of the targets, and may: exchanging two with their times is another input."""
    layer = TimeConv(8)
    layer.conv.weight[:, :, 0, 0] = torch.eye(8)
    x = normal(2 * 4 * 3, 8, 4, 3)
    before = rearrange(F.silu(layer.norm(x)), "(b n r) c h w -> n b r c h w", b=2, n=4)
    moved = rearrange(F.pad(before[:-1], [0] * 10 + [1, 0]), "n b r c h w -> (b n r) c h w")
    assert_close(layer(x, between(torch.zeros(2, 4))), x + moved)


@torch.no_grad()
def test_attention_that_prefers_nothing_is_the_mean_over_a_draws_targets():
    torch.manual_seed(0)
    layer = TimeAttention(64, heads=2)
    stirred(layer)
    nn.init.zeros_(layer.bias.weight)
    layer.qkv.weight[:64], layer.qkv.bias[:64] = 0, 0  # the queries
    x = normal(2 * 4 * 3, 64, 2, 3)
    values = layer.qkv(layer.norm(x))[:, 128:]
    mean = rearrange(values, "(b n r) c h w -> b n r c h w", b=2, n=4).mean(dim=1, keepdim=True)
    mean = mean.expand(-1, 4, -1, -1, -1, -1).flatten(0, 2)
    assert_close(layer(x, between(normal(2, 4))), x + layer.proj(mean))


@torch.no_grad()
def test_attention_along_time_goes_by_the_times_of_targets_not_by_their_order():
    torch.manual_seed(0)
    layer = TimeAttention(8, heads=1)
    stirred(layer)
    x, index = normal(4, 8, 2, 3), torch.tensor([[0.0, 1.5, 2.0, 4.0]])
    before = layer(x, between(index))
    order = torch.tensor([2, 0, 3, 1])
    assert_close(layer(x[order], between(index[:, order])), before[order])
    assert (layer(x[order], between(index)) - before[order]).abs().max() > 1e-3
    assert (layer(x, between(-index)) - before).abs().max() > 1e-3
