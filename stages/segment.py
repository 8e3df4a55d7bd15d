"""DVC stage segment: segment the predicted target frames, and true ones for the ceilings.

Reads   data/clips/test, data/predictions, data/motion, data/tracks, data/models/{codec,segmenter};
        params.yaml: clip, engine, segment
Writes  data/masks/<test set>: prediction.npy, known.npy, truth.npy, truth_unetpp.npy, round_trip.npy and,
        with a motion model, motion_only.npy and tracked.npy; nothing of them without a segmenter or
        predictions
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from vdp.config.read import read_section, run_script
from vdp.config.schema import ClipParams
from vdp.core.empty import NO_MASKS, empty_reason, write_empty
from vdp.core.files import replacing
from vdp.data.stores.arrays import write_parts
from vdp.data.stores.clips import ClipStore, list_test_sets
from vdp.data.stores.predictions import FRAMES, read_latents
from vdp.data.stores.tracks import FRAME_MASKS, TrackStore
from vdp.launch.items import Arrays, SharedWork, share_work, split_rows
from vdp.launch.params import EngineParams
from vdp.models.checkpoint import is_trained
from vdp.models.codecs.factory import load_codec
from vdp.models.segmenters.factory import load_segmenter
from vdp.models.segmenters.masks import MaskPredictor
from vdp.models.segmenters.params import SegmentParams
from vdp.tracking.mlflow_run import Tracker, project_root, track_stage

CLIPS = Path("data/clips")
PREDICTIONS = Path("data/predictions")
MOTION = Path("data/motion")
TRACKS = Path("data/tracks/test")
CODEC = Path("data/models/codec")
SEGMENTER = Path("data/models/segmenter")
MASKS = Path("data/masks")


def main() -> None:
    clip, engine = read_section(ClipParams, "clip"), read_section(EngineParams, "engine")
    params = read_section(SegmentParams, "segment")
    with track_stage("segment") as tracker, share_work("segment", project_root(), engine, tracker) as work:
        reason = empty_reason(PREDICTIONS) or (None if is_trained(SEGMENTER) else NO_MASKS)
        if reason is None:
            device = work.processes.device
            segmenter, codec = load_segmenter(SEGMENTER).to(device), load_codec(CODEC).to(device)
            segment(clip, MaskPredictor(segmenter, codec, params, device), tracker, work)
        elif work.join():
            write_empty(MASKS, reason)


def segment(clip: ClipParams, predictor: MaskPredictor, tracker: Tracker, work: SharedWork) -> None:
    """Write the masks of all test sets."""
    parts = {}
    for name, folder in list_test_sets(CLIPS).items():
        store = ClipStore(folder)
        masks = partial(segment_clips, clip, predictor, tracker, name, store)
        parts[name] = work.compute(name, split_rows(range(len(store)), work.batch_clips), masks)
    if work.join():
        with replacing(MASKS) as part:
            for name, arrays in parts.items():
                write_parts(part / name, arrays, arrays.rows)


def segment_clips(
    clip: ClipParams,
    predictor: MaskPredictor,
    tracker: Tracker,
    name: str,
    store: ClipStore,
    rows: Sequence[int],
) -> Arrays:
    """Masks of some clips of the test set `name`, by the names of their files."""
    prediction, truth = tracker.counted(predictor.prediction), tracker.counted(predictor.truth)
    tracks, motion = TrackStore(TRACKS / name), MOTION / name
    frames = np.load(PREDICTIONS / name / FRAMES, mmap_mode="r")
    latents = read_latents(PREDICTIONS / name)
    known = np.load(TRACKS / name / FRAME_MASKS, mmap_mode="r")
    composed = np.load(motion / "masks.npy", mmap_mode="r") if motion.is_dir() else None
    masks = []
    for i in rows:
        allowed = predictor.allowed_classes(np.asarray(known[i]))
        samples = None if composed is None else np.asarray(composed[i])
        row = {"prediction": prediction(frames[i, :, -1], latents[i], allowed, samples)}
        if store.num_frames(i) >= clip.frames:
            row |= truth(np.asarray(store.frames(i)[: clip.frames]), clip.known)
        else:
            row |= dict.fromkeys(("truth", "truth_unetpp", "round_trip"), np.zeros_like(row["prediction"]))
        masks.append(row)
    arrays = {kind: np.stack([row[kind] for row in masks]) for kind in masks[0]} | {"known": known[rows]}
    if motion.is_dir():
        arrays["motion_only"] = np.load(motion / "motion_only.npy", mmap_mode="r")[rows]
        arrays["tracked"] = np.stack([tracked_masks(tracks, row) for row in rows])
    return arrays


def tracked_masks(tracks: TrackStore, row: int) -> np.ndarray:
    """Class ids of the context frames of a clip by its tracks, (K, H, W)."""
    classes = np.concatenate([np.zeros(1, np.uint8), tracks.classes[row]])
    return classes[tracks.pixels(row)]


if __name__ == "__main__":
    run_script(main)
