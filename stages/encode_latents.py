"""DVC stage encode_latents: encode clips to raw latents, and compute the statistics that normalise them.

Reads   data/clips, data/models/codec, data/models/motion; params.yaml: seed, clip, encode_latents,
        augment.denoiser, degrade, diffusion.base, sample_motion
Writes  data/latents/{train,val,unlabeled}, data/latents/statistics.json
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from pathlib import Path

from vdp.api.motion import ClipObjects, composes, labelled_objects, load_motion
from vdp.config.read import read_section, read_value, run_stage
from vdp.config.schema import ClipParams
from vdp.core.device import pick_device
from vdp.core.files import replacing
from vdp.core.latent_time import LatentTime
from vdp.data.augment import ClipViews
from vdp.data.degrade import Degradations
from vdp.data.encode import encode_clips, encode_composed, encode_conditions
from vdp.data.params import ClipAugment, DegradeParams
from vdp.data.stores.clips import ClipStore, Pixels, existing_stores
from vdp.data.stores.latents import EncodedClip, Half, Moments, write_latents, write_statistics
from vdp.diffusion.params import DiffusionParams
from vdp.models.codecs.factory import load_codec
from vdp.models.codecs.params import EncodeParams
from vdp.sampling.params import SampleMotionParams
from vdp.tracking.mlflow_run import track_stage

CLIPS = Path("data/clips")
MODELS = Path("data/models")
LATENTS = Path("data/latents")
BATCH_CLIPS = 16  # clips whose motion is predicted at once

Compose = Callable[[Sequence[ClipObjects], Sequence[int], SampleMotionParams, int], list[Pixels]]


def main() -> None:
    params = read_section(EncodeParams, "encode_latents")
    augment = read_section(ClipAugment, "augment.denoiser")
    degrade = read_section(DegradeParams, "degrade")
    known, base = read_section(ClipParams, "clip").known, read_section(DiffusionParams, "diffusion").base
    sample_motion = read_section(SampleMotionParams, "sample_motion")
    seed, device = read_value("seed"), pick_device()
    codec = load_codec(MODELS / "codec").to(device)
    moments = Moments(codec.channels)
    time = LatentTime(codec.temporal_factor, known)
    # composed frames are single ones
    composable = time.factor == 1 and composes(base, MODELS)
    motion = load_motion(MODELS, device) if composable else None
    with track_stage("encode_latents") as tracker, replacing(LATENTS) as part:
        encode = tracker.counted(codec.encode)
        compose = None if motion is None else tracker.counted(motion.compose)
        for store in existing_stores(CLIPS, ["train", "val", "unlabeled"]):
            split = store.folder.name
            changes, seen = (augment.val, None) if split == "val" else (augment.train, moments)
            views = ClipViews(changes, store.height, store.width, seed, split)
            clips = encode_clips(encode, store, views, params.batch_frames, device, seen, time)
            degraded: Iterator[Half | None] = repeat(None)
            composed: Iterator[Half | None] = repeat(None)
            if params.degraded:
                degradations = Degradations(degrade, seed, split)
                degraded = encode_conditions(
                    encode, store, views, degradations, params.degraded, params.batch_frames, device, time
                )
            if compose is not None:
                frames = composed_frames(store, compose, known, sample_motion, seed)
                composed = encode_composed(encode, store, views, frames, params.batch_frames, device)
            encoded = map(EncodedClip, clips, degraded, composed)
            write_latents(part / split, encoded, params.shard_mb, known, time.factor)
        normalisation = moments.normalisation()
        write_statistics(part, normalisation)
        tracker.summary({f"std.{c}": value for c, value in enumerate(normalisation.std)})


def composed_frames(
    store: ClipStore, compose: Compose, known: int, params: SampleMotionParams, seed: int
) -> Iterator[Pixels | None]:
    """Compose the frames after the first `known` of each clip; None for a clip without masks.

    Args:
        compose: `ObjectMotion.compose`.
    """
    for first in range(0, len(store), BATCH_CLIPS):
        rows = range(first, min(first + BATCH_CLIPS, len(store)))
        usable = [row for row in rows if row in store.labelled and store.num_frames(row) > known]
        clips = [
            labelled_objects(store.name(row), store.frames(row)[:known], store.masks(row)[:known])
            for row in usable
        ]
        targets = range(known, max((store.num_frames(row) for row in usable), default=known + 1))
        composed = dict(zip(usable, compose(clips, targets, params, seed), strict=True))
        yield from (composed.get(row) for row in rows)


if __name__ == "__main__":
    run_stage(main)
