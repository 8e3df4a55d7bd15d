"""DVC stage segment: segment the predicted target frames, and true ones for the ceilings.

Reads   data/clips/test, data/predictions, data/motion, data/tracks, data/models/{codec,segmenter};
        params.yaml: clip, segment
Writes  data/masks/<test set>: prediction.npy, known.npy, truth.npy, truth_unetpp.npy, round_trip.npy and,
        with a motion model, motion_only.npy and tracked.npy; nothing of them without a segmenter or
        predictions
"""

from pathlib import Path

import numpy as np

from vdp.config.read import read_section, run_script
from vdp.config.schema import ClipParams
from vdp.core.device import pick_device
from vdp.core.empty import NO_MASKS, empty_reason, write_empty
from vdp.core.files import replacing
from vdp.data.stores.clips import ClipStore, list_test_sets
from vdp.data.stores.predictions import FRAMES, read_latents
from vdp.data.stores.tracks import FRAME_MASKS, TrackStore
from vdp.models.checkpoint import is_trained
from vdp.models.codecs.factory import load_codec
from vdp.models.segmenters.factory import load_segmenter
from vdp.models.segmenters.masks import MaskPredictor
from vdp.models.segmenters.params import SegmentParams
from vdp.tracking.mlflow_run import Tracker, track_stage
from vdp.tracking.progress import progress

CLIPS = Path("data/clips")
PREDICTIONS = Path("data/predictions")
MOTION = Path("data/motion")
TRACKS = Path("data/tracks/test")
CODEC = Path("data/models/codec")
SEGMENTER = Path("data/models/segmenter")
MASKS = Path("data/masks")


def main() -> None:
    clip = read_section(ClipParams, "clip")
    params = read_section(SegmentParams, "segment")
    with track_stage("segment") as tracker:
        if reason := empty_reason(PREDICTIONS) or (None if is_trained(SEGMENTER) else NO_MASKS):
            write_empty(MASKS, reason)
            return
        device = pick_device()
        segmenter, codec = load_segmenter(SEGMENTER).to(device), load_codec(CODEC).to(device)
        segment(clip, MaskPredictor(segmenter, codec, params, device), tracker)


def segment(clip: ClipParams, predictor: MaskPredictor, tracker: Tracker) -> None:
    """Write the masks of all test sets."""
    with replacing(MASKS) as part:
        prediction, truth = tracker.counted(predictor.prediction), tracker.counted(predictor.truth)
        for name, folder in list_test_sets(CLIPS).items():
            store, tracks = ClipStore(folder), TrackStore(TRACKS / name)
            frames = np.load(PREDICTIONS / name / FRAMES, mmap_mode="r")
            latents = read_latents(PREDICTIONS / name)
            known = np.load(TRACKS / name / FRAME_MASKS)
            motion = MOTION / name
            composed = np.load(motion / "masks.npy", mmap_mode="r") if motion.is_dir() else None
            rows = []
            for (i,) in progress(range(len(store)), 1, f"segment {name}"):
                allowed = predictor.allowed_classes(known[i])
                samples = None if composed is None else np.asarray(composed[i])
                row = {"prediction": prediction(frames[i, :, -1], latents[i], allowed, samples)}
                if store.num_frames(i) >= clip.frames:
                    row |= truth(np.asarray(store.frames(i)[: clip.frames]), clip.known)
                else:
                    row |= dict.fromkeys(
                        ("truth", "truth_unetpp", "round_trip"), np.zeros_like(row["prediction"])
                    )
                rows.append(row)
            arrays = {kind: np.stack([row[kind] for row in rows]) for kind in rows[0]} | {"known": known}
            if motion.is_dir():
                arrays["motion_only"] = np.load(motion / "motion_only.npy")
                arrays["tracked"] = tracked_masks(tracks)
            (part / name).mkdir()
            for kind, masks in arrays.items():
                np.save(part / name / f"{kind}.npy", masks)


def tracked_masks(tracks: TrackStore) -> np.ndarray:
    """Class ids of the context frames by the tracks, (clips, K, H, W)."""
    background = np.zeros((len(tracks), 1), np.uint8)
    classes = np.concatenate([background, tracks.classes], axis=1)
    return np.stack([classes[row][tracks.pixels(row)] for row in range(len(tracks))])


if __name__ == "__main__":
    run_script(main)
