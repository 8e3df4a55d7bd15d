"""The contract of a codec, kept by every codec that params.yaml can name."""

import json
import math
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor

from vdp.models.checkpoint import save_model
from vdp.models.codecs.factory import load_codec, load_frame_codec
from vdp.models.codecs.params import CodecConfig, CodecParams, VAEParams
from vdp.models.codecs.pixel import Pixel
from vdp.models.codecs.vae import VAE, detail_weight, kl_divergence, reparametrise, vae_loss
from vdp.models.factored_classes import NUM_LOGITS


def vae_params(factor: int = 4, temporal: int = 1) -> VAEParams:
    return VAEParams(
        spatial_factor=factor,
        temporal_factor=temporal,
        latent_channels=3,
        base_channels=8,
        num_res_blocks=1,
    )


def make_vae(factor: int = 4, has_masks: bool = True, temporal: int = 1) -> VAE:
    """A VAE whose layers that start at zero are random too, so that every part of it has a say."""
    torch.manual_seed(0)
    network = VAE(vae_params(factor, temporal), has_masks)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


CODECS: dict[str, list[Pixel | VAE]] = {"pixel": [Pixel()], "vae": [make_vae(2), make_vae(4), make_vae(8)]}
every_codec = pytest.mark.parametrize(
    "codec", [pytest.param(c, id=f"{name}-{c.factor}") for name, codecs in CODECS.items() for c in codecs]
)
every_clip_codec = pytest.mark.parametrize(
    "codec",
    [
        pytest.param(make_vae(factor, temporal=f), id=f"vae-{factor}-{f}")
        for factor, f in ((2, 2), (4, 2), (4, 4), (8, 4))
    ],
)


