import warnings
from copy import deepcopy
from functools import cache
from typing import Literal

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from vdp.core import device
from vdp.core.classes import NUM_CLASSES
from vdp.core.errors import UserError
from vdp.core.pixels import to_pixels, to_uint8
from vdp.core.rng import BatchRng, whole_batch
from vdp.models.checkpoint import save_model
from vdp.models.classifiers.crops import CropClassifier
from vdp.models.classifiers.params import ClassifierParams
from vdp.models.codecs.params import VAEParams
from vdp.models.codecs.pixel import PixelCodec
from vdp.models.codecs.vae import VAE
from vdp.models.factored_classes import NUM_LOGITS, class_log_probs, factor_loss
from vdp.models.segmenters.encoder_weights import _repository, load_encoder
from vdp.models.segmenters.factory import load_segmenter
from vdp.models.segmenters.masks import MaskPredictor, class_probs, probs_to_masks, seen_classes
from vdp.models.segmenters.params import SegmenterConfig, SegmenterParams, SegmentParams
from vdp.models.segmenters.round_trip import round_trip
from vdp.models.segmenters.unetpp import MEAN, STD, UNetPlusPlus

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def segmenter_params(upsample: int = 1, size: tuple[int, int] | None = None) -> SegmenterParams:
    return SegmenterParams(
        encoder="resnet18",
        encoder_depth=3,
        decoder_channels=[16, 8, 8],
        upsample=upsample,
        size=size,
        weights=None,
    )


@cache
def make_segmenter(upsample: int = 1, size: tuple[int, int] | None = None) -> UNetPlusPlus:
    torch.manual_seed(0)
    return UNetPlusPlus(segmenter_params(upsample, size)).eval()


def random_frames(batch: int, height: int, width: int) -> Tensor:
    return 2 * torch.rand((batch, 3, height, width), generator=torch.Generator().manual_seed(0)) - 1


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable bf16 on CPUs that support it."""
    monkeypatch.setattr(device, "BF16_FLAGS", set())


# --- UNet++ ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upsample", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(16, 24), (17, 23), (8, 40), (5, 3)])
@torch.no_grad()
def test_logits_have_the_size_of_the_frames_for_any_height_and_width(height, width, upsample):
    logits = make_segmenter(upsample)(random_frames(2, height, width))
    assert logits.shape == (2, NUM_LOGITS, height, width)
    assert logits.dtype == torch.float32


@torch.no_grad()
def test_a_size_is_that_of_the_network_and_not_of_the_logits():
    """Frames without detail, whose size does not matter: those of the network's size have the same logits."""
    levels = torch.tensor([-0.5, 0.7])[:, None, None, None]
    small, large = (levels.expand(-1, 3, *size) for size in ((12, 20), (32, 48)))
    logits = make_segmenter(size=(32, 48))(small)
    assert logits.shape == (2, NUM_LOGITS, 12, 20)
    expected = F.interpolate(make_segmenter()(large), size=(12, 20), mode="bilinear", antialias=True)
    torch.testing.assert_close(logits, expected)
    assert (logits - make_segmenter()(small)).abs().max() > 1e-3


def test_a_network_of_another_size_trains_in_bf16_on_the_cpu():
    """Round trips of a codec are bf16 frames under autocast."""
    network = make_segmenter(size=(32, 48)).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(random_frames(2, 12, 20).bfloat16())
    assert logits.shape == (2, NUM_LOGITS, 12, 20) and logits.dtype == torch.float32
    logits.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize(("encoder", "hint"), [("resnet81", "resnet18"), ("tu-no_such_net", "prefix tu-")])
def test_an_unknown_encoder_is_rejected_with_similar_names(encoder, hint):
    params = segmenter_params().model_copy(update={"encoder": encoder})
    with pytest.raises(ValueError, match=rf"segmenter\.encoder={encoder}: .*{hint}"):
        UNetPlusPlus(params)


