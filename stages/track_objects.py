"""DVC stage track_objects: the objects of each clip over time, one identity and class per object.

Reads   data/clips, data/models/{codec,segmenter,classifier}; params.yaml: clip, segment, track_objects
Writes  data/tracks/{train,val}: from the true masks of all frames; data/tracks/unlabeled: from the
        segmenter's; data/tracks/test/<test set>: from the segmenter's masks of the context frames, with the
        pixels of the objects (labels.npy) and the masks decided frame by frame (frame_masks.npy).
        Without tracks where no training clip has masks, or nothing is predicted.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from vdp.api.tracks import has_classifier, load_tracker
from vdp.config.read import read_section, run_script
from vdp.config.schema import ClipParams
from vdp.core.device import pick_device
from vdp.core.empty import NO_MASKS, NO_TARGETS, write_empty
from vdp.core.files import replacing
from vdp.data.object_states import class_labels, object_states
from vdp.data.stores.clips import ClipStore, existing_stores, list_test_sets
from vdp.data.stores.tracks import FRAME_MASKS, Tracks, write_tracks
from vdp.models.segmenters.params import SegmentParams, TrackParams
from vdp.models.segmenters.track import TrackedClip
from vdp.tracking.mlflow_run import Tracker as Ledger
from vdp.tracking.mlflow_run import track_stage
from vdp.tracking.progress import progress

CLIPS = Path("data/clips")
MODELS = Path("data/models")
TRACKS = Path("data/tracks")

Tracker = Callable[[np.ndarray], TrackedClip]


def main() -> None:
    clip = read_section(ClipParams, "clip")
    segment, params = read_section(SegmentParams, "segment"), read_section(TrackParams, "track_objects")

    with track_stage("track_objects") as ledger:
        if not clip.predicts or not has_classifier(MODELS):
            write_empty(TRACKS, NO_MASKS if clip.predicts else NO_TARGETS)
            return
        track(clip, segment, params, ledger)


def track(clip: ClipParams, segment: SegmentParams, params: TrackParams, ledger: Ledger) -> None:
    """Write the tracks of all splits."""
    with replacing(TRACKS) as part:
        for split in ("train", "val"):
            for store in existing_stores(CLIPS, [split]):
                write_tracks(part / split, true_tracks(store, clip.frames, split), clip.frames)
        tracker = ledger.counted(load_tracker(MODELS, segment, params, pick_device()).__call__)
        for store in existing_stores(CLIPS, ["unlabeled"]):
            rows = progress(range(min(params.unlabeled, len(store))), 1, "track unlabeled")
            tracks = (tracked(tracker, store, row, clip.frames)[0] for (row,) in rows)
            write_tracks(part / "unlabeled", tracks, clip.frames)
        for name, folder in list_test_sets(CLIPS).items():
            store = ClipStore(folder)
            found = [
                tracked(tracker, store, row, clip.known)
                for (row,) in progress(range(len(store)), 1, f"track {name}")
            ]
            write_tracks(part / "test" / name, (tracks for tracks, _ in found), clip.known)
            np.save(part / "test" / name / FRAME_MASKS, np.stack([masks for _, masks in found]))


def true_tracks(store: ClipStore, frames: int, split: str) -> Iterator[Tracks]:
    """Tracks of the labelled clips of a split from their true masks; those of fewer frames are left out."""
    rows = [row for row in store.labelled if store.num_frames(row) >= frames]
    for (row,) in progress(rows, 1, f"track {split}"):
        labels, classes = class_labels(np.asarray(store.masks(row)[:frames]))
        yield Tracks(store.name(row), object_states(labels, len(classes)), classes)


def tracked(tracker: Tracker, store: ClipStore, row: int, frames: int) -> tuple[Tracks, np.ndarray]:
    """Tracks of a clip from the segmenter's masks of its first frames, and these masks frame by frame."""
    found = tracker(np.asarray(store.frames(row)[:frames]))
    states = object_states(found.labels, len(found.classes))
    return Tracks(store.name(row), states, found.classes, found.labels), found.frame_masks


if __name__ == "__main__":
    run_script(main)
