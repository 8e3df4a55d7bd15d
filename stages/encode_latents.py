"""DVC stage encode_latents: clips to raw latents, with the statistics that normalise them.

Reads   data/clips, data/models/codec; params.yaml: encode_latents
Writes  data/latents/{train,val,unlabeled}, data/latents/statistics.json
"""

from pathlib import Path

from vdp.data.clips import existing_stores
from vdp.data.encode import encode_clips
from vdp.data.latents import Moments, write_latents, write_statistics
from vdp.device import pick_device
from vdp.files import replacing
from vdp.models.codecs import load_codec
from vdp.models.codecs.params import EncodeParams
from vdp.params import read_section, run_stage
from vdp.tracking.mlflow_run import track_stage

CLIPS = Path("data/clips")
CODEC = Path("data/models/codec")
LATENTS = Path("data/latents")


def main() -> None:
    params = read_section(EncodeParams, "encode_latents")
    device = pick_device()
    codec = load_codec(CODEC).to(device)
    moments = Moments(codec.channels)
    with track_stage("encode_latents") as tracker, replacing(LATENTS) as part:
        for store in existing_stores(CLIPS, ["train", "val", "unlabeled"]):
            split = store.folder.name
            seen = None if split == "val" else moments
            clips = encode_clips(
                codec.encode, store, params.flip and split != "val", params.batch_frames, device, seen
            )
            write_latents(part / split, clips, params.shard_mb)
        normalisation = moments.normalisation()
        write_statistics(part, normalisation)
        tracker.summary({f"std.{c}": value for c, value in enumerate(normalisation.std)})


if __name__ == "__main__":
    run_stage(main)