@torch.no_grad()
def test_a_saved_segmenter_is_rebuilt_from_its_folder_alone(tmp_path):
    network = make_segmenter()
    save_model(tmp_path / "segmenter", network, SegmenterConfig(segmenter=segmenter_params()))
    assert "weights" not in (tmp_path / "segmenter/config.json").read_text()  # as in earlier versions
    loaded = load_segmenter(tmp_path / "segmenter")
    frames = random_frames(1, 16, 16)
    assert torch.equal(loaded(frames), network(frames))
    assert not loaded.training


# --- Weights of the encoder ------------------------------------------------------------------------------


def with_weights(weights: str, encoder: str = "resnet18") -> SegmenterParams:
    return segmenter_params().model_copy(update={"weights": weights, "encoder": encoder})


def encoder_state(encoder: str = "resnet18") -> dict[str, Tensor]:
    """Weights of a whole encoder, with the layers below the depth of the segmenter."""
    torch.manual_seed(5)
    return smp.encoders.get_encoder(encoder, depth=5 if encoder == "resnet18" else 3).state_dict()


FILES = {  # name of a file and its content
    "plain.safetensors": lambda state: state,
    "torchvision.pth": lambda state: state | {"fc.weight": torch.ones(3, 512)},
    "old.pth": lambda state: {n: value for n, value in state.items() if "num_batches" not in n},
    "nested.pth": lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
    "unet.pth": lambda state: {f"encoder.{n}": value for n, value in state.items()} | {"a": torch.ones(1)},
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_an_encoder_starts_with_the_weights_of_a_file(tmp_path, name):
    state, path = encoder_state(), tmp_path / name
    (save_file if path.suffix == ".safetensors" else torch.save)(FILES[name](state), path)
    params = with_weights(str(path))
    network = UNetPlusPlus(params)
    load_encoder(network, params)
    found = network.network.encoder.state_dict()
    assert 20 < len(found) < len(state)  # of a smaller depth
    assert all(torch.equal(value, state[key]) for key, value in found.items())


def test_weights_of_timm_have_names_without_the_encoder_s_prefix(tmp_path):
    state = encoder_state("tu-resnet10t")
    save_file(
        {name.removeprefix("model."): value for name, value in state.items()}, tmp_path / "a.safetensors"
    )
    params = with_weights(str(tmp_path / "a.safetensors"), "tu-resnet10t")
    network = UNetPlusPlus(params)
    load_encoder(network, params)
    found = network.network.encoder.state_dict()
    assert found and all(torch.equal(value, state[name]) for name, value in found.items())


def test_weights_of_another_encoder_and_damaged_files_are_refused_in_one_line(tmp_path):
    path = tmp_path / "weights.pth"
    params = with_weights(str(path))
    network = UNetPlusPlus(params)
    with pytest.raises(UserError, match=r"segmenter\.weights=.*\.pth: no such file; expected imagenet"):
        load_encoder(network, params)
    torch.save(encoder_state() | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, path)
    with pytest.raises(UserError, match=r"resnet18, which are missing or of another shape: conv1\.weight;"):
        load_encoder(network, params)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"weights\.pth: cannot be read \(.*\); copy it again"):
        load_encoder(network, params)


