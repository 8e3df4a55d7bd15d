import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vdp.core import device
from vdp.core.classes import NUM_CLASSES
from vdp.core.rng import BatchRng, whole_batch
from vdp.models.checkpoint import save_model
from vdp.models.codecs.params import VAEParams
from vdp.models.codecs.pixel import PixelCodec
from vdp.models.codecs.vae import VAE
from vdp.models.factored_classes import NUM_LOGITS, factor_loss
from vdp.models.segmenters.factory import load_segmenter
from vdp.models.segmenters.masks import MaskPredictor, class_probs, decide, seen_classes
from vdp.models.segmenters.params import SegmenterConfig, SegmenterParams, SegmentParams
from vdp.models.segmenters.round_trip import round_trip
from vdp.models.segmenters.unetpp import UNetPlusPlus

CPU = torch.device("cpu")


def segmenter_params(upsample: int = 1) -> SegmenterParams:
    return SegmenterParams(
        encoder="resnet18", encoder_depth=3, decoder_channels=[16, 8, 8], upsample=upsample
    )


def make_segmenter(upsample: int = 1) -> UNetPlusPlus:
    torch.manual_seed(0)
    return UNetPlusPlus(segmenter_params(upsample)).eval()


def frames_of(batch: int, height: int, width: int, seed: int = 0) -> Tensor:
    return 2 * torch.rand((batch, 3, height, width), generator=torch.Generator().manual_seed(seed)) - 1


