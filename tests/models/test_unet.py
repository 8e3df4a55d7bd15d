"""The U-Net's layers and conditioning; the protocol is tested in test_denoisers.py."""

from typing import get_args

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from tests.models.denoiser_cases import (
    CHANNELS,
    CONDITIONINGS,
    UNET,
    Case,
    assert_close,
    new_denoiser,
    normal,
    random_denoiser,
    randomise,
)
from vdp.models.denoisers.params import UNetParams
from vdp.models.denoisers.unet import (
    FEATURES,
    MAX_OFFSET,
    Spade,
    Stage,
    TimeAttention,
    TimeConv,
    UNetBodySpec,
    attention_heads,
)
from vdp.models.layers import ImageAttention, ResBlock, fourier_features, modulate

pytestmark = pytest.mark.slow

SLOTS = UNET["context_slots"]
every_conditioning = pytest.mark.parametrize("conditioning", CONDITIONINGS)


def offset_features(index: Tensor) -> Tensor:
    """Features of the pairwise offsets of target frames (B, N)."""
    return fourier_features(index[:, None, :] - index[:, :, None], FEATURES, MAX_OFFSET)


def test_every_conditioning_of_params_is_tested():
    assert set(CONDITIONINGS) == set(get_args(UNetParams.model_fields["conditioning"].annotation))


# --- Slots -----------------------------------------------------------------------------------------------


@every_conditioning
@torch.no_grad()
def test_output_depends_on_the_nearest_context_frames_only(conditioning):
    network, case = random_denoiser(f"unet-{conditioning}"), Case(known=7, targets=1)
    before = case.output(network)
    case.frames[:, :, :3] = 9  # four slots hold frames 3..6
    assert_close(case.output(network), before)
    case.frames[:, :, 3] = 9
    assert (case.output(network) - before).abs().max() > 1e-3


@torch.no_grad()
def test_slots_hold_the_nearest_frame_and_residuals_from_it():
    case = Case(known=3, targets=1)
    slots = case.context(new_denoiser("unet-concat")).slots
    assert slots is not None
    first, second, third, empty = rearrange(slots[0], "b (s c) h w -> s b c h w", s=SLOTS)
    newest = case.frames[:, :, 2]
    assert torch.equal(first, newest)
    assert torch.equal(second, case.frames[:, :, 1] - newest)
    assert torch.equal(third, case.frames[:, :, 0] - newest)
    assert not empty.any()


# --- Spatial attention -----------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 8, 31, 32, 64, 72, 96, 100, 110, 192, 1021])
def test_attention_heads_divide_the_channels(channels):
    heads = attention_heads(channels)
    assert channels % heads == 0
    assert heads == 1 or channels // heads >= 32


def test_temporal_attention_has_its_own_heads():
    network = new_denoiser("unet-features-temporal", temporal_heads=4, channel_mults=[1, 2, 4])
    found = {layer.heads for layer in network.modules() if isinstance(layer, TimeAttention)}
    assert found == {4}
    automatic = new_denoiser("unet-features-temporal")
    assert {layer.heads for layer in automatic.modules() if isinstance(layer, TimeAttention)} == {1}


def test_the_time_embedding_has_its_own_width():
    widths = {
        dim: {block.film.in_features for block in new_denoiser("unet-concat", **changed).modules()
              if isinstance(block, ResBlock)}
        for dim, changed in ((32, {}), (56, {"time_embedding_dim": 56}))
    }  # fmt: skip
    assert widths == {32: {32}, 56: {56}}


@every_conditioning
@pytest.mark.parametrize("levels", [[], [0], [2], [2, 1]])
def test_spatial_attention_is_at_attention_levels_only(conditioning, levels):
    network = new_denoiser(f"unet-{conditioning}", attention_levels=levels)
    found = {name for name, module in network.named_modules() if isinstance(module, ImageAttention)}
    full = {f"{side}.{i}.attention" for i in levels for side in ("down", "up")} - {"up.2.attention"}
    if conditioning == "concat":
        assert found == {f"head.{name}" for name in full}
    else:
        head = full - {"down.2.attention", "up.1.attention"}  # the head has levels 0 and 1
        assert found == {f"encoder.{name}" for name in full} | {f"head.{name}" for name in head}


# --- Conditioning ----------------------------------------------------------------------------------------


@torch.no_grad()
def test_constant_maps_equal_other_affine_weights_of_the_norms():
    """GroupNorm with weight w and bias b: (1 + s) (w n + b) + z has weight (1 + s) w, bias (1 + s) b + z."""
    torch.manual_seed(0)
    block = ResBlock(8, 16, embedding_dim=5)
    randomise(block)
    x, embedding = normal(4, 8, 3, 5), normal(4, 5, seed=1)
    maps = [normal(2 * channels, seed=2 + i) for i, channels in enumerate((8, 16))]
    first, second = (m[None, :, None, None].expand(2, -1, 3, 5) for m in maps)
    actual = block(x, embedding, (first, second))
    for norm, both in zip((block.norm1, block.norm2), maps, strict=True):
        scale, shift = both.chunk(2)
        norm.weight.mul_(1 + scale)
        norm.bias.mul_(1 + scale).add_(shift)
    assert_close(actual, block(x, embedding))


def test_maps_are_shared_by_adjacent_images():
    x, maps = normal(6, 4, 2, 3), normal(2, 8, 2, 3, seed=1)
    scale, shift = maps.repeat_interleave(3, dim=0).chunk(2, dim=1)
    assert_close(modulate(x, maps), x * (1 + scale) + shift)