def test_a_missing_network_is_reported_in_one_line(monkeypatch):
    """The hub's client is offline; ImageNet's weights are not in its cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", "/nowhere")
    params = with_weights("imagenet")
    with pytest.raises(UserError) as error:
        load_encoder(UNetPlusPlus(params), params)
    text = str(error.value)
    assert text.startswith("segmenter.weights=imagenet: smp-hub/resnet18.imagenet cannot be downloaded (")
    assert "run once with a network, or name its file model.safetensors" in text and "\n" not in text


def test_an_encoder_without_imagenet_weights_is_refused():
    params = with_weights("imagenet", "tu-resnet14t")
    with pytest.raises(UserError, match="there are none of the encoder tu-resnet14t_nothing; name a file"):
        _repository("tu-resnet14t_nothing")
    assert _repository(params.encoder)[0].startswith("timm/")


@torch.no_grad()
def test_the_input_of_an_encoder_with_weights_is_that_of_imagenet(tmp_path):
    """Frames of ImageNet's mean colour enter as zeros; a saved network keeps that without the file."""
    params = with_weights("gone.pth")
    network = UNetPlusPlus(params).eval()
    mean = 2 * torch.tensor(MEAN)[None, :, None, None] - 1
    entered: list[Tensor] = []
    network.network.encoder.register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    for shift in (0.0, 1.0):
        network(mean + 2 * shift * torch.tensor(STD)[None, :, None, None] + torch.zeros(1, 3, 16, 16))
    assert entered[0].abs().max() < 1e-6
    torch.testing.assert_close(entered[1], torch.ones(1, 3, 16, 16))
    save_model(tmp_path / "segmenter", network, SegmenterConfig(segmenter=params))
    frames = random_frames(1, 16, 16)
    assert torch.equal(load_segmenter(tmp_path / "segmenter")(frames), network(frames))


# --- The backbone of the classifier as encoder -----------------------------------------------------------


def backbone_params(encoder: str = "conv8") -> SegmenterParams:
    return SegmenterParams(
        encoder=encoder, encoder_depth=2, decoder_channels=[8, 8], upsample=1, size=None, weights=None
    )


@pytest.mark.parametrize(("height", "width"), [(16, 24), (17, 23), (5, 3)])
@torch.no_grad()
def test_a_backbone_segments_frames_of_any_height_and_width(height, width):
    network = UNetPlusPlus(backbone_params()).eval()
    assert network(random_frames(2, height, width)).shape == (2, NUM_LOGITS, height, width)


@torch.no_grad()
def test_the_encoder_starts_with_the_features_of_the_classifier():
    classifier = CropClassifier(ClassifierParams(crop=16, crop_scale=0.5, base_channels=8)).eval()
    network, frames = UNetPlusPlus(backbone_params()).eval(), random_frames(2, 16, 16)
    assert not torch.equal(network.network.encoder(frames)[-1], classifier.body(frames))
    network.load_backbone(classifier.body)
    features = network.network.encoder(frames)
    torch.testing.assert_close(features[-1], classifier.body(frames))
    torch.testing.assert_close(features[1], torch.nn.Sequential(*list(classifier.body)[:3])(frames))
    assert [tuple(x.shape[1:]) for x in features] == [(3, 16, 16), (16, 8, 8), (24, 4, 4)]


@torch.no_grad()
def test_backbones_of_two_widths_are_two_encoders():
    narrow, wide = UNetPlusPlus(backbone_params("conv8")), UNetPlusPlus(backbone_params("conv16"))
    assert narrow.network.encoder[0][0].out_channels == 8
    assert wide.network.encoder[0][0].out_channels == 16


def test_a_backbone_of_another_depth_is_rejected():
    with pytest.raises(ValueError, match=r"segmenter\.encoder_depth=3: expected 2 with the encoder conv8"):
        SegmenterParams(
            encoder="conv8", encoder_depth=3, decoder_channels=[8] * 3, upsample=1, size=None, weights=None
        )


@torch.no_grad()
def test_a_saved_backbone_is_rebuilt_from_its_folder_alone(tmp_path):
    network, frames = UNetPlusPlus(backbone_params()).eval(), random_frames(1, 16, 16)
    save_model(tmp_path / "segmenter", network, SegmenterConfig(segmenter=backbone_params()))
    assert torch.equal(load_segmenter(tmp_path / "segmenter")(frames), network(frames))


# --- From probabilities to masks -------------------------------------------------------------------------


def pixel_probs(probs: dict[int, float]) -> Tensor:
    """Class probabilities of one pixel, (1, 49, 1, 1)."""
    values = torch.zeros(1, NUM_CLASSES, 1, 1)
    for number, prob in probs.items():
        values[0, number] = prob
    return values


