"""DVC stage encode_latents: encode clips to raw latents, and compute the statistics that normalise them.

Reads   data/clips, data/models/codec, data/models/motion; params.yaml: seed, clip, encode_latents,
        augment.denoiser, degrade, diffusion.base, engine, sample_motion
Writes  data/latents/{train,val,unlabeled}, data/latents/statistics.json
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from vdp.api.motion import ClipObjects, labelled_objects, load_motion, resolve_base
from vdp.config.read import read_section, read_value, run_script
from vdp.config.schema import ClipParams
from vdp.core.files import replacing
from vdp.core.latent_time import LatentTime
from vdp.core.optical_flow import fit_decay, flow_extrapolation
from vdp.data.augment import ClipViews
from vdp.data.degrade import Degradations
from vdp.data.encode import Encode, encode_clips, encode_composed, encode_conditions, encode_frames
from vdp.data.params import ClipAugment, DegradeParams
from vdp.data.stores.clips import ClipStore, Pixels, existing_stores
from vdp.data.stores.latents import EncodedClip, Half, Moments, write_latents, write_statistics
from vdp.diffusion.params import DiffusionParams
from vdp.launch.items import Arrays, Parts, share_work, split_rows
from vdp.launch.out_of_memory import advise_batch
from vdp.launch.params import EngineParams
from vdp.models.codecs.factory import load_codec
from vdp.models.codecs.params import EncodeParams
from vdp.sampling.params import SampleMotionParams
from vdp.tracking.mlflow_run import project_root, track_stage

CLIPS = Path("data/clips")
MODELS = Path("data/models")
LATENTS = Path("data/latents")
DECAY_CLIPS = 32  # training clips, evenly spaced, from which the decay of optical flow is measured

MoveObjects = Callable[[Sequence[ClipObjects], Sequence[int], SampleMotionParams, int], list[Pixels]]
Compose = Callable[[ClipStore, Sequence[int]], Iterable[Pixels | None]]  # frames after the known ones


def main() -> None:
    params, engine = read_section(EncodeParams, "encode_latents"), read_section(EngineParams, "engine")
    augment = read_section(ClipAugment, "augment.denoiser")
    degrade = read_section(DegradeParams, "degrade")
    known, base = read_section(ClipParams, "clip").known, read_section(DiffusionParams, "diffusion").base
    sample_motion = read_section(SampleMotionParams, "sample_motion")
    seed = read_value("seed")
    # without frames after the known ones nothing is predicted, and no task but predict has composed frames
    train = ClipStore(CLIPS / "train")
    later = any(train.num_frames(row) > known for row in range(len(train)))
    with (
        track_stage("encode_latents") as tracker,
        share_work("encode_latents", project_root(), engine, tracker) as work,
    ):
        device = work.processes.device
        codec = load_codec(MODELS / "codec").to(device)
        time = LatentTime(codec.temporal_factor, known)
        base = resolve_base(base, MODELS, single_frames=time.factor == 1) if later else "nearest"
        compose: Compose | None = None
        decay: float | None = None
        if base == "composed":
            move = tracker.counted(load_motion(MODELS, device).compose)
            compose = partial(composed_frames, move=move, known=known, params=sample_motion, seed=seed)
        elif base == "optical_flow":
            decay = measure_decay(train, known)
            compose = partial(flow_frames, known=known, decay=decay)
            tracker.summary({"flow_decay": decay})
        encoder = Encoder(tracker.counted(codec.encode), params.batch_frames, params.degraded, device, time)
        parts = {}
        for store in existing_stores(CLIPS, ["train", "val", "unlabeled"]):
            split = store.folder.name
            changes = augment.val if split == "val" else augment.train
            views = ClipViews(changes, store.height, store.width, seed, split)
            degradations = Degradations(degrade, seed, split)
            encode = partial(encoder.arrays, store, views, degradations, compose)
            parts[split] = work.compute(split, split_rows(range(len(store)), work.batch_clips), encode)
        if not work.join():
            return
        moments = Moments(codec.channels)
        with replacing(LATENTS) as part:
            for split, arrays in parts.items():
                seen = None if split == "val" else moments
                clips = encoded_clips(arrays, seen)
                write_latents(part / split, clips, params.shard_mb, known, time.factor, decay)
            normalisation = moments.normalisation()
            write_statistics(part, normalisation)
        tracker.summary({f"std.{c}": value for c, value in enumerate(normalisation.std)})


@dataclass(frozen=True)
class Encoder:
    """Encodes batches of clips; arguments as of `vdp.data.encode.encode_clips`."""

    encode: Encode
    batch_frames: int
    degraded: int  # degraded forms of each clip
    device: torch.device
    time: LatentTime

    def arrays(
        self,
        store: ClipStore,
        views: ClipViews,
        degradations: Degradations,
        compose: Compose | None,
        rows: Sequence[int],
    ) -> Arrays:
        """Encode clips of a store: the parts of `EncodedClip`, of each clip by its place in the batch."""
        sizes, encode = (self.batch_frames, self.device), self.encode
        arrays: dict[str, Half] = {}

        def add(kind: str, clips: Iterable[Half | None]) -> None:
            arrays.update({f"{kind}_{n}": each for n, each in enumerate(clips) if each is not None})

        # not in the block: a lack of memory in it is one of the encoder's batch
        composed = None if compose is None else list(compose(store, rows))
        with advise_batch("encode_latents.batch_frames", 1, sizes[0], partial(self._attempt, store)):
            add("views", encode_clips(encode, store, rows, views, *sizes, self.time))
            if self.degraded:
                conditions = encode_conditions(
                    encode, store, rows, views, degradations, self.degraded, *sizes, self.time
                )
                add("degraded", conditions)
            if composed is not None:
                add("composed", encode_composed(encode, rows, views, composed, *sizes))
        return arrays

    def _attempt(self, store: ClipStore, frames: int) -> None:
        blank = np.zeros((frames, store.height, store.width, 3), np.uint8)
        encode_frames(self.encode, blank, frames, self.device, self.time.factor)


def encoded_clips(parts: Parts, seen: Moments | None) -> Iterator[EncodedClip]:
    """Yield the clips of a split in order; add their latents to `seen`."""
    for arrays in parts:
        for n in range(len([name for name in arrays if name.startswith("views_")])):
            rest = (arrays.get(f"degraded_{n}"), arrays.get(f"composed_{n}"))
            clip = EncodedClip(arrays[f"views_{n}"], *rest)
            if seen is not None:
                seen.add(clip.views)
            yield clip


def composed_frames(
    store: ClipStore,
    rows: Sequence[int],
    move: MoveObjects,
    known: int,
    params: SampleMotionParams,
    seed: int,
) -> list[Pixels | None]:
    """Compose the frames after the first `known` of some clips; None for a clip without masks.

    Args:
        move: `ObjectMotion.compose`.
    """
    usable = [row for row in rows if row in store.labelled and store.num_frames(row) > known]
    clips = [
        labelled_objects(store.name(row), store.frames(row)[:known], store.masks(row)[:known])
        for row in usable
    ]
    targets = range(known, max((store.num_frames(row) for row in usable), default=known + 1))
    composed = dict(zip(usable, move(clips, targets, params, seed), strict=True))
    return [composed.get(row) for row in rows]


def flow_frames(store: ClipStore, rows: Sequence[int], known: int, decay: float) -> Iterator[Pixels | None]:
    """Frames of some clips after the first `known`, moved by optical flow; None for a clip without any."""
    for row in rows:
        steps = range(1, store.num_frames(row) - known + 1)
        yield flow_extrapolation(np.array(store.frames(row)[:known]), steps, decay) if steps else None


def measure_decay(store: ClipStore, known: int) -> float:
    """Return the decay of optical flow that suits training clips best."""
    longer = [row for row in range(len(store)) if store.num_frames(row) > known]
    chosen = longer[:: max(1, len(longer) // DECAY_CLIPS)]
    return fit_decay((np.array(store.frames(row)) for row in chosen), known)


if __name__ == "__main__":
    run_script(main)