def clip_of(batch: int, frames: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 2 * torch.rand((batch, 3, frames, height, width), generator=generator) - 1


def test_every_codec_that_params_can_name_is_tested_here():
    assert set(CODECS) == set(get_args(CodecParams.model_fields["name"].annotation))


@every_codec
@pytest.mark.parametrize(
    ("batch", "frames", "height", "width"), [(1, 1, 8, 8), (2, 3, 16, 40), (1, 5, 24, 8)]
)
@torch.no_grad()
def test_any_clip_encodes_and_decodes_to_its_own_shape(codec, batch, frames, height, width):
    clip = clip_of(batch, frames, height, width)
    assert codec.temporal_factor == 1
    latents = codec.encode(clip)
    assert latents.shape == (batch, codec.channels, frames, height // codec.factor, width // codec.factor)
    decoded = codec.decode(3 * latents)
    assert decoded.shape == clip.shape
    assert decoded.abs().max() <= 1
    assert latents.dtype == decoded.dtype == torch.float32


@every_codec
@torch.no_grad()
def test_each_frame_is_encoded_and_decoded_as_if_it_were_alone(codec):
    clip = clip_of(2, 4, 16, 24)
    latents = codec.encode(clip)
    decoded = codec.decode(latents)
    for frame in range(4):
        alone = codec.encode(clip[:, :, frame : frame + 1])
        torch.testing.assert_close(alone[:, :, 0], latents[:, :, frame], atol=1e-5, rtol=0)
        torch.testing.assert_close(codec.decode(alone)[:, :, 0], decoded[:, :, frame], atol=1e-5, rtol=0)


@every_codec
@torch.no_grad()
def test_a_change_in_one_frame_changes_no_other_latent(codec):
    clip = clip_of(1, 3, 16, 24)
    changed = clip.clone()
    changed[:, :, 1] *= -1
    difference = (codec.encode(changed) - codec.encode(clip)).abs().amax(dim=(0, 1, 3, 4))
    assert difference[1] > 1e-3
    assert difference[[0, 2]].max() < 1e-5


@pytest.mark.parametrize("codec", [Pixel(), make_vae(has_masks=False)], ids=["pixel", "vae"])
def test_masks_are_refused_where_no_head_was_trained_for_them(codec):
    assert not codec.has_masks
    with pytest.raises(ValueError, match="segment.codec_vote"):
        codec.mask_logits(codec.encode(clip_of(1, 1, 8, 8)))


@torch.no_grad()
def test_a_trained_mask_head_gives_factor_logits_at_the_size_of_the_frames():
    codec = make_vae()
    assert codec.mask_logits(codec.encode(clip_of(2, 3, 16, 24))).shape == (2, NUM_LOGITS, 3, 16, 24)


@pytest.mark.parametrize(("height", "width"), [(18, 16), (16, 18)])
def test_frames_that_do_not_divide_into_latent_positions_are_refused(height, width):
    with pytest.raises(ValueError, match=f"vae.spatial_factor=4, got {height}x{width}"):
        make_vae().encode(clip_of(1, 1, height, width))


def test_pixel_latents_are_the_pixels():
    clip = clip_of(1, 2, 7, 5)
    assert torch.equal(Pixel().encode(clip), clip)
    assert torch.equal(Pixel().decode(Pixel().encode(clip)), clip)


@pytest.mark.parametrize(
    ("codec", "config"),
    [
        (make_vae(), CodecConfig(name="vae", vae=vae_params(), has_masks=True)),
        (make_vae(has_masks=False), CodecConfig(name="vae", vae=vae_params(), has_masks=False)),
        (make_vae(temporal=4), CodecConfig(name="vae", vae=vae_params(temporal=4), has_masks=True)),
        (Pixel(), CodecConfig(name="pixel", vae=None, has_masks=False)),
    ],
    ids=["vae", "vae-without-masks", "vae-of-clips", "pixel"],
)
@torch.no_grad()
def test_a_saved_codec_is_rebuilt_from_its_folder_alone(tmp_path, codec, config):
    save_model(tmp_path / "codec", codec if isinstance(codec, VAE) else None, config)
    again = load_codec(tmp_path / "codec")
    clip = clip_of(1, 1 + again.temporal_factor, 8, 16)
    assert torch.equal(again.encode(clip), codec.encode(clip))
    assert torch.equal(again.decode(again.encode(clip)), codec.decode(codec.encode(clip)))
    assert (again.has_masks, again.training) == (config.has_masks, isinstance(codec, Pixel))


def test_equal_codecs_are_saved_as_equal_bytes(tmp_path):
    config = CodecConfig(name="vae", vae=vae_params(), has_masks=True)
    for name in ("a", "b"):
        save_model(tmp_path / name, make_vae(), config)
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_folder_without_a_model_is_told_with_what_makes_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="codec: no model there; make it with `dvc repro`"):
        load_codec(tmp_path / "codec")


def test_a_config_of_another_version_is_told_in_one_line(tmp_path):
    folder: Path = tmp_path / "codec"
    save_model(folder, None, CodecConfig(name="pixel", vae=None, has_masks=False))
    (folder / "config.json").write_text(json.dumps({"name": "pixel", "vae": None}))
    with pytest.raises(ValueError, match="has_masks: Field required.*dvc repro --force") as error:
        load_codec(folder)
    assert "\n" not in str(error.value)


# --- Codecs that shorten time ----------------------------------------------------------------------------


def groups(codec: VAE, frames: int) -> list[slice]:
    """The frames of each latent frame: the first one alone, then a temporal factor of them at a time."""
    f = codec.temporal_factor
    return [slice(0, 1)] + [slice(start, start + f) for start in range(1, frames, f)]


@every_clip_codec
@pytest.mark.parametrize("later", [0, 1, 3])
@torch.no_grad()
def test_one_frame_and_each_further_group_of_frames_is_a_latent_frame(codec, later):
    frames = 1 + later * codec.temporal_factor
    clip = clip_of(2, frames, 16, 24)
    latents = codec.encode(clip)
    assert latents.shape == (2, 3, 1 + later, 16 // codec.factor, 24 // codec.factor)
    assert codec.decode(3 * latents).shape == clip.shape
    assert codec.mask_logits(latents).shape == (2, NUM_LOGITS, frames, 16, 24)
    assert codec.decode(9 * latents).abs().max() <= 1
    assert latents.dtype == codec.decode(latents).dtype == codec.mask_logits(latents).dtype == torch.float32


@every_clip_codec
@torch.no_grad()
def test_a_latent_frame_depends_on_its_frames_and_the_past_and_never_on_what_comes_later(codec):
    frames = 1 + 3 * codec.temporal_factor
    clip = clip_of(1, frames, 16, 24)
    latents = codec.encode(clip)
    for latent, group in enumerate(groups(codec, frames)):
        for frame in range(frames)[group]:
            changed = clip.clone()
            changed[:, :, frame] *= -1
            difference = (codec.encode(changed) - latents).abs().amax(dim=(0, 1, 3, 4))
            assert not difference[:latent].gt(1e-5).any()
            assert difference[latent] > 1e-3
            if 0 < latent < 3:
                assert difference[latent + 1] > 1e-4  # the past is of use


@every_clip_codec
@torch.no_grad()
def test_a_latent_frame_changes_its_own_frames_and_none_before_them(codec):
    frames = 1 + 3 * codec.temporal_factor
    latents = codec.encode(clip_of(1, frames, 16, 24))
    for latent, group in enumerate(groups(codec, frames)):
        changed = latents.clone()
        changed[:, :, latent] += 1
        for part in (codec.decode, codec.mask_logits):
            difference = (part(changed) - part(latents)).abs().amax(dim=(0, 1, 3, 4))
            assert not difference[: group.start].gt(1e-5).any()
            assert (difference[group] > 1e-3).all()


@every_clip_codec
@torch.no_grad()
def test_the_first_frames_of_a_clip_are_what_they_are_alone(codec):
    f = codec.temporal_factor
    clip = clip_of(1, 1 + 3 * f, 16, 24)
    latents = codec.encode(clip)
    for latent in range(3):
        alone = codec.encode(clip[:, :, : 1 + latent * f])
        torch.testing.assert_close(alone, latents[:, :, : 1 + latent], atol=1e-5, rtol=0)
        for part in (codec.decode, codec.mask_logits):
            known = part(latents)[:, :, : 1 + latent * f]
            torch.testing.assert_close(part(alone), known, atol=1e-4, rtol=0)


@every_clip_codec
@torch.no_grad()
def test_a_clip_that_stands_still_has_one_latent_frame_again_and_again(codec):
    """The first frame stands before itself: it is no start out of the dark."""
    still = clip_of(2, 1, 16, 24).expand(-1, -1, 1 + 3 * codec.temporal_factor, -1, -1)
    latents = codec.encode(still)
    torch.testing.assert_close(latents, latents[:, :, :1].expand_as(latents), atol=1e-5, rtol=0)


@every_clip_codec
@torch.no_grad()
def test_the_frames_that_share_a_latent_frame_are_told_apart(codec):
    """Also where the past cannot tell them apart, as all latent frames are the same."""
    latents = codec.encode(clip_of(1, 1, 16, 24)).expand(-1, -1, 8, -1, -1)
    last = codec.decode(latents)[:, :, -codec.temporal_factor :]
    assert (last[:, :, 1:] - last[:, :, :-1]).abs().amax(dim=(0, 1, 3, 4)).min() > 1e-3


@every_clip_codec
@torch.no_grad()
def test_clips_of_a_batch_do_not_see_each_other(codec):
    clips = clip_of(3, 1 + 2 * codec.temporal_factor, 16, 24)
    latents = codec.encode(clips)
    for i in range(3):
        alone = codec.encode(clips[i : i + 1])
        torch.testing.assert_close(alone, latents[i : i + 1], atol=1e-5, rtol=0)
        for part in (codec.decode, codec.mask_logits):
            torch.testing.assert_close(part(alone), part(latents)[i : i + 1], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("temporal", "frames", "fits"),
    [(2, 2, "1 or 3"), (2, 22, "21 or 23"), (4, 4, "1 or 5"), (4, 7, "5 or 9")],
)
def test_a_clip_that_does_not_divide_into_latent_frames_is_refused_in_one_line(temporal, frames, fits):
    with pytest.raises(
        ValueError, match=f"vae.temporal_factor={temporal} .*got {frames}; give {fits}"
    ) as error:
        make_vae(temporal=temporal).encode(clip_of(1, frames, 8, 8))
    assert "\n" not in str(error.value)


def test_a_vae_of_frames_has_nothing_that_looks_along_time():
    """Nor has its depth in time a say in how its other weights start."""
    frames, clips = (VAE(vae_params(temporal=f), has_masks=True) for f in (1, 2))
    assert not any("time" in name for name in frames.state_dict())
    assert {name for name in clips.state_dict() if "time" not in name} == set(frames.state_dict())


@pytest.mark.parametrize("temporal", [1, 2, 4])
def test_a_vae_learns_in_all_its_parts(temporal):
    network = make_vae(temporal=temporal)
    clips = clip_of(2, 1 + 2 * temporal, 16, 16)
    clip_losses(network, clips, labelled=True, seed=0)["loss"].backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def clip_losses(network: VAE, clips: Tensor, labelled: bool, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    batch, _, frames, height, width = clips.shape
    latent_frames = 1 + (frames - 1) // network.temporal_factor
    noise = torch.randn(
        (batch, network.channels, latent_frames, height // 4, width // 4), generator=generator
    )
    masks = torch.randint(0, 49, (batch, frames, height, width), generator=generator, dtype=torch.uint8)
    return vae_loss(network, clips, masks, torch.full((batch,), float(labelled)), noise, 1e-6, 5.0, 0.1)


def waves(frames: int) -> Tensor:
    """Four clips of coloured waves, (4, 3, T, 8, 8), each of which runs its own way."""
    y, x = torch.meshgrid(torch.arange(8) / 8, torch.arange(8) / 8, indexing="ij")
    along = torch.stack([x, y, x + y, x - y])[:, None, None]
    speed = torch.tensor([1, -1, 2, -2])[:, None, None, None, None] / (2 * frames)
    rope = along + speed * torch.arange(frames)[:, None, None] + torch.arange(3)[:, None, None, None] / 3
    return 0.8 * torch.sin(2 * math.pi * rope)


@pytest.mark.parametrize("temporal", [2, 4])
def test_four_clips_are_learnt_by_heart(temporal):
    """To a small part of what moves in them: latents of the mean of each clip could not do it."""
    clips = waves(1 + 2 * temporal)
    still = (clips - clips.mean(dim=2, keepdim=True)).square().mean().item()
    torch.manual_seed(0)
    wider = {"base_channels": 16, "latent_channels": 8}
    network = VAE(vae_params(temporal=temporal).model_copy(update=wider), has_masks=True)
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
    assert error() < still / 20


def test_every_frame_of_a_clip_weighs_in_the_loss_as_if_it_were_alone():
    """A clip of three frames is three samples: neither the error, nor its weights, nor the masks look on."""
    network, noise = make_vae(), torch.randn((1, 3, 3, 2, 2), generator=torch.Generator().manual_seed(2))
    clip = clip_of(1, 3, 8, 8) * torch.tensor([0.0, 0.1, 1.0])[:, None, None]  # of different detail
    masks = torch.tensor([0, 7, 48], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 8, 8)

    def loss(clip: Tensor, masks: Tensor, noise: Tensor) -> dict[str, Tensor]:
        return vae_loss(network, clip, masks, torch.ones(len(clip)), noise, 0.1, 5.0, 0.5)

    together = loss(clip, masks, noise)
    samples = loss(*(part.transpose(0, axis) for part, axis in ((clip, 2), (masks, 1), (noise, 2))))
    torch.testing.assert_close(together, samples)
    alone = [loss(clip[:, :, t : t + 1], masks[:, t : t + 1], noise[:, :, t : t + 1]) for t in range(3)]
    for part, value in together.items():
        torch.testing.assert_close(value, torch.stack([losses[part] for losses in alone]).mean())


def test_single_frames_are_refused_to_a_codec_that_joins_them(tmp_path):
    for temporal in (1, 2, 4):
        config = CodecConfig(name="vae", vae=vae_params(temporal=temporal), has_masks=True)
        save_model(tmp_path / str(temporal), make_vae(temporal=temporal), config)
        assert load_codec(tmp_path / str(temporal)).temporal_factor == temporal
    save_model(tmp_path / "pixel", None, CodecConfig(name="pixel", vae=None, has_masks=False))
    for name in ("1", "pixel"):
        assert load_frame_codec(tmp_path / name).temporal_factor == 1
    for temporal in (2, 4):
        line = f"vae.temporal_factor={temporal}: single frames are needed here.*set it to 1$"
        with pytest.raises(ValueError, match=line) as error:
            load_frame_codec(tmp_path / str(temporal))
        assert "\n" not in str(error.value)


# --- The VAE's loss --------------------------------------------------------------------------------------


def test_the_divergence_of_a_standard_normal_is_zero_and_that_of_others_is_known():
    zero = torch.zeros(2, 3)
    assert kl_divergence(zero, zero) == 0
    assert kl_divergence(zero + 2, zero).item() == pytest.approx(2)  # mean^2 / 2
    assert kl_divergence(zero, zero + math.log(4)).item() == pytest.approx((4 - 1 - math.log(4)) / 2)


def test_samples_have_the_posterior_s_mean_and_spread():
    noise = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    sample = reparametrise(torch.full((20_000,), 3.0), torch.full((20_000,), math.log(0.25)), noise)
    assert sample.mean().item() == pytest.approx(3, abs=0.02)
    assert sample.std().item() == pytest.approx(0.5, abs=0.01)


def test_a_pixel_weighs_more_where_it_differs_from_its_surroundings():
    frames = torch.zeros(1, 3, 21, 21)
    assert torch.equal(detail_weight(frames, 5.0), torch.ones(1, 1, 21, 21))
    frames[0, 1, 10, 10] = 1
    weight = detail_weight(frames, 5.0)[0, 0]
    assert weight[10, 10] == 5
    assert weight[0, 0] == 1
    assert 1 < weight[10, 12] < 1.5
    assert torch.equal(detail_weight(frames, 1.0), torch.ones(1, 1, 21, 21))


def loss_of(masks: Tensor, weight: list[float], mask_weight: float = 0.5) -> dict[str, Tensor]:
    noise = torch.randn((2, 3, 1, 2, 2), generator=torch.Generator().manual_seed(2))
    clips = clip_of(2, 1, 8, 8)
    return vae_loss(make_vae(), clips, masks, torch.tensor(weight), noise, 0.1, 5.0, mask_weight)


def test_masks_of_unlabelled_frames_are_not_learnt_from():
    masks = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    nonsense = masks.clone()
    nonsense[1] = 48
    assert loss_of(masks, [2.0, 0.0])["loss"] == loss_of(nonsense, [2.0, 0.0])["loss"]
    assert loss_of(masks, [1.0, 1.0])["loss"] != loss_of(nonsense, [1.0, 1.0])["loss"]
    assert loss_of(nonsense, [0.0, 0.0])["mask"] == 0


def test_the_loss_is_the_weighted_sum_of_its_parts():
    losses = loss_of(torch.full((2, 1, 8, 8), 7, dtype=torch.uint8), [1.0, 1.0])
    total = losses["l1"] + 0.1 * losses["kl"] + 0.5 * losses["mask"]
    torch.testing.assert_close(losses["loss"], total)


def test_without_weight_the_mask_head_is_left_alone():
    assert "mask" not in loss_of(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), [1.0, 1.0], mask_weight=0.0)


@pytest.mark.parametrize("size", [1, 2])
@torch.no_grad()
def test_the_losses_of_a_batch_are_the_means_of_those_of_its_parts(size):
    """Also where the parts do not have as many clips with masks as each other."""
    network, clips = make_vae(temporal=2).double(), clip_of(4, 3, 8, 8).double()
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn((4, 3, 2, 2, 2), generator=generator, dtype=torch.float64)
    masks = torch.randint(0, 49, (4, 3, 8, 8), generator=generator, dtype=torch.uint8)
    masks[1, 1], weight = 0, torch.tensor([4 / 3, 4 / 3, 4 / 3, 0])

    def losses(rows: slice) -> dict[str, Tensor]:
        given = (clips[rows], masks[rows], weight[rows], noise[rows])
        return vae_loss(network, *given, kl_weight=0.1, detail=5.0, mask_weight=0.5)

    parts = [losses(slice(first, first + size)) for first in range(0, 4, size)]
    for name, value in losses(slice(0, 4)).items():
        mean = torch.stack([part[name] for part in parts]).mean()
        torch.testing.assert_close(mean, value, rtol=1e-6, atol=0)