def one_pixel(probs: dict[int, float]) -> Tensor:
    """Class probabilities of one pixel, (1, 49, 1, 1)."""
    values = torch.zeros(1, NUM_CLASSES, 1, 1)
    for number, prob in probs.items():
        values[0, number] = prob
    return values


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers on a machine whose CPU computes in bf16."""
    monkeypatch.setattr(device, "BF16_FLAGS", set())


# --- UNet++ ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upsample", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(16, 24), (17, 23), (8, 40), (5, 3)])
@torch.no_grad()
def test_frames_of_any_height_and_width_get_a_logit_for_each_pixel_and_factor(height, width, upsample):
    logits = make_segmenter(upsample)(frames_of(2, height, width))
    assert logits.shape == (2, NUM_LOGITS, height, width)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize(
    ("encoder", "near"), [("resnet81", "resnet18"), ("tu-no_such_net", "take the prefix tu-")]
)
def test_an_encoder_that_the_library_does_not_have_is_refused_with_some_that_it_has(encoder, near):
    params = segmenter_params().model_copy(update={"encoder": encoder})
    with pytest.raises(ValueError, match=f"segmenter.encoder={encoder} is not an encoder.*{near}"):
        UNetPlusPlus(params)


@torch.no_grad()
def test_a_saved_segmenter_is_rebuilt_from_its_folder_alone(tmp_path):
    network = make_segmenter()
    save_model(tmp_path / "segmenter", network, SegmenterConfig(segmenter=segmenter_params()))
    again = load_segmenter(tmp_path / "segmenter")
    frames = frames_of(1, 16, 16)
    assert torch.equal(again(frames), network(frames))
    assert not again.training


# --- From probabilities to masks -------------------------------------------------------------------------


def test_the_likeliest_object_is_named_where_objects_together_reach_the_threshold():
    probs = one_pixel({0: 0.55, 7: 0.25, 12: 0.20})
    assert decide(probs, 0.44, None).item() == 7  # although the background is likelier than any object
    assert decide(probs, 0.46, None).item() == 0


def test_at_a_threshold_of_one_half_the_mask_of_sure_pixels_is_the_argmax():
    logits = torch.randn((2, NUM_CLASSES, 6, 7), generator=torch.Generator().manual_seed(0))
    probs = (20 * logits).softmax(dim=1)
    sure = probs.amax(dim=1) > 0.9
    assert torch.equal(decide(probs, 0.5, None)[sure].long(), probs.argmax(dim=1)[sure])


def test_classes_that_are_not_allowed_are_neither_named_nor_counted():
    probs = one_pixel({0: 0.2, 3: 0.5, 4: 0.3})
    allowed = torch.zeros(1, NUM_CLASSES, dtype=torch.bool)
    allowed[0, [0, 4]] = True
    assert decide(probs, 0.25, allowed).item() == 4
    assert decide(probs, 0.4, allowed).item() == 0
    allowed[0, 4] = False
    assert decide(probs, 0.01, allowed).item() == 0


def test_each_clip_of_a_batch_has_its_own_allowed_classes():
    probs = one_pixel({0: 0.1, 3: 0.5, 4: 0.4}).expand(2, -1, -1, -1)
    allowed = torch.ones(2, NUM_CLASSES, dtype=torch.bool)
    allowed[1, 3] = False
    assert decide(probs, 0.3, allowed).flatten().tolist() == [3, 4]


def test_masks_are_bytes():
    assert decide(one_pixel({48: 1.0}), 0.5, None).dtype == torch.uint8


def test_a_class_is_seen_where_one_mask_has_enough_of_its_pixels():
    masks = torch.zeros(2, 3, 4, 5, dtype=torch.uint8)
    masks[0, 1, 0, :3] = 7  # three pixels in one frame
    masks[0, :, 3, :2] = 9  # two in each of three frames: six in all, and never three
    masks[1, 0, :, :] = 11  # nothing but this one in one frame
    masks[1, 1:, :, :] = 12
    seen = seen_classes(masks, 3)
    assert seen.shape == (2, NUM_CLASSES)
    assert seen[0].nonzero().flatten().tolist() == [0, 7]
    assert seen[1].nonzero().flatten().tolist() == [0, 11, 12]  # the background counts though it is not there
    assert seen_classes(masks, 2)[0].nonzero().flatten().tolist() == [0, 7, 9]


@torch.no_grad()
def test_with_flips_a_mirrored_frame_has_the_mirrored_probabilities():
    network, frames = make_segmenter(), frames_of(2, 16, 21)
    plain = class_probs(network, frames, flip=False)
    flipped = class_probs(network, frames, flip=True)
    mirrored = class_probs(network, frames.flip(-1), flip=True)
    torch.testing.assert_close(mirrored, flipped.flip(-1))
    torch.testing.assert_close(flipped.sum(dim=1), torch.ones(2, 16, 21))
    assert (plain - flipped).abs().max() > 1e-4  # the network alone is not symmetric


# --- Masks of a clip -------------------------------------------------------------------------------------


def make_codec(has_masks: bool = True) -> VAE:
    torch.manual_seed(1)
    params = VAEParams(
        spatial_factor=4, temporal_factor=1, latent_channels=3, base_channels=8, num_res_blocks=1
    )
    return VAE(params, has_masks).eval()


def segment_params(
    vote: float = 0.5, threshold: float = 0.4, seen_only: bool = True, seen_pixels: int = 1
) -> SegmentParams:
    return SegmentParams(
        flip_tta=True,
        codec_vote=vote,
        object_threshold=threshold,
        seen_classes_only=seen_only,
        seen_pixels=seen_pixels,
        batch_frames=2,
    )


def uint8_frames(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 24, 3), dtype=np.uint8)


def masks_of(params: SegmentParams, truth: np.ndarray | None) -> dict[str, np.ndarray]:
    maker = MaskPredictor(make_segmenter(), make_codec(), params, CPU)
    latents = np.random.default_rng(0).standard_normal((3, 3, 4, 6)).astype(np.float16)
    return maker.clip_masks(uint8_frames(5, 1), uint8_frames(3, 2), latents, truth)


def test_a_vote_of_a_codec_without_a_mask_head_is_refused():
    for codec in (PixelCodec(), make_codec(has_masks=False)):
        with pytest.raises(ValueError, match="segment.codec_vote=0.5: this codec has no trained mask head"):
            MaskPredictor(make_segmenter(), codec, segment_params(), CPU)
        MaskPredictor(make_segmenter(), codec, segment_params(vote=0.0), CPU)


def test_a_clip_gets_the_masks_of_its_known_predicted_and_true_frames():
    masks = masks_of(segment_params(), uint8_frames(1, 3)[0])
    assert {kind: mask.shape for kind, mask in masks.items()} == {
        "known": (5, 16, 24),
        "prediction": (16, 24),
        "truth": (16, 24),
        "truth_unetpp": (16, 24),
        "round_trip": (16, 24),
    }
    assert all(mask.dtype == np.uint8 and mask.max() < NUM_CLASSES for mask in masks.values())


def test_of_the_true_frame_there_is_a_mask_by_unetpp_alone_too():
    voted, alone = (masks_of(segment_params(vote=vote), uint8_frames(1, 3)[0]) for vote in (0.9, 0.0))
    np.testing.assert_array_equal(voted["truth_unetpp"], alone["truth"])
    assert not np.array_equal(voted["truth_unetpp"], voted["truth"])


def test_without_a_true_frame_its_masks_are_empty_and_the_others_the_same():
    masks, without = masks_of(segment_params(), uint8_frames(1, 3)[0]), masks_of(segment_params(), None)
    assert not any(without[kind].any() for kind in ("truth", "truth_unetpp", "round_trip"))
    for kind in ("known", "prediction"):
        np.testing.assert_array_equal(masks[kind], without[kind])


def test_the_predicted_mask_keeps_to_the_classes_of_the_known_masks_where_asked():
    free = masks_of(segment_params(threshold=0.01, seen_only=False, seen_pixels=30), None)
    kept = masks_of(segment_params(threshold=0.01, seen_pixels=30), None)
    known = kept["known"].reshape(5, -1)
    seen = {0} | {c for c in range(NUM_CLASSES) if (known == c).sum(axis=1).max() >= 30}
    for kind in ("prediction", "known"):  # one rule for both: the copy of a known mask is the baseline
        assert set(np.unique(kept[kind]).tolist()) <= seen
    assert not set(np.unique(free["prediction"]).tolist()) <= seen  # else the test says nothing


@pytest.mark.parametrize("vote", [0.0, 1.0])
def test_a_full_vote_is_the_codec_s_alone_and_none_is_the_segmenter_s(vote):
    """What has no vote may be broken: the masks do not change."""
    codec, segmenter = make_codec(), make_segmenter()
    frames, latents = uint8_frames(2, 1), torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    maker = MaskPredictor(segmenter, codec, segment_params(), CPU)
    before = maker.probs(frames, latents, vote)
    for parameter in (codec if vote == 0 else segmenter).parameters():
        torch.nn.init.constant_(parameter, 0.01)
    assert torch.equal(maker.probs(frames, latents, vote), before)
    assert not torch.equal(maker.probs(frames, latents, 0.5), before)


def test_frames_are_taken_from_read_only_memory_maps_without_a_warning(tmp_path):
    path: Path = tmp_path / "frames.npy"
    np.save(path, uint8_frames(3, 4))
    frames = np.load(path, mmap_mode="r")
    maker = MaskPredictor(make_segmenter(), make_codec(), segment_params(), CPU)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoded = maker.encode(frames)
        assert maker.probs(frames, encoded, 0.5).shape == (3, NUM_CLASSES, 16, 24)
        maker.clip_masks(frames, frames[:2], np.zeros((2, 3, 4, 6), np.float16), frames[0])


def test_decoded_frames_are_bytes_and_pixel_latents_come_back_as_they_went_in():
    frames = uint8_frames(2, 5)
    maker = MaskPredictor(make_segmenter(), PixelCodec(), segment_params(vote=0.0), CPU)
    np.testing.assert_array_equal(maker.decode(maker.encode(frames)), frames)


# --- Round trips for training ----------------------------------------------------------------------------


def trip(share: float, noise: float = 0.5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Frames, and the same frames with a share of them passed through a codec."""
    frames = frames_of(6, 16, 24)
    batch_rng = whole_batch(torch.Generator().manual_seed(seed), 6)
    return frames, round_trip(make_codec(), frames, share, noise, batch_rng)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.5, 3), (1.0, 6)])
