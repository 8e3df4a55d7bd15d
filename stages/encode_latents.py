"""DVC stage encode_latents: encode clips to raw latents, and compute the statistics that normalise them.

Reads   data/clips, data/models/codec, data/models/motion; params.yaml: seed, clip, encode_latents,
        augment.denoiser, degrade, diffusion.base, sample_motion
Writes  data/latents/{train,val,unlabeled}, data/latents/statistics.json
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np

from vdp.api.motion import ClipObjects, labelled_objects, load_motion, resolve_base
from vdp.config.read import read_section, read_value, run_script
from vdp.config.schema import ClipParams
from vdp.core.device import pick_device
from vdp.core.files import replacing
from vdp.core.latent_time import LatentTime
from vdp.core.optical_flow import fit_decay, flow_extrapolation
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
DECAY_CLIPS = 32  # training clips, evenly spaced, from which the decay of optical flow is measured

MoveObjects = Callable[[Sequence[ClipObjects], Sequence[int], SampleMotionParams, int], list[Pixels]]
Compose = Callable[[ClipStore], Iterator[Pixels | None]]  # frames of each clip after the known ones


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
    # without frames after the known ones nothing is predicted, and no task but predict has composed frames
    train = ClipStore(CLIPS / "train")
    later = any(train.num_frames(row) > known for row in range(len(train)))
    base = resolve_base(base, MODELS, single_frames=time.factor == 1) if later else "nearest"
    with track_stage("encode_latents") as tracker, replacing(LATENTS) as part:
        encode = tracker.counted(codec.encode)
        compose: Compose | None = None
        decay: float | None = None
        if base == "composed":
            move = tracker.counted(load_motion(MODELS, device).compose)
            compose = partial(composed_frames, move=move, known=known, params=sample_motion, seed=seed)
        elif base == "optical_flow":
            decay = measure_decay(train, known)
            compose = partial(flow_frames, known=known, decay=decay)
            tracker.summary({"flow_decay": decay})
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
                composed = encode_composed(encode, store, views, compose(store), params.batch_frames, device)
            encoded = map(EncodedClip, clips, degraded, composed)
            write_latents(part / split, encoded, params.shard_mb, known, time.factor, decay)
        normalisation = moments.normalisation()
        write_statistics(part, normalisation)
        tracker.summary({f"std.{c}": value for c, value in enumerate(normalisation.std)})


def composed_frames(
    store: ClipStore, move: MoveObjects, known: int, params: SampleMotionParams, seed: int
) -> Iterator[Pixels | None]:
    """Compose the frames after the first `known` of each clip; None for a clip without masks.

    Args:
        move: `ObjectMotion.compose`.
    """
    for first in range(0, len(store), BATCH_CLIPS):
        rows = range(first, min(first + BATCH_CLIPS, len(store)))
        usable = [row for row in rows if row in store.labelled and store.num_frames(row) > known]
        clips = [
            labelled_objects(store.name(row), store.frames(row)[:known], store.masks(row)[:known])
            for row in usable
        ]
        targets = range(known, max((store.num_frames(row) for row in usable), default=known + 1))
        composed = dict(zip(usable, move(clips, targets, params, seed), strict=True))
        yield from (composed.get(row) for row in rows)


def flow_frames(store: ClipStore, known: int, decay: float) -> Iterator[Pixels | None]:
    """Frames of each clip after the first `known`, moved by optical flow; None for a clip without any."""
    for row in range(len(store)):
        steps = range(1, store.num_frames(row) - known + 1)
        yield flow_extrapolation(np.array(store.frames(row)[:known]), steps, decay) if steps else None


def measure_decay(store: ClipStore, known: int) -> float:
    """Return the decay of optical flow that suits training clips best."""
    longer = [row for row in range(len(store)) if store.num_frames(row) > known]
    chosen = longer[:: max(1, len(longer) // DECAY_CLIPS)]
    return fit_decay((np.array(store.frames(row)) for row in chosen), known)


if __name__ == "__main__":
    run_script(main)
