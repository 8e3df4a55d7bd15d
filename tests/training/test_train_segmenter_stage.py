"""Stage train_segmenter passes the values of params.yaml on and starts from the classifier."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import yaml

from stages import train_segmenter
from vdp.config.yaml_file import read_file
from vdp.core.empty import NO_MASKS, empty_reason
from vdp.core.errors import UserError
from vdp.core.rng import whole_batch
from vdp.data.batches.crops import CropBatches
from vdp.data.batches.frames import FrameBatches
from vdp.data.stores.clips import Clip, write_clips
from vdp.models.checkpoint import save_model
from vdp.models.classifiers.crops import CropClassifier
from vdp.models.classifiers.params import ClassifierConfig, ClassifierParams
from vdp.models.codecs.params import CodecConfig
from vdp.models.factored_classes import CROP_OBJECT_SHARE, class_dice, factor_loss, object_loss
from vdp.models.segmenters.factory import load_segmenter
from vdp.training.definition import TrainingResult
from vdp.training.seeds import step_rng

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
CLASSIFIER = ClassifierParams(crop=16, crop_scale=0.5, base_channels=8)


class FakeFit:
    """Stands for `fit` and keeps its arguments."""

    def __call__(self, training, params, engine, seed, logger, fabric, checkpoints):
        self.training, self.checkpoints, self.params = training, checkpoints, params
        network = training.network.eval()
        return TrainingResult(network, {"best": network.state_dict()})


def clip(name: str, labelled: bool = True) -> Clip:
    masks = np.zeros((3, 32, 48), np.uint8)
    masks[:, 8:18, 8:18] = 7
    frames = np.repeat(30 * masks[..., None], 3, axis=3).astype(np.uint8)
    return Clip(name, frames, masks if labelled else None)


@pytest.fixture
def fit(tmp_path, monkeypatch) -> FakeFit:
    """The current folder has params, clips, a classifier and the codec of pixels; `fit` is a fake."""
    monkeypatch.chdir(tmp_path)
    write_params({})
    Path("dvc.yaml").write_text((REPO / "dvc.yaml").read_text())
    for split in ("train", "val"):
        write_clips(Path("data/clips") / split, [clip(f"{split}{n}") for n in range(3)], shard_mb=1)
    torch.manual_seed(3)
    classifier = CropClassifier(CLASSIFIER)
    save_model(train_segmenter.CLASSIFIER, classifier, ClassifierConfig(classifier=CLASSIFIER))
    save_model(train_segmenter.CODEC, None, CodecConfig(name="pixel", vae=None, has_masks=False))
    tracker = nullcontext(SimpleNamespace(is_main=True))
    monkeypatch.setattr(train_segmenter, "track_stage", lambda name: tracker)
    fake = FakeFit()
    monkeypatch.setattr(train_segmenter, "fit", fake)
    return fake


def write_params(changes: dict[str, object], encoder: str = "conv8", weights: str | None = None) -> None:
    data = read_file(REPO / "params.yaml")
    data["segmenter"] |= {"encoder": encoder, "decoder_channels": [8, 8], "weights": weights}
    if weights is not None:
        data["segmenter"] |= {"encoder_depth": 3, "decoder_channels": [8, 8, 8]}
    data["train_segmenter"] |= {"batch_size": 4, "crop_scale": 0.5, "jitter": 0.2, "background": 0.3}
    data["train_segmenter"] |= changes
    Path("params.yaml").write_text(yaml.safe_dump(data))


def training_loss(fit: FakeFit) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Losses of a batch, its logits and its masks."""
    training = fit.training
    batch = training.batches(0, step_rng(0, 0), range(4))
    with torch.no_grad():
        losses = training.loss(training.network, batch, whole_batch(torch.Generator().manual_seed(0), 4))
        return losses, training.network(batch.frames), batch.masks


def test_crops_follow_params_and_the_encoder_is_the_classifier_s(fit):
    train_segmenter.main()
    batches = fit.training.batches
    assert isinstance(batches, CropBatches)
    assert (batches.batch_size, batches.side, batches.size) == (4, 16, 16)
    assert (batches.jitter, batches.background) == (0.2, 0.3)
    trained = load_segmenter(train_segmenter.SEGMENTER).network.encoder.state_dict()
    classifier = train_segmenter.load_classifier(train_segmenter.CLASSIFIER).body.state_dict()
    assert trained.keys() == classifier.keys()
    assert all(torch.equal(trained[name], value) for name, value in classifier.items())
    assert set(fit.training.val_batches.names(0)) == {"val0", "val1", "val2"}