def test_the_likeliest_object_is_selected_where_the_summed_object_probability_reaches_the_threshold():
    probs = pixel_probs({0: 0.55, 7: 0.25, 12: 0.20})
    assert probs_to_masks(probs, 0.44, None).item() == 7  # although the background is likelier
    assert probs_to_masks(probs, 0.46, None).item() == 0
    assert probs_to_masks(probs, 0.46, None).dtype == torch.uint8


def test_at_a_threshold_of_one_half_the_mask_of_certain_pixels_is_the_argmax():
    logits = torch.randn((2, NUM_CLASSES, 6, 7), generator=torch.Generator().manual_seed(0))
    probs = (20 * logits).softmax(dim=1)
    certain = probs.amax(dim=1) > 0.9
    assert torch.equal(probs_to_masks(probs, 0.5, None)[certain].long(), probs.argmax(dim=1)[certain])


def test_disallowed_classes_are_neither_selected_nor_counted():
    probs = pixel_probs({0: 0.2, 3: 0.5, 4: 0.3})
    allowed = torch.zeros(1, NUM_CLASSES, dtype=torch.bool)
    allowed[0, [0, 4]] = True
    assert probs_to_masks(probs, 0.25, allowed).item() == 4
    assert probs_to_masks(probs, 0.4, allowed).item() == 0
    allowed[0, 4] = False
    assert probs_to_masks(probs, 0.01, allowed).item() == 0


def test_each_clip_has_its_own_allowed_classes():
    probs = pixel_probs({0: 0.1, 3: 0.5, 4: 0.4}).expand(2, -1, -1, -1)
    allowed = torch.ones(2, NUM_CLASSES, dtype=torch.bool)
    allowed[1, 3] = False
    assert probs_to_masks(probs, 0.3, allowed).flatten().tolist() == [3, 4]


def test_a_class_is_seen_if_one_mask_has_enough_of_its_pixels():
    masks = torch.zeros(2, 3, 4, 5, dtype=torch.uint8)
    masks[0, 1, 0, :3] = 7  # three pixels in one frame
    masks[0, :, 3, :2] = 9  # two pixels in each of three frames
    masks[1, 0, :, :] = 11
    masks[1, 1:, :, :] = 12
    seen = seen_classes(masks, 3)
    assert seen.shape == (2, NUM_CLASSES)
    assert seen[0].nonzero().flatten().tolist() == [0, 7]
    assert seen[1].nonzero().flatten().tolist() == [0, 11, 12]  # the background is always included
    assert seen_classes(masks, 2)[0].nonzero().flatten().tolist() == [0, 7, 9]


@torch.no_grad()
def test_flip_tta_is_equivariant_to_mirroring():
    network, frames = make_segmenter(), random_frames(2, 16, 21)
    plain = class_probs(network, frames, flip=False)
    flipped = class_probs(network, frames, flip=True)
    mirrored = class_probs(network, frames.flip(-1), flip=True)
    torch.testing.assert_close(mirrored, flipped.flip(-1))
    torch.testing.assert_close(flipped.sum(dim=1), torch.ones(2, 16, 21))
    assert (plain - flipped).abs().max() > 1e-4


# --- Masks of a clip -------------------------------------------------------------------------------------


def make_codec(has_masks: bool = True, temporal_factor: Literal[1, 4] = 1) -> VAE:
    torch.manual_seed(1)
    params = VAEParams(
        spatial_factor=4,
        temporal_factor=temporal_factor,
        convolutions="factorised",
        latent_channels=3,
        base_channels=8,
        num_res_blocks=1,
    )
    return VAE(params, has_masks).eval()