def test_the_share_of_frames_that_pass_through_the_codec_is_the_one_asked_for(share, count):
    frames, passed = trip(share)
    changed = (frames != passed).flatten(1).any(dim=1)
    assert changed.tolist() == [True] * count + [False] * (6 - count)
    assert passed.shape == frames.shape
    assert not passed.requires_grad


def test_without_noise_a_round_trip_is_the_codec_s():
    frames, passed = trip(1.0, noise=0.0)
    codec = make_codec()
    with torch.no_grad():
        torch.testing.assert_close(passed, codec.decode(codec.encode(frames[:, :, None]))[:, :, 0])


def test_the_noise_of_round_trips_comes_from_the_generator_alone():
    assert torch.equal(trip(0.5)[1], trip(0.5)[1])
    assert not torch.equal(trip(0.5)[1], trip(0.5, seed=1)[1])


@torch.no_grad()
def test_the_noise_of_a_frame_is_at_most_as_strong_as_asked_for_in_units_of_its_own_latents():
    """Of a codec that changes nothing; frames and their channels are of another spread each."""
    frames = 0.5 * frames_of(40, 16, 24) * torch.linspace(0.05, 1, 40)[:, None, None, None]
    frames = frames * torch.tensor([1.0, 0.1, 0.4])[:, None, None]
    passed = round_trip(PixelCodec(), frames, 1.0, 0.2, whole_batch(torch.Generator().manual_seed(0), 40))
    strength = (passed - frames).std(dim=(2, 3)) / frames.std(dim=(2, 3))
    torch.testing.assert_close(strength, strength[:, :1].expand(-1, 3), rtol=0.25, atol=0)
    assert 0.19 < strength.max() < 0.22 and strength.min() < 0.02
    assert strength[:, 0].mean().item() == pytest.approx(0.1, abs=0.03)