@torch.no_grad()
def test_spade_computes_its_maps_once_for_all_steps_and_draws():
    network, case = random_denoiser("unet-spade"), Case(draws=3)
    calls: list[str] = []
    spades = [module for module in network.modules() if isinstance(module, Spade)]
    for module in (*spades, network.encoder):
        module.register_forward_hook(lambda module, *_: calls.append(type(module).__name__))
    context = case.context(network)
    for step in range(4):
        network(case.xt, torch.full_like(case.t, step / 4), context)
    assert sorted(calls) == ["Spade"] * 3 + ["UNetBody"]  # a head of two levels: two stages down, one up


@torch.no_grad()
def test_each_stage_of_a_spade_head_uses_its_maps_and_a_new_one_is_unconditioned():
    case = Case()
    new = new_denoiser("unet-spade")
    randomise(new.head.down), randomise(new.head.up)
    before = case.output(new)
    case.frames = -case.frames
    assert torch.equal(case.output(new), before)
    for spade in range(3):
        network = random_denoiser("unet-spade")
        for other, module in enumerate(network.head.spade):
            if other != spade:
                nn.init.zeros_(module.conv.weight)
                nn.init.zeros_(module.conv.bias)
        after = case.output(network)
        case.frames = -case.frames
        assert (case.output(network) - after).abs().max() > 1e-3, spade


def test_concat_has_no_encoder_and_ignores_the_head_params():
    def shapes(**changed: int) -> dict[str, torch.Size]:
        network = new_denoiser("unet-concat", **changed)
        return {name: value.shape for name, value in network.state_dict().items()}

    assert shapes(head_levels=1, head_blocks=3) == shapes()
    assert shapes(num_res_blocks=2) != shapes()
    assert not [name for name in shapes() if name.startswith(("encoder", "context_in"))]
    assert shapes()["noisy_in.weight"][1] == CHANNELS * (1 + SLOTS)


# --- Temporal layers -------------------------------------------------------------------------------------


@every_conditioning
@torch.no_grad()
def test_temporal_layers_exist_only_with_temporal_and_start_as_the_identity(conditioning):
    plain, temporal = random_denoiser(f"unet-{conditioning}"), new_denoiser(f"unet-{conditioning}-temporal")
    assert not plain.joint and temporal.joint
    missing, unexpected = temporal.load_state_dict(plain.state_dict(), strict=False)
    assert missing and not unexpected
    assert torch.equal(Case().output(temporal), Case().output(plain))


@torch.no_grad()
def test_a_new_stage_is_the_identity():
    torch.manual_seed(0)
    spec = UNetBodySpec(
        widths=[8], blocks=2, dim=5, attention_levels=[0], extra=[0], spade=None, temporal=True
    )
    x, maps = normal(6, 8, 4, 3), normal(3, 16, 4, 3, seed=1)
    offsets = offset_features(torch.tensor([[0.0, 1.0, 2.5]]))
    stage = Stage(spec, 0, channels_in=8)
    assert torch.equal(stage(x, normal(6, 5), ((maps, maps), (maps, maps)), offsets), x)


@torch.no_grad()
def test_a_single_target_frame_uses_the_centre_tap_of_the_temporal_convolution():
    torch.manual_seed(0)
    layer = TimeConv(8)
    randomise(layer)
    x = normal(6, 8, 4, 3)  # two clips, three draws of one target frame
    centre = F.conv2d(F.silu(layer.norm(x)), layer.conv.weight[:, :, 1:2], layer.conv.bias)
    assert_close(layer(x, offset_features(torch.zeros(2, 1))), x + centre)


@torch.no_grad()
def test_the_first_tap_of_the_temporal_convolution_reads_the_previous_target_frame():
    layer = TimeConv(8)
    layer.conv.weight[:, :, 0, 0] = torch.eye(8)
    x = normal(2 * 4 * 3, 8, 4, 3)
    before = rearrange(F.silu(layer.norm(x)), "(b n r) c h w -> n b r c h w", b=2, n=4)
    moved = rearrange(F.pad(before[:-1], [0] * 10 + [1, 0]), "n b r c h w -> (b n r) c h w")
    assert_close(layer(x, offset_features(torch.zeros(2, 4))), x + moved)


@torch.no_grad()
def test_temporal_attention_with_uniform_weights_is_the_mean_over_target_frames():
    torch.manual_seed(0)
    layer = TimeAttention(64, heads=2)
    randomise(layer)
    nn.init.zeros_(layer.bias.weight)
    layer.qkv.weight[:64], layer.qkv.bias[:64] = 0, 0  # the queries
    x = normal(2 * 4 * 3, 64, 2, 3)
    values = layer.qkv(layer.norm(x))[:, 128:]
    mean = rearrange(values, "(b n r) c h w -> b n r c h w", b=2, n=4).mean(dim=1, keepdim=True)
    mean = mean.expand(-1, 4, -1, -1, -1, -1).flatten(0, 2)
    assert_close(layer(x, offset_features(normal(2, 4))), x + layer.proj(mean))


@torch.no_grad()
def test_temporal_attention_depends_on_frame_indices_not_on_order():
    torch.manual_seed(0)
    layer = TimeAttention(8, heads=1)
    randomise(layer)
    x, index = normal(4, 8, 2, 3), torch.tensor([[0.0, 1.5, 2.0, 4.0]])
    before = layer(x, offset_features(index))
    order = torch.tensor([2, 0, 3, 1])
    assert_close(layer(x[order], offset_features(index[:, order])), before[order])
    assert (layer(x[order], offset_features(index)) - before[order]).abs().max() > 1e-3
    assert (layer(x, offset_features(-index)) - before).abs().max() > 1e-3