def segment_params(
    vote: float = 0.5,
    threshold: float = 0.4,
    seen_only: bool = True,
    seen_pixels: int = 1,
    motion_vote: float = 0.5,
) -> SegmentParams:
    return SegmentParams(
        motion_vote=motion_vote,
        flip_tta=True,
        codec_vote=vote,
        object_threshold=threshold,
        vote_threshold=threshold,
        seen_classes_only=seen_only,
        seen_pixels=seen_pixels,
        batch_frames=2,
    )


def uint8_frames(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 24, 3), dtype=np.uint8)


def predict_masks(
    params: SegmentParams, truth: np.ndarray | None, composed: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """All masks of a clip of 5 context frames and 3 samples."""
    return masks_of(MaskPredictor(make_segmenter(), make_codec(), params, CPU), truth, composed)


def masks_of(
    predictor: MaskPredictor, truth: np.ndarray | None, composed: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    latents = np.random.default_rng(0).standard_normal((3, 3, 4, 6)).astype(np.float16)
    known = predictor.context_masks(predictor.context_probs(uint8_frames(5, 1)))
    allowed = predictor.allowed_classes(known)
    prediction = predictor.prediction(uint8_frames(3, 2), latents, allowed, composed)
    return {"known": known, "prediction": prediction} | (
        {} if truth is None else predictor.truth(truth[None], 1)
    )


def test_a_vote_of_a_codec_without_a_mask_head_is_rejected():
    for codec in (PixelCodec(), make_codec(has_masks=False)):
        with pytest.raises(ValueError, match=r"segment\.codec_vote=0\.5: expected 0"):
            MaskPredictor(make_segmenter(), codec, segment_params(), CPU)
        MaskPredictor(make_segmenter(), codec, segment_params(vote=0.0), CPU)


def test_masks_of_a_clip():
    masks = predict_masks(segment_params(), uint8_frames(1, 3)[0])
    assert {kind: mask.shape for kind, mask in masks.items()} == {
        "known": (5, 16, 24),
        "prediction": (16, 24),
        "truth": (16, 24),
        "truth_unetpp": (16, 24),
        "round_trip": (16, 24),
    }
    assert all(mask.dtype == np.uint8 and mask.max() < NUM_CLASSES for mask in masks.values())


@pytest.mark.parametrize(("vote", "encoded", "decoded"), [(0.5, 5 + 1, 5 + 3 + 1), (0.0, 1, 1)])
def test_every_frame_passes_once_through_each_network_that_uses_it(vote, encoded, decoded):
    """Of 5 context frames, 3 samples, the true frame and its round trip; UNet++ also their mirror images."""
    segmenter, codec = make_segmenter(), make_codec()
    frames = {"unetpp": 0, "encoder": 0, "decoder": 0}

    def count(name: str, network: torch.nn.Module) -> None:
        def add(module: torch.nn.Module, inputs: tuple[Tensor], output: object) -> None:
            frames[name] += len(inputs[0])

        network.register_forward_hook(add)

    count("unetpp", segmenter)
    count("encoder", codec.encoder)
    count("decoder", codec.decoder.trunk)
    predictor = MaskPredictor(segmenter, codec, segment_params(vote=vote), CPU)
    masks_of(predictor, uint8_frames(1, 3)[0])
    assert frames == {"unetpp": 2 * (5 + 3 + 1 + 1), "encoder": encoded, "decoder": decoded}


def test_truth_unetpp_is_the_truth_mask_at_a_vote_of_zero():
    voted, unetpp = (predict_masks(segment_params(vote=vote), uint8_frames(1, 3)[0]) for vote in (0.9, 0.0))
    np.testing.assert_array_equal(voted["truth_unetpp"], unetpp["truth"])
    assert not np.array_equal(voted["truth_unetpp"], voted["truth"])


def test_seen_classes_only_filters_known_and_predicted_masks():
    unfiltered = predict_masks(segment_params(threshold=0.01, seen_only=False, seen_pixels=30), None)
    filtered = predict_masks(segment_params(threshold=0.01, seen_pixels=30), None)
    known = filtered["known"].reshape(5, -1)
    seen = {0} | {c for c in range(NUM_CLASSES) if (known == c).sum(axis=1).max() >= 30}
    for kind in ("prediction", "known"):
        assert set(np.unique(filtered[kind]).tolist()) <= seen
    assert not set(np.unique(unfiltered["prediction"]).tolist()) <= seen


def test_composed_masks_vote_with_their_share_of_the_samples():
    composed = np.zeros((4, 16, 24), np.uint8)
    composed[:3, 2:6] = 7  # three of four samples
    composed[:1, 10:14] = 9
    alone = predict_masks(segment_params(threshold=0.5, motion_vote=1.0), None, composed)["prediction"]
    np.testing.assert_array_equal(alone, np.where(composed[1], 7, 0))
    few = segment_params(threshold=0.5, motion_vote=1.0).model_copy(update={"vote_threshold": 0.2})
    lower = predict_masks(few, None, composed)["prediction"]
    np.testing.assert_array_equal(lower, np.maximum(composed[0], composed[1]))
    off = predict_masks(segment_params(motion_vote=0.0), None, composed)["prediction"]
    np.testing.assert_array_equal(off, predict_masks(segment_params(), None)["prediction"])


@pytest.mark.parametrize("vote", [0.0, 1.0])
def test_a_vote_of_one_uses_the_codec_only_and_of_zero_the_segmenter_only(vote):
    codec, segmenter = make_codec(), deepcopy(make_segmenter())
    frames, latents = uint8_frames(2, 1), torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    predictor = MaskPredictor(segmenter, codec, segment_params(), CPU)
    before = predictor.probs(frames, latents, vote)
    for parameter in (codec if vote == 0 else segmenter).parameters():
        torch.nn.init.constant_(parameter, 0.01)
    assert torch.equal(predictor.probs(frames, latents, vote), before)
    assert not torch.equal(predictor.probs(frames, latents, 0.5), before)


def test_read_only_memory_maps_raise_no_warning(tmp_path):
    path = tmp_path / "frames.npy"
    np.save(path, uint8_frames(3, 4))
    frames = np.load(path, mmap_mode="r")
    predictor = MaskPredictor(make_segmenter(), make_codec(), segment_params(), CPU)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoded = predictor.encode(frames)
        assert predictor.probs(frames, encoded, 0.5).shape == (3, NUM_CLASSES, 16, 24)
        predictor.prediction(frames[:2], np.zeros((2, 3, 4, 6), np.float16), np.ones(NUM_CLASSES, bool), None)
        predictor.truth(frames[:1], 1)


@pytest.mark.parametrize("vote", [0.0, 0.7])
def test_the_ceilings_of_a_codec_that_compresses_time_are_of_the_clip_in_its_groups(monkeypatch, vote):
    """3 known frames are padded to 5 and followed by one group of 4 frames, the last of which is decided."""
    monkeypatch.setattr(device, "BF16_FLAGS", set())
    codec, clip = make_codec(temporal_factor=4), uint8_frames(7, 4)
    predictor = MaskPredictor(make_segmenter(), codec, segment_params(vote=vote), CPU)
    padded = np.concatenate([clip[:1], clip[:1], clip])
    with torch.inference_mode():
        latents = codec.encode(to_pixels(padded)[None].transpose(1, 2))
        decoded = to_uint8(codec.decode(latents)[:, :, -1])
        logits = codec.mask_logits(latents)[:, :, -1]
        probs = (1 - vote) * predictor.unetpp_probs(decoded) + vote * class_log_probs(logits).exp()
    expected = probs_to_masks(probs, 0.4, None)[0].numpy()
    found = predictor.truth(clip, known=3)["round_trip"]
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(found, expected)


def test_decode_inverts_encode_of_the_pixel_codec():
    frames = uint8_frames(2, 5)
    predictor = MaskPredictor(make_segmenter(), PixelCodec(), segment_params(vote=0.0), CPU)
    np.testing.assert_array_equal(predictor.decode(predictor.encode(frames)), frames)


# --- Round trips for training ----------------------------------------------------------------------------


def frames_and_round_trip(share: float, noise: float = 0.5, seed: int = 0) -> tuple[Tensor, Tensor]:
    frames = random_frames(6, 16, 24)
    batch_rng = whole_batch(torch.Generator().manual_seed(seed), 6)
    return frames, round_trip(make_codec(), frames, share, noise, batch_rng)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.5, 3), (1.0, 6)])
