"""Protocol of a codec, for every codec that params.yaml can name, and the loss of the VAE."""

import json
import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from vdp.core.errors import UserError
from vdp.models.checkpoint import save_model
from vdp.models.codecs.factory import load_codec
from vdp.models.codecs.params import CodecConfig, CodecParams, VAEParams
from vdp.models.codecs.pixel import PixelCodec
from vdp.models.codecs.vae import VAE, CausalTimeConv, detail_weight, kl_divergence, reparametrise, vae_loss
from vdp.models.factored_classes import NUM_LOGITS

pytestmark = pytest.mark.slow


def vae_params(factor: int = 4, temporal: int = 1, convolutions: str = "factorised") -> VAEParams:
    shape = {"spatial_factor": factor, "temporal_factor": temporal, "convolutions": convolutions}
    return VAEParams.model_validate(shape | {"latent_channels": 3, "base_channels": 8, "num_res_blocks": 1})


def make_vae(
    factor: int = 4, has_masks: bool = True, temporal: int = 1, convolutions: str = "factorised"
) -> VAE:
    """A VAE without zero-initialised layers."""
    torch.manual_seed(0)
    network = VAE(vae_params(factor, temporal, convolutions), has_masks)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


FRAME_CODECS: list[PixelCodec | VAE] = [PixelCodec(), make_vae(2), make_vae(4), make_vae(8)]
CLIP_CODECS = [make_vae(factor, temporal=f) for factor, f in ((2, 2), (4, 2), (4, 4), (8, 4))]
CLIP_CODECS.append(make_vae(4, temporal=4, convolutions="full"))
every_frame_codec = pytest.mark.parametrize(
    "codec", [pytest.param(c, id=f"{type(c).__name__}-{c.factor}") for c in FRAME_CODECS]
)
every_clip_codec = pytest.mark.parametrize(
    "codec", [pytest.param(c, id=f"VAE-{c.factor}-{c.temporal_factor}") for c in CLIP_CODECS]
)
every_codec = pytest.mark.parametrize(
    "codec",
    [
        pytest.param(c, id=f"{type(c).__name__}-{c.factor}-{c.temporal_factor}")
        for c in FRAME_CODECS + CLIP_CODECS
    ],
)


