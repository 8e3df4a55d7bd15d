"""The contract of a codec, kept by every codec that params.yaml can name."""

import json
import math
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor

from vdp.models.codecs import load_codec
from vdp.models.codecs.params import CodecConfig, CodecParams, VaeParams
from vdp.models.codecs.pixel import Pixel
from vdp.models.codecs.vae import Vae, detail_weight, kl_divergence, reparametrise, vae_loss
from vdp.models.factors import NUM_LOGITS
from vdp.models.store import save_model


def vae_params(factor: int = 4) -> VaeParams:
    return VaeParams(spatial_factor=factor, latent_channels=3, base_channels=8, num_res_blocks=1)


def make_vae(factor: int = 4, has_masks: bool = True) -> Vae:
    """A VAE whose layers that start at zero are random too, so that every part of it has a say."""
    torch.manual_seed(0)
    network = Vae(vae_params(factor), has_masks)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


CODECS: dict[str, list[Pixel | Vae]] = {"pixel": [Pixel()], "vae": [make_vae(2), make_vae(4), make_vae(8)]}
every_codec = pytest.mark.parametrize(
    "codec", [pytest.param(c, id=f"{name}-{c.factor}") for name, codecs in CODECS.items() for c in codecs]
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
        (Pixel(), CodecConfig(name="pixel", vae=None, has_masks=False)),
    ],
    ids=["vae", "vae-without-masks", "pixel"],
)
@torch.no_grad()
def test_a_saved_codec_is_rebuilt_from_its_folder_alone(tmp_path, codec, config):
    save_model(tmp_path / "codec", codec if isinstance(codec, Vae) else None, config)
    again = load_codec(tmp_path / "codec")
    clip = clip_of(1, 2, 8, 16)
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


def loss_of(masks: Tensor, labelled: list[bool], mask_weight: float = 0.5) -> dict[str, Tensor]:
    frames = clip_of(2, 1, 8, 8)[:, :, 0]
    noise = torch.randn((2, 3, 2, 2), generator=torch.Generator().manual_seed(2))
    return vae_loss(make_vae(), frames, masks, torch.tensor(labelled), noise, 0.1, 5.0, mask_weight)


def test_masks_of_unlabelled_frames_are_not_learnt_from():
    masks = torch.zeros(2, 8, 8, dtype=torch.uint8)
    nonsense = masks.clone()
    nonsense[1] = 48
    assert loss_of(masks, [True, False])["loss"] == loss_of(nonsense, [True, False])["loss"]
    assert loss_of(masks, [True, True])["loss"] != loss_of(nonsense, [True, True])["loss"]


def test_the_loss_is_the_weighted_sum_of_its_parts():
    losses = loss_of(torch.full((2, 8, 8), 7, dtype=torch.uint8), [True, True])
    total = losses["l1"] + 0.1 * losses["kl"] + 0.5 * losses["mask"]
    torch.testing.assert_close(losses["loss"], total)


@pytest.mark.parametrize(("labelled", "weight"), [([False, False], 0.5), ([True, True], 0.0)])
def test_without_masks_or_their_weight_the_mask_head_is_left_alone(labelled, weight):
    assert "mask" not in loss_of(torch.zeros(2, 8, 8, dtype=torch.uint8), labelled, weight)