def test_the_first_share_of_frames_is_replaced_by_round_trips(share, count):
    frames, passed = frames_and_round_trip(share)
    changed = (frames != passed).flatten(1).any(dim=1)
    assert changed.tolist() == [True] * count + [False] * (6 - count)
    assert passed.shape == frames.shape
    assert not passed.requires_grad


def test_a_round_trip_without_noise_is_the_codec_s():
    frames, passed = frames_and_round_trip(1.0, noise=0.0)
    codec = make_codec()
    with torch.no_grad():
        torch.testing.assert_close(passed, codec.decode(codec.encode(frames[:, :, None]))[:, :, 0])


def test_round_trips_are_deterministic_in_the_generator():
    assert torch.equal(frames_and_round_trip(0.5)[1], frames_and_round_trip(0.5)[1])
    assert not torch.equal(frames_and_round_trip(0.5)[1], frames_and_round_trip(0.5, seed=1)[1])


@torch.no_grad()
def test_round_trip_noise_is_uniform_up_to_its_max_relative_to_the_latents():
    frames = 0.5 * random_frames(40, 16, 24) * torch.linspace(0.05, 1, 40)[:, None, None, None]
    frames = frames * torch.tensor([1.0, 0.1, 0.4])[:, None, None]
    passed = round_trip(PixelCodec(), frames, 1.0, 0.2, whole_batch(torch.Generator().manual_seed(0), 40))
    strength = (passed - frames).std(dim=(2, 3)) / frames.std(dim=(2, 3))
    torch.testing.assert_close(strength, strength[:, :1].expand(-1, 3), rtol=0.25, atol=0)
    assert 0.19 < strength.max() < 0.22 and strength.min() < 0.02
    assert strength[:, 0].mean().item() == pytest.approx(0.1, abs=0.03)


