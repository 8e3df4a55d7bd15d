"""DVC stage train_segmenter: train UNet++ on clean frames and on their codec round trips.

Reads   data/clips, data/models/codec; params.yaml: seed, engine, segmenter, train_segmenter,
        augment.segmenter
Writes  data/models/segmenter
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vdp.config.read import read_section, read_value, run_stage
from vdp.core.pixels import to_uint8
from vdp.core.rng import BatchRng
from vdp.data.augment import Augment
from vdp.data.batches.frames import FrameBatches, Frames
from vdp.data.params import FrameAugment
from vdp.data.stores.clips import ClipStore
from vdp.models.checkpoint import save_model
from vdp.models.codecs.factory import load_frame_codec
from vdp.models.factored_classes import class_log_probs, factor_loss
from vdp.models.segmenters.params import SegmenterConfig, SegmenterParams
from vdp.models.segmenters.round_trip import round_trip
from vdp.models.segmenters.unetpp import UNetPlusPlus
from vdp.tracking.figures import sample_columns
from vdp.tracking.mlflow_run import project_root, track_stage
from vdp.training.checkpoint_key import stage_checkpoints
from vdp.training.definition import Training
from vdp.training.engine import launch
from vdp.training.out_of_memory import MemoryParam
from vdp.training.params import EngineParams, TrainSegmenterParams
from vdp.training.seeds import seed_weights
from vdp.training.trainer import fit
from vdp.training.validation import VALIDATION_SEED, VALIDATION_SIZE, plot_batch

CLIPS = Path("data/clips")
CODEC = Path("data/models/codec")
SEGMENTER = Path("data/models/segmenter")


def main() -> None:
    segmenter = read_section(SegmenterParams, "segmenter")
    params = read_section(TrainSegmenterParams, "train_segmenter")
    augment = read_section(FrameAugment, "augment.segmenter")
    engine, seed = read_section(EngineParams, "engine"), read_value("seed")

    with track_stage("train_segmenter") as tracker:
        fabric = launch(engine)
        train, val_store = ClipStore(CLIPS / "train"), ClipStore(CLIPS / "val")
        size = (train.height, train.width)
        changes, none = Augment(augment.train, *size), Augment(augment.val, *size)
        codec = load_frame_codec(CODEC).to(fabric.device)

        def loss(network: UNetPlusPlus, batch: Frames, batch_rng: BatchRng) -> dict[str, Tensor]:
            frames = round_trip(codec, batch.frames, params.round_trip, params.latent_noise, batch_rng)
            return {"loss": factor_loss(network(frames), batch.masks).mean()}

        val_batches = FrameBatches([val_store], VALIDATION_SIZE, True, none, VALIDATION_SEED)
        shown = plot_batch(val_batches, fabric.device)
        seed_weights(seed)
        training = Training(
            name="train_segmenter",
            network=UNetPlusPlus(segmenter),
            loss=loss,
            batches=FrameBatches([train], params.batch_size, True, changes, seed),
            val_loss=loss,
            val_batches=val_batches,
            plot=lambda network: segmented(network, shown),
            memory_params=[
                MemoryParam(
                    "clip.height", train.height, power=2, multiple=8, scaled_with={"clip.width": train.width}
                )
            ],
        )
        checkpoints = stage_checkpoints("train_segmenter", project_root())
        result = fit(training, params, engine, seed, tracker, fabric, checkpoints)
        if fabric.is_global_zero:
            save_model(SEGMENTER, result.network, SegmenterConfig(segmenter=segmenter), result.other_weights)
            checkpoints.clear()


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
    run_stage(main)
