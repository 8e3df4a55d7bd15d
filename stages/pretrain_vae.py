"""DVC stage pretrain_vae: fit the codec to single frames, or to short clips where it shortens time.

The pixel codec has nothing to fit.

Reads   data/clips; params.yaml: seed, engine, codec, vae, pretrain_vae, augment.codec
Writes  data/models/codec
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
from vdp.data.stores.clips import ClipStore, existing_stores
from vdp.models.checkpoint import save_model
from vdp.models.codecs.params import CodecConfig, CodecParams, VAEParams
from vdp.models.codecs.vae import VAE, vae_loss
from vdp.models.factored_classes import class_log_probs
from vdp.tracking.figures import sample_columns
from vdp.tracking.mlflow_run import Tracker, project_root, track_stage
from vdp.training.checkpoint import states_of
from vdp.training.engine import launch
from vdp.training.out_of_memory import Knob
from vdp.training.params import EngineParams, PretrainVAEParams
from vdp.training.trainer import Training, fit, training_seed
from vdp.training.validation import VALIDATION_SEED, VALIDATION_SIZE, shown_batch

CLIPS = Path("data/clips")
CODEC = Path("data/models/codec")
GROUPS = 2  # of vae.temporal_factor frames after a training clip's first: one follows a frame, one a group


def main() -> None:
    codec = read_section(CodecParams, "codec")
    params = read_section(PretrainVAEParams, "pretrain_vae")
    augment = read_section(FrameAugment, "augment.codec")
    vae = read_section(VAEParams, "vae")
    engine, seed = read_section(EngineParams, "engine"), read_value("seed")
    with track_stage("pretrain_vae") as tracker:
        if codec.name == "vae":
            train(vae, params, augment, engine, seed, tracker)
        elif tracker.is_main:
            save_model(CODEC, None, CodecConfig(name="pixel", vae=None, has_masks=False))


def train(
    vae: VAEParams,
    params: PretrainVAEParams,
    augment: FrameAugment,
    engine: EngineParams,
    seed: int,
    tracker: Tracker,
) -> None:
    """Fit the codec and save it."""
    fabric = launch(engine)
    labels = params.mask_weight > 0
    stores, val = existing_stores(CLIPS, ["train", "unlabeled"]), ClipStore(CLIPS / "val")
    size = (val.height, val.width)
    changes, none = Augment(augment.train, *size), Augment(augment.val, *size)
    length = 1 if vae.temporal_factor == 1 else 1 + GROUPS * vae.temporal_factor

    def loss(network: VAE, batch: Frames, batch_rng: BatchRng) -> dict[str, Tensor]:
        clips, masks = batch.clips()
        height, width = (side // vae.spatial_factor for side in clips.shape[-2:])
        latent_frames = 1 + (clips.shape[2] - 1) // vae.temporal_factor
        noise = batch_rng.normal(len(clips), vae.latent_channels, latent_frames, height, width)
        weights = (params.kl_weight, params.detail_weight, params.mask_weight)
        return vae_loss(network, clips, masks, batch.weight, noise, *weights)

    held_out = FrameBatches([val], VALIDATION_SIZE, labels, none, VALIDATION_SEED, length)
    shown = shown_batch(held_out, fabric.device)
    training_seed(seed)
    training = Training(
        name="pretrain_vae",
        network=VAE(vae, has_masks=labels),
        loss=loss,
        batches=FrameBatches(stores, params.batch_size, False, changes, seed, length),
        measure=loss,
        held_out=held_out,
        draw=lambda network: round_trips(network, shown),
        knobs=[
            Knob("vae.base_channels", vae.base_channels, power=1, multiple=8),
            Knob("clip.height", val.height, power=2, multiple=8, beside={"clip.width": val.width}),
        ],
    )
    states = states_of("pretrain_vae", project_root())
    fitted = fit(training, params, engine, seed, tracker, fabric, states)
    if fabric.is_global_zero:
        save_model(CODEC, fitted.network, CodecConfig(name="vae", vae=vae, has_masks=labels), fitted.spare)
        states.clear()


def round_trips(network: VAE, shown: Frames) -> NDArray[np.uint8]:
    """A picture of frames, what the codec makes of them, and the masks that it reads from their latents."""
    clips, masks = shown.clips()
    latents = network.encode(clips)
    columns = {"frame": to_uint8(clips[:, :, -1]), "decoded": to_uint8(network.decode(latents)[:, :, -1])}
    if network.has_masks:
        logits = network.mask_logits(latents)[:, :, -1]
        columns["mask read"] = class_log_probs(logits).argmax(dim=1).byte().cpu().numpy()
        columns["true mask"] = masks[:, -1].cpu().numpy()
    return sample_columns(columns)


if __name__ == "__main__":
    run_stage(main)
