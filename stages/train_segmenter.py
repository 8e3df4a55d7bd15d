"""DVC stage train_segmenter: fit UNet++ to clean frames and to what the codec makes of them.

Reads   data/clips, data/models/codec; params.yaml: seed, segmenter, train_segmenter, augment.segmenter
Writes  data/models/segmenter
"""

from pathlib import Path

import torch
from torch import Tensor

from vdp.data.augment import Augment
from vdp.data.augment_params import FrameAugment
from vdp.data.clips import ClipStore
from vdp.data.frame_batches import FrameBatches, Frames
from vdp.device import pick_device
from vdp.models.codecs import load_frame_codec
from vdp.models.factors import factor_loss
from vdp.models.segmenters.params import SegmenterConfig, SegmenterParams
from vdp.models.segmenters.round_trip import round_trip
from vdp.models.segmenters.unetpp import UnetPlusPlus
from vdp.models.store import save_model
from vdp.params import read_section, read_value, run_stage
from vdp.tracking.mlflow_run import track_stage
from vdp.training.fit import fit, fixed_batches, mean_losses, training_seed
from vdp.training.params import TrainSegmenterParams

CLIPS = Path("data/clips")
CODEC = Path("data/models/codec")
SEGMENTER = Path("data/models/segmenter")


def main() -> None:
    segmenter = read_section(SegmenterParams, "segmenter")
    params = read_section(TrainSegmenterParams, "train_segmenter")
    augment = read_section(FrameAugment, "augment.segmenter")
    seed, device = read_value("seed"), pick_device()

    train, val = ClipStore(CLIPS / "train"), ClipStore(CLIPS / "val")
    size = (train.height, train.width)
    batch_of = FrameBatches(
        [train], params.batch_size, labelled_only=True, augment=Augment(augment.train, *size), seed=seed
    )
    validation = FrameBatches(
        [val], params.batch_size, labelled_only=True, augment=Augment(augment.val, *size), seed=seed
    )
    codec = load_frame_codec(CODEC).to(device)
    training_seed(seed)
    network = UnetPlusPlus(segmenter).to(device)

    def loss(network: UnetPlusPlus, batch: Frames, generator: torch.Generator) -> dict[str, Tensor]:
        frames = round_trip(codec, batch.frames, params.round_trip, params.latent_noise, generator)
        return {"loss": factor_loss(network(frames), batch.masks)}

    fixed = fixed_batches(validation, seed)
    with track_stage("train_segmenter") as tracker:
        average = fit(
            network, loss, batch_of, params, seed, tracker, device,
            lambda net: mean_losses(net, loss, fixed, seed, device),
        )  # fmt: skip
        save_model(SEGMENTER, average, SegmenterConfig(segmenter=segmenter))


if __name__ == "__main__":
    run_stage(main)
