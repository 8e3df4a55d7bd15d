"""DVC stage pretrain_vae: fit the codec to single frames, or to short clips where it shortens time.

The pixel codec has nothing to fit.

Reads   data/clips; params.yaml: seed, codec, vae, pretrain_vae, augment.codec
Writes  data/models/codec
"""

from pathlib import Path

import torch
from torch import Tensor

from vdp.data.augment import Augment
from vdp.data.augment_params import FrameAugment
from vdp.data.clips import ClipStore, existing_stores
from vdp.data.frame_batches import FrameBatches, Frames
from vdp.device import pick_device
from vdp.models.codecs.params import CodecConfig, CodecParams, VaeParams
from vdp.models.codecs.vae import Vae, vae_loss
from vdp.models.store import save_model
from vdp.params import read_section, read_value, run_stage
from vdp.tracking.mlflow_run import Tracker, track_stage
from vdp.training.fit import fit, fixed_batches, mean_losses, training_seed
from vdp.training.params import PretrainVaeParams

CLIPS = Path("data/clips")
CODEC = Path("data/models/codec")
GROUPS = 2  # of vae.temporal_factor frames after a training clip's first: one follows a frame, one a group


def main() -> None:
    codec = read_section(CodecParams, "codec")
    params = read_section(PretrainVaeParams, "pretrain_vae")
    augment = read_section(FrameAugment, "augment.codec")
    vae = read_section(VaeParams, "vae")
    with track_stage("pretrain_vae") as tracker:
        if codec.name == "pixel":
            save_model(CODEC, None, CodecConfig(name="pixel", vae=None, has_masks=False))
            return
        network = train(vae, params, augment, read_value("seed"), tracker)
        save_model(CODEC, network, CodecConfig(name="vae", vae=vae, has_masks=network.has_masks))


def train(
    vae: VaeParams, params: PretrainVaeParams, augment: FrameAugment, seed: int, tracker: Tracker
) -> Vae:
    """The trained codec."""
    device = pick_device()
    labels = params.mask_weight > 0
    stores = existing_stores(CLIPS, ["train", "unlabeled"])
    val = ClipStore(CLIPS / "val")
    size = (val.height, val.width)
    length = 1 if vae.temporal_factor == 1 else 1 + GROUPS * vae.temporal_factor
    batch_of = FrameBatches(
        stores, params.batch_size, False, Augment(augment.train, *size), seed=seed, length=length
    )
    validation = FrameBatches(
        [val], params.batch_size, labels, Augment(augment.val, *size), seed=seed, length=length
    )
    training_seed(seed)
    network = Vae(vae, has_masks=labels).to(device)

    def loss(network: Vae, batch: Frames, generator: torch.Generator) -> dict[str, Tensor]:
        clips, masks = batch.clips()
        height, width = (side // vae.spatial_factor for side in clips.shape[-2:])
        latent_frames = 1 + (clips.shape[2] - 1) // vae.temporal_factor
        shape = (len(clips), vae.latent_channels, latent_frames, height, width)
        noise = torch.randn(shape, generator=generator, device=device)
        weights = (params.kl_weight, params.detail_weight, params.mask_weight)
        return vae_loss(network, clips, masks, batch.labelled, noise, *weights)

    fixed = fixed_batches(validation, seed)
    return fit(
        network, loss, batch_of, params, seed, tracker, device,
        lambda net: mean_losses(net, loss, fixed, seed, device),
    )  # fmt: skip


if __name__ == "__main__":
    run_stage(main)
