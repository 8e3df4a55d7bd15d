"""DVC stage encode_latents: encode clips to raw latents, and compute the statistics that normalise them.

Reads   data/clips, data/models/codec; params.yaml: seed, encode_latents, augment.denoiser, degrade
Writes  data/latents/{train,val,unlabeled}, data/latents/statistics.json
"""

from pathlib import Path

from vdp.config.read import read_section, read_value, run_stage
from vdp.core.device import pick_device
from vdp.core.files import replacing
from vdp.data.augment import ClipViews
from vdp.data.degrade import Degradations
from vdp.data.encode import encode_clips, encode_conditions
from vdp.data.params import ClipAugment, DegradeParams
from vdp.data.stores.clips import existing_stores
from vdp.data.stores.latents import Moments, write_latents, write_statistics
from vdp.models.codecs.factory import load_frame_codec
from vdp.models.codecs.params import EncodeParams
from vdp.tracking.mlflow_run import track_stage

CLIPS = Path("data/clips")
CODEC = Path("data/models/codec")
LATENTS = Path("data/latents")


def main() -> None:
    params = read_section(EncodeParams, "encode_latents")
    augment = read_section(ClipAugment, "augment.denoiser")
    degrade = read_section(DegradeParams, "degrade")
    seed, device = read_value("seed"), pick_device()
    codec = load_frame_codec(CODEC).to(device)
    moments = Moments(codec.channels)
    with track_stage("encode_latents") as tracker, replacing(LATENTS) as part:
        encode = tracker.counted(codec.encode)
        for store in existing_stores(CLIPS, ["train", "val", "unlabeled"]):
            split = store.folder.name
            changes, seen = (augment.val, None) if split == "val" else (augment.train, moments)
            views = ClipViews(changes, store.height, store.width, seed, split)
            clips = encode_clips(encode, store, views, params.batch_frames, device, seen)
            conditions = None
            if params.degraded:
                degradations = Degradations(degrade, seed, split)
                conditions = encode_conditions(
                    encode, store, views, degradations, params.degraded, params.batch_frames, device
                )
            write_latents(part / split, clips, params.shard_mb, conditions)
        normalisation = moments.normalisation()
        write_statistics(part, normalisation)
        tracker.summary({f"std.{c}": value for c, value in enumerate(normalisation.std)})


if __name__ == "__main__":
    run_stage(main)
