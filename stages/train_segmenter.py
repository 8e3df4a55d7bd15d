"""DVC stage train_segmenter: train UNet++ on crops around objects, or on frames.

Reads   data/clips, data/models/{codec,classifier}, the weights of train_segmenter.init_from and of
        segmenter.weights; params.yaml: seed, engine, segmenter, train_segmenter, augment.segmenter
Writes  data/models/segmenter; a folder without a model where no training clip has masks. Where no clip of
        val has masks, training clips validate
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vdp.config.read import read_section, read_value, run_script
from vdp.core.empty import NO_MASKS, write_empty
from vdp.core.pixels import to_uint8
from vdp.core.rng import BatchRng
from vdp.data.augment import Augment
from vdp.data.batches.crops import CropBatches, Crops
from vdp.data.batches.frames import FrameBatches, Frames
from vdp.data.crops import crop_side
from vdp.data.params import FrameAugment
from vdp.data.stores.clips import ClipStore
from vdp.launch.out_of_memory import MemoryParam
from vdp.launch.params import EngineParams
from vdp.models.checkpoint import save_model
from vdp.models.classifiers.crops import load_classifier
from vdp.models.codecs.factory import load_codec
from vdp.models.codecs.protocols import Codec
from vdp.models.factored_classes import (
    CROP_OBJECT_SHARE,
    OBJECT_SHARE,
    class_dice,
    class_log_probs,
    factor_loss,
    object_loss,
)
from vdp.models.initial import find_initial
from vdp.models.segmenters.encoder_weights import encoder_file, load_encoder
from vdp.models.segmenters.params import SegmenterConfig, SegmenterParams
from vdp.models.segmenters.round_trip import round_trip
from vdp.models.segmenters.unetpp import UNetPlusPlus
from vdp.tracking.figures import sample_columns
from vdp.tracking.mlflow_run import project_root, track_stage
from vdp.training.checkpoint import stage_checkpoints
from vdp.training.definition import Samples, Training
from vdp.training.engine import launch
from vdp.training.params import TrainSegmenterParams
from vdp.training.seeds import seed_weights
from vdp.training.trainer import fit
from vdp.training.validation import VALIDATION_SEED, VALIDATION_SIZE, plot_batch

CLIPS = Path("data/clips")
CODEC, CLASSIFIER = Path("data/models/codec"), Path("data/models/classifier")
SEGMENTER = Path("data/models/segmenter")


def main() -> None:
    segmenter = read_section(SegmenterParams, "segmenter")
    params = read_section(TrainSegmenterParams, "train_segmenter")
    augment = read_section(FrameAugment, "augment.segmenter")
    engine, seed = read_section(EngineParams, "engine"), read_value("seed")

    with track_stage("train_segmenter") as tracker:
        train, val_store = ClipStore(CLIPS / "train"), ClipStore(CLIPS / "val")
        if not train.num_labelled:
            if tracker.is_main:
                write_empty(SEGMENTER, NO_MASKS)
            return
        val_store = val_store if val_store.num_labelled else train
        initial = find_initial("train_segmenter", params.init_from, SEGMENTER)
        fabric = launch(engine)
        size = (train.height, train.width)
        codec = load_codec(CODEC).to(fabric.device) if params.round_trip > 0 else None
        none = Augment(augment.val, *size)
        val_batches = FrameBatches([val_store], VALIDATION_SIZE, True, none, VALIDATION_SEED)
        shown = plot_batch(val_batches, fabric.device)
        seed_weights(seed)
        network, config = UNetPlusPlus(segmenter), SegmenterConfig(segmenter=segmenter)
        if initial is not None:
            initial.check(network, config)
        if segmenter.weights is not None:
            load_encoder(network, segmenter)
        if params.pretrained:
            network.load_backbone(load_classifier(CLASSIFIER).body)
        batches = train_batches(train, params, augment, seed)
        training: Training[UNetPlusPlus, Frames | Crops, Frames] = Training(
            name="train_segmenter",
            network=network,
            loss=SegmenterLoss(params, codec),
            batches=batches,
            val_loss=val_loss,
            val_batches=val_batches,
            plot=lambda network: Samples(segmented(network, shown)),
            memory_params=[
                MemoryParam(
                    "clip.height", train.height, power=2, multiple=8, scaled_with={"clip.width": train.width}
                )
            ],
            initial=initial,
        )
        source = encoder_file(segmenter) if initial is None else initial.file
        checkpoints = stage_checkpoints("train_segmenter", project_root(), source)
        in_steps = params.in_steps(batches.epoch_clips)
        result = fit(training, in_steps, engine, seed, tracker, fabric, checkpoints)
        if fabric.is_global_zero:
            save_model(SEGMENTER, result.network, config, result.other_weights, result.kept)
            checkpoints.clear()


def train_batches(
    store: ClipStore, params: TrainSegmenterParams, augment: FrameAugment, seed: int
) -> FrameBatches | CropBatches:
    """Batches of crops around objects, or of frames."""
    if params.crop_scale is None:
        changes = Augment(augment.train, store.height, store.width)
        return FrameBatches([store], params.batch_size, True, changes, seed)
    side = crop_side(params.crop_scale, store.height)
    changes = Augment(augment.train, side, side)
    crops = params.crop_scale, None, params.jitter, params.background
    return CropBatches(store, params.batch_size, *crops, changes, seed)


class SegmenterLoss:
    """Loss of each pixel and, weighted, of each object; `codec` is None without round trips."""

    def __init__(self, params: TrainSegmenterParams, codec: Codec | None) -> None:
        self.params, self.codec = params, codec
        self.object_share = OBJECT_SHARE if params.crop_scale is None else CROP_OBJECT_SHARE

    def __call__(
        self, network: UNetPlusPlus, batch: Frames | Crops, batch_rng: BatchRng
    ) -> dict[str, Tensor]:
        frames, params = batch.frames, self.params
        if self.codec is not None:
            frames = round_trip(self.codec, frames, params.round_trip, params.latent_noise, batch_rng)
        logits = network(frames)
        pixels = factor_loss(logits, batch.masks, self.object_share).mean()
        weights = {"objects": params.object_weight, "dice": params.dice_weight}
        terms = {"objects": object_loss, "dice": class_dice}
        losses = {
            name: terms[name](logits, batch.masks).mean() for name, weight in weights.items() if weight > 0
        }
        if not losses:
            return {"loss": pixels}
        loss = pixels
        for name, value in losses.items():
            loss = loss + weights[name] * value
        return {"loss": loss, "pixels": pixels, **losses}


def val_loss(network: UNetPlusPlus, batch: Frames, batch_rng: BatchRng) -> dict[str, Tensor]:
    """The loss of whole frames."""
    logits = network(batch.frames)
    return {
        "loss": factor_loss(logits, batch.masks).mean(),
        "objects": object_loss(logits, batch.masks).mean(),
    }


def segmented(network: UNetPlusPlus, shown: Frames) -> NDArray[np.uint8]:
    """Draw frames, their predicted masks and the true ones."""
    masks = class_log_probs(network(shown.frames)).argmax(dim=1).byte()
    return sample_columns(
        {
            "frame": to_uint8(shown.frames),
            "predicted mask": masks.cpu().numpy(),
            "true mask": shown.masks.cpu().numpy(),
        }
    )


if __name__ == "__main__":
    run_script(main)
