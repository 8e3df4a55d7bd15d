"""DVC stage pretrain_vae: fit the codec to single frames; for the pixel codec there is nothing to fit.

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
    batch_of = FrameBatches(
        stores, params.batch_size, labelled_only=False, augment=Augment(augment.train, *size), seed=seed
    )
    validation = FrameBatches(
        [val], params.batch_size, labelled_only=labels, augment=Augment(augment.val, *size), seed=seed
    )
    training_seed(seed)
    network = Vae(vae, has_masks=labels).to(device)

    def loss(network: Vae, batch: Frames, generator: torch.Generator) -> dict[str, Tensor]:
        height, width = (side // vae.spatial_factor for side in batch.frames.shape[-2:])
        shape = (len(batch.frames), vae.latent_channels, height, width)
        noise = torch.randn(shape, generator=generator, device=device)
        weights = (params.kl_weight, params.detail_weight, params.mask_weight)
        return vae_loss(network, batch.frames, batch.masks, batch.labelled, noise, *weights)

    fixed = fixed_batches(validation, seed)
    return fit(
        network, loss, batch_of, params, seed, tracker, device,
        lambda net: mean_losses(net, loss, fixed, seed, device),
    )  # fmt: skip


if __name__ == "__main__":
    run_stage(main)