@torch.no_grad()
def test_a_frame_of_one_pixel_has_no_noise():
    frames = random_frames(2, 1, 1)
    assert torch.equal(round_trip(PixelCodec(), frames, 1.0, 0.5, whole_batch(torch.Generator(), 2)), frames)


@pytest.mark.parametrize("size", [1, 2])
@torch.no_grad()
def test_the_loss_of_a_batch_is_the_mean_over_its_parts(size):
    frames, segmenter, codec = random_frames(4, 16, 24), make_segmenter(), make_codec()
    masks = torch.zeros(4, 16, 24, dtype=torch.uint8)
    masks[1:, 3:9, 5:20] = torch.randint(
        1, 49, (3, 6, 15), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )

    def augmented_loss(rows: range) -> tuple[Tensor, Tensor]:
        part, generator = slice(rows.start, rows.stop), torch.Generator().manual_seed(0)
        passed = round_trip(codec, frames[part], 0.75, 0.5, BatchRng(generator, rows, 4))
        next_number = torch.rand(1, generator=generator)  # the generator's state does not depend on the part
        loss = factor_loss(segmenter(passed), masks[part]).mean()
        return torch.cat([loss[None], next_number]), passed

    parts = [augmented_loss(range(first, first + size)) for first in range(0, 4, size)]
    loss, passed = augmented_loss(range(4))
    torch.testing.assert_close(torch.stack([part for part, _ in parts]).mean(dim=0), loss)
    torch.testing.assert_close(torch.cat([frames for _, frames in parts]), passed, atol=1e-5, rtol=0)
    assert (passed != frames).flatten(1).any(dim=1).tolist() == [True, True, True, False]