def clip_of(batch: int, frames: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 2 * torch.rand((batch, 3, frames, height, width), generator=generator) - 1


def test_every_codec_of_params_is_tested():
    assert set(get_args(CodecParams.model_fields["name"].annotation)) == {"pixel", "vae"}


@every_codec
@pytest.mark.parametrize(
    ("batch", "later", "height", "width"), [(1, 0, 8, 8), (2, 2, 16, 40), (1, 3, 24, 8), (2, 1, 16, 24)]
)
@torch.no_grad()
def test_shapes_and_ranges(codec, batch, later, height, width):
    clip = clip_of(batch, 1 + later * codec.temporal_factor, height, width)
    latents = codec.encode(clip)
    assert latents.shape == (batch, codec.channels, 1 + later, height // codec.factor, width // codec.factor)
    decoded = codec.decode(9 * latents)
    assert decoded.shape == clip.shape
    assert decoded.abs().max() <= 1
    assert latents.dtype == decoded.dtype == torch.float32
    if codec.has_masks:
        logits = codec.mask_logits(latents)
        assert logits.shape == (batch, NUM_LOGITS, *clip.shape[2:])
        assert logits.dtype == torch.float32


@every_frame_codec
@torch.no_grad()
def test_frames_are_encoded_and_decoded_independently(codec):
    clip = clip_of(2, 4, 16, 24)
    latents = codec.encode(clip)
    decoded = codec.decode(latents)
    for frame in range(4):
        single = codec.encode(clip[:, :, frame : frame + 1])
        torch.testing.assert_close(single[:, :, 0], latents[:, :, frame], atol=1e-5, rtol=0)
        torch.testing.assert_close(codec.decode(single)[:, :, 0], decoded[:, :, frame], atol=1e-5, rtol=0)


@pytest.mark.parametrize("codec", [PixelCodec(), make_vae(has_masks=False)], ids=["pixel", "vae"])
def test_mask_logits_without_a_trained_head_are_rejected(codec):
    assert not codec.has_masks
    with pytest.raises(ValueError, match=r"segment\.codec_vote"):
        codec.mask_logits(codec.encode(clip_of(1, 1, 8, 8)))


@pytest.mark.parametrize(("height", "width"), [(18, 16), (16, 18)])
def test_sizes_that_the_spatial_factor_does_not_divide_are_rejected(height, width):
    with pytest.raises(ValueError, match=rf"vae\.spatial_factor=4, got {height}x{width}"):
        make_vae().encode(clip_of(1, 1, height, width))


def test_the_pixel_codec_is_the_identity():
    clip = clip_of(1, 2, 7, 5)
    assert torch.equal(PixelCodec().encode(clip), clip)
    assert torch.equal(PixelCodec().decode(PixelCodec().encode(clip)), clip)


@pytest.mark.parametrize(
    ("codec", "config"),
    [
        (make_vae(), CodecConfig(name="vae", vae=vae_params(), has_masks=True)),
        (make_vae(has_masks=False), CodecConfig(name="vae", vae=vae_params(), has_masks=False)),
        (make_vae(temporal=2), CodecConfig(name="vae", vae=vae_params(temporal=2), has_masks=True)),
        (make_vae(temporal=4), CodecConfig(name="vae", vae=vae_params(temporal=4), has_masks=True)),
        (
            make_vae(temporal=2, convolutions="full"),
            CodecConfig(name="vae", vae=vae_params(4, 2, "full"), has_masks=True),
        ),
        (PixelCodec(), CodecConfig(name="pixel", vae=None, has_masks=False)),
    ],
    ids=["vae", "vae-without-masks", "vae-temporal-2", "vae-temporal-4", "vae-full", "pixel"],
)
@torch.no_grad()
def test_a_saved_codec_is_rebuilt_from_its_folder_alone(tmp_path, codec, config):
    network = codec if isinstance(codec, VAE) else None
    for name in ("codec", "again"):
        save_model(tmp_path / name, network, config)
    for path in sorted((tmp_path / "codec").iterdir()):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    loaded = load_codec(tmp_path / "codec")
    clip = clip_of(1, 1 + loaded.temporal_factor, 8, 16)
    assert torch.equal(loaded.encode(clip), codec.encode(clip))
    assert torch.equal(loaded.decode(loaded.encode(clip)), codec.decode(codec.encode(clip)))
    assert (loaded.has_masks, loaded.training) == (config.has_masks, isinstance(codec, PixelCodec))


def test_a_folder_without_a_model_is_rejected(tmp_path):
    with pytest.raises(FileNotFoundError, match="codec: no model found.*dvc repro"):
        load_codec(tmp_path / "codec")


def test_a_config_of_another_version_is_rejected(tmp_path):
    save_model(tmp_path, None, CodecConfig(name="pixel", vae=None, has_masks=False))
    (tmp_path / "config.json").write_text(json.dumps({"name": "pixel", "vae": None}))
    with pytest.raises(UserError, match="has_masks: Field required.*dvc repro --force") as error:
        load_codec(tmp_path)
    assert "\n" not in str(error.value)


# --- Temporal downsampling -------------------------------------------------------------------------------


def latent_groups(codec: VAE, frames: int) -> list[slice]:
    """The frames of each latent frame."""
    f = codec.temporal_factor
    return [slice(0, 1)] + [slice(start, start + f) for start in range(1, frames, f)]


@every_clip_codec
@torch.no_grad()
def test_a_latent_frame_depends_on_its_own_and_earlier_frames_only(codec):
    frames = 1 + 3 * codec.temporal_factor
    clip = clip_of(1, frames, 16, 24)
    latents = codec.encode(clip)
    for latent, group in enumerate(latent_groups(codec, frames)):
        for frame in range(frames)[group]:
            changed = clip.clone()
            changed[:, :, frame] *= -1
            difference = (codec.encode(changed) - latents).abs().amax(dim=(0, 1, 3, 4))
            assert not difference[:latent].gt(1e-5).any()
            assert difference[latent] > 1e-3
            if 0 < latent < 3:
                assert difference[latent + 1] > 1e-4


@every_clip_codec
@torch.no_grad()
def test_a_latent_frame_affects_its_own_and_later_frames_only(codec):
    frames = 1 + 3 * codec.temporal_factor
    latents = codec.encode(clip_of(1, frames, 16, 24))
    for latent, group in enumerate(latent_groups(codec, frames)):
        changed = latents.clone()
        changed[:, :, latent] += 1
        for decode in (codec.decode, codec.mask_logits):
            difference = (decode(changed) - decode(latents)).abs().amax(dim=(0, 1, 3, 4))
            assert not difference[: group.start].gt(1e-5).any()
            assert (difference[group] > 1e-3).all()


@every_clip_codec
@torch.no_grad()
def test_a_prefix_of_a_clip_is_coded_as_the_whole_clip(codec):
    f = codec.temporal_factor
    clip = clip_of(1, 1 + 3 * f, 16, 24)
    latents = codec.encode(clip)
    for latent in range(3):
        single = codec.encode(clip[:, :, : 1 + latent * f])
        torch.testing.assert_close(single, latents[:, :, : 1 + latent], atol=1e-5, rtol=0)
        for decode in (codec.decode, codec.mask_logits):
            prefix = decode(latents)[:, :, : 1 + latent * f]
            torch.testing.assert_close(decode(single), prefix, atol=1e-4, rtol=0)


@every_clip_codec
@torch.no_grad()
def test_latent_frames_of_a_static_clip_are_equal(codec):
    static = clip_of(2, 1, 16, 24).expand(-1, -1, 1 + 3 * codec.temporal_factor, -1, -1)
    latents = codec.encode(static)
    torch.testing.assert_close(latents, latents[:, :, :1].expand_as(latents), atol=1e-5, rtol=0)


@every_clip_codec
@torch.no_grad()
def test_frames_of_one_latent_frame_differ(codec):
    latents = codec.encode(clip_of(1, 1, 16, 24)).expand(-1, -1, 8, -1, -1)
    last = codec.decode(latents)[:, :, -codec.temporal_factor :]
    assert (last[:, :, 1:] - last[:, :, :-1]).abs().amax(dim=(0, 1, 3, 4)).min() > 1e-3


@every_clip_codec
@torch.no_grad()
def test_clips_of_a_batch_are_independent(codec):
    clips = clip_of(3, 1 + 2 * codec.temporal_factor, 16, 24)
    latents = codec.encode(clips)
    for i in range(3):
        single = codec.encode(clips[i : i + 1])
        torch.testing.assert_close(single, latents[i : i + 1], atol=1e-5, rtol=0)
        for decode in (codec.decode, codec.mask_logits):
            torch.testing.assert_close(decode(single), decode(latents)[i : i + 1], atol=1e-4, rtol=0)


@every_codec
@pytest.mark.parametrize("frames", [1, 2, 4, 7, 8])
@torch.no_grad()
def test_a_clip_of_any_length_is_coded_with_copies_of_its_last_frame(codec, frames):
    f = codec.temporal_factor
    clip = clip_of(1, frames, 16, 24)
    latents = codec.encode(clip)
    assert latents.shape[2] == 1 + math.ceil((frames - 1) / f)
    missing = 1 + f * (latents.shape[2] - 1) - frames
    padded = torch.cat([clip, clip[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2)
    assert torch.equal(latents, codec.encode(padded))
    assert codec.decode(latents).shape == padded.shape


@pytest.mark.parametrize("full", [False, True])
@torch.no_grad()
def test_full_convolutions_see_the_neighbours_of_a_position_too(full):
    layer = CausalTimeConv(1, 1, stride=1, full=full)
    changed = torch.zeros(1, 1, 4, 5, 5)
    changed[0, 0, 1, 2, 2] = 1
    difference = (layer(changed) - layer(torch.zeros_like(changed)))[0, 0]
    positions = {tuple(at) for at in difference.nonzero().tolist()}
    sides = (1, 2, 3) if full else (2,)
    assert positions == {(t, y, x) for t in (1, 2, 3) for y in sides for x in sides}


def test_full_convolutions_need_a_temporal_factor():
    with pytest.raises(ValueError, match=r"vae\.convolutions=full: expected factorised with vae\.temporal"):
        vae_params(temporal=1, convolutions="full")


def test_the_config_of_a_factorised_codec_names_no_convolutions(tmp_path):
    """As before there was a choice, so that its bytes are the same."""
    save_model(tmp_path, make_vae(), CodecConfig(name="vae", vae=vae_params(), has_masks=True))
    assert "convolutions" not in (tmp_path / "config.json").read_text()


def test_a_vae_of_frames_has_no_temporal_layers():
    frames, clips = (VAE(vae_params(temporal=f), has_masks=True) for f in (1, 2))
    assert not any("time" in name for name in frames.state_dict())
    assert {name for name in clips.state_dict() if "time" not in name} == set(frames.state_dict())


# --- Loss ------------------------------------------------------------------------------------------------


def clip_losses(network: VAE, clips: Tensor, labelled: bool, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    batch, _, frames, height, width = clips.shape
    latent_frames = 1 + (frames - 1) // network.temporal_factor
    noise = torch.randn(
        (batch, network.channels, latent_frames, height // 4, width // 4), generator=generator
    )
    masks = torch.randint(0, 49, (batch, frames, height, width), generator=generator, dtype=torch.uint8)
    return vae_loss(network, clips, masks, torch.full((batch,), float(labelled)), noise, 1e-6, 5.0, 0.1)


@pytest.mark.parametrize("temporal", [1, 2, 4])
def test_gradients_reach_every_parameter(temporal):
    network = make_vae(temporal=temporal)
    clip_losses(network, clip_of(2, 1 + 2 * temporal, 16, 16), labelled=True, seed=0)["loss"].backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def moving_waves(frames: int) -> Tensor:
    """Four clips of coloured waves, (4, 3, T, 8, 8), of different directions."""
    y, x = torch.meshgrid(torch.arange(8) / 8, torch.arange(8) / 8, indexing="ij")
    position = torch.stack([x, y, x + y, x - y])[:, None, None]
    speed = torch.tensor([1, -1, 2, -2])[:, None, None, None, None] / (2 * frames)
    phase = position + speed * torch.arange(frames)[:, None, None] + torch.arange(3)[:, None, None, None] / 3
    return 0.8 * torch.sin(2 * math.pi * phase)


def test_a_vae_overfits_four_clips_and_their_motion():
    clips = moving_waves(9)
    motion = (clips - clips.mean(dim=2, keepdim=True)).square().mean().item()
    torch.manual_seed(0)
    wider = {"base_channels": 16, "latent_channels": 8}
    network = VAE(vae_params(temporal=4).model_copy(update=wider), has_masks=True)
    optimizer = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.99))

    def error() -> float:
        with torch.no_grad():
            return (network.decode(network.encode(clips)) - clips).square().mean().item()

    before = error()
    for step in range(40):
        optimizer.param_groups[0]["lr"] = 1e-2 * min(1, (step + 1) / 10) * (1 - step / 40)
        optimizer.zero_grad()
        clip_losses(network, clips, labelled=False, seed=step)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    assert error() < before / 30
    assert error() < motion / 20


def test_the_loss_of_a_clip_is_the_mean_over_its_frames():
    network, noise = make_vae(), torch.randn((1, 3, 3, 2, 2), generator=torch.Generator().manual_seed(2))
    clip = clip_of(1, 3, 8, 8) * torch.tensor([0.0, 0.1, 1.0])[:, None, None]  # of different detail
    masks = torch.tensor([0, 7, 48], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 8, 8)

    def loss(clip: Tensor, masks: Tensor, noise: Tensor) -> dict[str, Tensor]:
        return vae_loss(network, clip, masks, torch.ones(len(clip)), noise, 0.1, 5.0, 0.5)

    whole = loss(clip, masks, noise)
    as_batch = loss(*(part.transpose(0, axis) for part, axis in ((clip, 2), (masks, 1), (noise, 2))))
    torch.testing.assert_close(whole, as_batch)
    single = [loss(clip[:, :, t : t + 1], masks[:, t : t + 1], noise[:, :, t : t + 1]) for t in range(3)]
    for name, value in whole.items():
        torch.testing.assert_close(value, torch.stack([losses[name] for losses in single]).mean())


def test_kl_divergence_of_known_normals():
    zero = torch.zeros(2, 3)
    assert kl_divergence(zero, zero) == 0
    assert kl_divergence(zero + 2, zero).item() == pytest.approx(2)  # mean^2 / 2
    assert kl_divergence(zero, zero + math.log(4)).item() == pytest.approx((4 - 1 - math.log(4)) / 2)


def test_reparametrised_samples_have_the_posterior_s_mean_and_deviation():
    noise = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    sample = reparametrise(torch.full((20_000,), 3.0), torch.full((20_000,), math.log(0.25)), noise)
    assert sample.mean().item() == pytest.approx(3, abs=0.02)
    assert sample.std().item() == pytest.approx(0.5, abs=0.01)


def test_detail_weight_is_high_where_a_pixel_differs_from_the_local_mean():
    frames = torch.zeros(1, 3, 21, 21)
    assert torch.equal(detail_weight(frames, 5.0), torch.ones(1, 1, 21, 21))
    frames[0, 1, 10, 10] = 1
    weight = detail_weight(frames, 5.0)[0, 0]
    assert weight[10, 10] == 5
    assert weight[0, 0] == 1
    assert 1 < weight[10, 12] < 1.5
    assert torch.equal(detail_weight(frames, 1.0), torch.ones(1, 1, 21, 21))


def frame_losses(masks: Tensor, weight: list[float], mask_weight: float = 0.5) -> dict[str, Tensor]:
    noise = torch.randn((2, 3, 1, 2, 2), generator=torch.Generator().manual_seed(2))
    clips = clip_of(2, 1, 8, 8)
    return vae_loss(make_vae(), clips, masks, torch.tensor(weight), noise, 0.1, 5.0, mask_weight)


def test_masks_of_weight_zero_have_no_effect():
    masks = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    other = masks.clone()
    other[1] = 48
    assert frame_losses(masks, [2.0, 0.0])["loss"] == frame_losses(other, [2.0, 0.0])["loss"]
    assert frame_losses(masks, [1.0, 1.0])["loss"] != frame_losses(other, [1.0, 1.0])["loss"]
    assert frame_losses(other, [0.0, 0.0])["mask"] == 0


def test_the_loss_is_the_weighted_sum_of_its_terms():
    masks = torch.full((2, 1, 8, 8), 7, dtype=torch.uint8)
    losses = frame_losses(masks, [1.0, 1.0])
    total = losses["l1"] + 0.1 * losses["kl"] + 0.5 * losses["mask"]
    torch.testing.assert_close(losses["loss"], total)
    assert "mask" not in frame_losses(masks, [1.0, 1.0], mask_weight=0.0)


@pytest.mark.parametrize("size", [1, 2])
@torch.no_grad()
def test_the_loss_of_a_batch_is_the_mean_over_its_parts(size):
    network, clips = make_vae(temporal=2).double(), clip_of(4, 3, 8, 8).double()
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn((4, 3, 2, 2, 2), generator=generator, dtype=torch.float64)
    masks = torch.randint(0, 49, (4, 3, 8, 8), generator=generator, dtype=torch.uint8)
    masks[1, 1], weight = 0, torch.tensor([4 / 3, 4 / 3, 4 / 3, 0])  # parts have different numbers of masks

    def losses(rows: slice) -> dict[str, Tensor]:
        inputs = (clips[rows], masks[rows], weight[rows], noise[rows])
        return vae_loss(network, *inputs, kl_weight=0.1, detail=5.0, mask_weight=0.5)

    parts = [losses(slice(first, first + size)) for first in range(0, 4, size)]
    for name, value in losses(slice(0, 4)).items():
        mean = torch.stack([part[name] for part in parts]).mean()
        torch.testing.assert_close(mean, value, rtol=1e-6, atol=0)