def test_the_loss_is_that_of_pixels_and_weighted_objects(fit):
    write_params({"object_weight": 0.5})
    train_segmenter.main()
    losses, logits, masks = training_loss(fit)
    pixels, objects = factor_loss(logits, masks, CROP_OBJECT_SHARE).mean(), object_loss(logits, masks).mean()
    torch.testing.assert_close(losses["loss"], pixels + 0.5 * objects)
    write_params({"object_weight": 0.0, "crop_scale": None})
    train_segmenter.main()
    losses, logits, masks = training_loss(fit)
    torch.testing.assert_close(losses["loss"], factor_loss(logits, masks).mean())


def test_dice_of_classes_is_weighted_and_named(fit):
    write_params({"object_weight": 0.0, "dice_weight": 0.3})
    train_segmenter.main()
    losses, logits, masks = training_loss(fit)
    pixels, dice = factor_loss(logits, masks, CROP_OBJECT_SHARE).mean(), class_dice(logits, masks).mean()
    torch.testing.assert_close(losses["loss"], pixels + 0.3 * dice)
    assert losses.keys() == {"loss", "pixels", "dice"}


def test_the_encoder_starts_with_the_weights_of_a_file_whose_content_is_in_the_key_of_the_resume(fit):
    weights, folders = Path("weights.pth"), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        state = smp.encoders.get_encoder("resnet18", depth=5).state_dict()
        torch.save(state, weights)
        write_params({"pretrained": False}, encoder="resnet18", weights=str(weights))
        train_segmenter.main()
        folders.append(fit.checkpoints.folder)
        trained = load_segmenter(train_segmenter.SEGMENTER).network.encoder.state_dict()
        assert all(torch.equal(state[name], value) for name, value in trained.items())
    assert folders[0] != folders[1]


def test_whole_frames_and_another_encoder_need_no_classifier(fit):
    (train_segmenter.CLASSIFIER / "model.safetensors").unlink()
    write_params({"crop_scale": None, "pretrained": False}, encoder="conv16")
    train_segmenter.main()
    assert isinstance(fit.training.batches, FrameBatches)
    assert fit.training.batches(0, step_rng(0, 0), range(4)).frames.shape == (4, 3, 32, 48)
    assert load_segmenter(train_segmenter.SEGMENTER).network.encoder[0][0].out_channels == 16


def test_the_codec_is_used_for_round_trips_only(fit):
    train_segmenter.main()
    assert fit.training.loss.codec is None
    (train_segmenter.CODEC / "config.json").unlink()
    train_segmenter.main()
    save_model(train_segmenter.CODEC, None, CodecConfig(name="pixel", vae=None, has_masks=False))
    write_params({"round_trip": 1.0, "latent_noise": 0.5})
    train_segmenter.main()
    noisy, logits, masks = training_loss(fit)
    assert noisy["pixels"] != factor_loss(logits, masks, CROP_OBJECT_SHARE).mean()


@pytest.mark.parametrize(("epochs", "steps"), [(3.0, 3), (4.0, 3), (0.1, 1), (8, 6)])
def test_epochs_are_steps_of_whole_batches_that_cover_the_clips_so_often(fit, epochs, steps):
    """Three clips, in batches of four."""
    write_params({"steps": None, "epochs": epochs})
    train_segmenter.main()
    assert (fit.params.steps, fit.params.epochs) == (steps, None)


def test_where_val_has_no_masks_training_clips_validate(fit):
    write_clips(Path("data/clips/val"), [clip("val0", labelled=False)], shard_mb=1)
    train_segmenter.main()
    assert set(fit.training.val_batches.names(0)) == {"train0", "train1", "train2"}


def test_without_masks_no_segmenter_is_trained_and_its_folder_gives_the_reason(fit):
    """Masks of other splits do not change that."""
    write_clips(Path("data/clips/train"), [clip("train0", labelled=False)], shard_mb=1)
    train_segmenter.main()
    assert empty_reason(train_segmenter.SEGMENTER) == NO_MASKS and not hasattr(fit, "training")
    with pytest.raises(UserError, match="holds no model, as no training clip has masks; add masks"):
        load_segmenter(train_segmenter.SEGMENTER)
