"""DVC stage pretrain_vae: train the codec on frames, or on short clips if it downsamples time.

The pixel codec is not trained.

Reads   data/clips, the weights of pretrain_vae.init_from; params.yaml: seed, engine, codec, vae,
        pretrain_vae, augment.codec
Writes  data/models/codec
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vdp.config.read import read_section, read_value, run_script
from vdp.core.latent_time import TRAINED_GROUPS
from vdp.core.pixels import to_uint8
from vdp.core.rng import BatchRng
from vdp.data.augment import Augment
from vdp.data.batches.frames import FrameBatches, Frames
from vdp.data.params import FrameAugment
from vdp.data.stores.clips import ClipStore, existing_stores
from vdp.launch.out_of_memory import MemoryParam
from vdp.launch.params import EngineParams
from vdp.models.checkpoint import save_model
from vdp.models.codecs.params import CodecConfig, CodecParams, VAEParams
from vdp.models.codecs.vae import VAE, vae_loss
from vdp.models.factored_classes import class_log_probs
from vdp.models.initial import find_initial
from vdp.tracking.figures import sample_columns
from vdp.tracking.mlflow_run import project_root, track_stage
from vdp.training.checkpoint import stage_checkpoints
from vdp.training.definition import Samples, Training
from vdp.training.engine import launch
from vdp.training.params import PretrainVAEParams
from vdp.training.seeds import seed_weights
from vdp.training.trainer import fit
from vdp.training.validation import VALIDATION_SEED, VALIDATION_SIZE, plot_batch

CLIPS = Path("data/clips")
CODEC = Path("data/models/codec")
MASK_HEAD = ("decoder.mask.",)  # weights that a codec trained without masks does not have


def main() -> None:
    codec = read_section(CodecParams, "codec")
    params = read_section(PretrainVAEParams, "pretrain_vae")
    augment = read_section(FrameAugment, "augment.codec")
    vae = read_section(VAEParams, "vae")
    engine, seed = read_section(EngineParams, "engine"), read_value("seed")
    with track_stage("pretrain_vae") as tracker:
        if codec.name == "pixel":
            if tracker.is_main:
                save_model(CODEC, None, CodecConfig(name="pixel", vae=None, has_masks=False))
            return
        initial = find_initial("pretrain_vae", params.init_from, CODEC, ignored=MASK_HEAD)
        fabric = launch(engine)
        stores, val_store = existing_stores(CLIPS, ["train", "unlabeled"]), ClipStore(CLIPS / "val")
        has_masks = params.mask_weight > 0 and any(store.num_labelled for store in stores)
        mask_weight = params.mask_weight if has_masks else 0.0
        size = (val_store.height, val_store.width)
        changes, none = Augment(augment.train, *size), Augment(augment.val, *size)
        length = 1 if vae.temporal_factor == 1 else 1 + TRAINED_GROUPS * vae.temporal_factor

        def loss(network: VAE, batch: Frames, batch_rng: BatchRng) -> dict[str, Tensor]:
            clips, masks = batch.clips()
            height, width = (side // vae.spatial_factor for side in clips.shape[-2:])
            latent_frames = 1 + (clips.shape[2] - 1) // vae.temporal_factor
            noise = batch_rng.normal(len(clips), vae.latent_channels, latent_frames, height, width)
            weights = (params.kl_weight, params.detail_weight, mask_weight)
            return vae_loss(network, clips, masks, batch.weight, noise, *weights)

        labelled = has_masks and val_store.num_labelled > 0
        val_batches = FrameBatches([val_store], VALIDATION_SIZE, labelled, none, VALIDATION_SEED, length)
        shown = plot_batch(val_batches, fabric.device)
        seed_weights(seed)
        network, config = VAE(vae, has_masks), CodecConfig(name="vae", vae=vae, has_masks=has_masks)
        if initial is not None:
            initial.check(network, config)
        batches = FrameBatches(stores, params.batch_size, False, changes, seed, length)
        training = Training(
            name="pretrain_vae",
            network=network,
            loss=loss,
            batches=batches,
            val_loss=loss,
            val_batches=val_batches,
            plot=lambda network: Samples(round_trips(network, shown)),
            memory_params=[
                MemoryParam("vae.base_channels", vae.base_channels, power=1, multiple=8),
                MemoryParam("clip.height", size[0], power=2, multiple=8, scaled_with={"clip.width": size[1]}),
            ],
            initial=initial,
        )
        source = None if initial is None else initial.file
        checkpoints = stage_checkpoints("pretrain_vae", project_root(), source)
        in_steps = params.in_steps(batches.epoch_clips)
        result = fit(training, in_steps, engine, seed, tracker, fabric, checkpoints)
        if fabric.is_global_zero:
            save_model(CODEC, result.network, config, result.other_weights, result.kept)
            checkpoints.clear()


def round_trips(network: VAE, shown: Frames) -> NDArray[np.uint8]:
    """Draw frames, their round trips, and masks predicted from their latents."""
    clips, masks = shown.clips()
    latents = network.encode(clips)
    columns = {"frame": to_uint8(clips[:, :, -1]), "decoded": to_uint8(network.decode(latents)[:, :, -1])}
    if network.has_masks:
        logits = network.mask_logits(latents)[:, :, -1]
        columns["mask read"] = class_log_probs(logits).argmax(dim=1).byte().cpu().numpy()
        columns["true mask"] = masks[:, -1].cpu().numpy()
    return sample_columns(columns)


if __name__ == "__main__":
    run_script(main)