@torch.no_grad()
def test_a_frame_of_one_pixel_goes_through_the_codec_without_noise():
    frames = frames_of(2, 1, 1)
    assert torch.equal(round_trip(PixelCodec(), frames, 1.0, 0.5, whole_batch(torch.Generator(), 2)), frames)


@pytest.mark.parametrize("size", [1, 2])
@torch.no_grad()
def test_the_loss_of_a_batch_is_the_mean_of_those_of_its_parts(size):
    """Three of four frames pass through the codec: some of a part, all or none."""
    frames, segmenter, codec = frames_of(4, 16, 24), make_segmenter(), make_codec()
    masks = torch.zeros(4, 16, 24, dtype=torch.uint8)
    masks[1:, 3:9, 5:20] = torch.randint(
        1, 49, (3, 6, 15), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )

    def shown(rows: range) -> tuple[Tensor, Tensor]:
        taken, generator = slice(rows.start, rows.stop), torch.Generator().manual_seed(0)
        seen = round_trip(codec, frames[taken], 0.75, 0.5, BatchRng(generator, rows, 4))
        drawn_to = torch.rand(
            1, generator=generator
        )  # where the generator stands does not depend on the part
        loss = factor_loss(segmenter(seen), masks[taken]).mean()
        return torch.cat([loss[None], drawn_to]), seen

    parts = [shown(range(first, first + size)) for first in range(0, 4, size)]
    loss, seen = shown(range(4))
    torch.testing.assert_close(torch.stack([part for part, _ in parts]).mean(dim=0), loss)
    torch.testing.assert_close(torch.cat([frames for _, frames in parts]), seen, atol=1e-5, rtol=0)
    assert (seen != frames).flatten(1).any(dim=1).tolist() == [True, True, True, False]
