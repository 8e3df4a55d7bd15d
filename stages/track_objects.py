"""DVC stage track_objects: the objects of each clip over time, one identity and class per object.

Reads   data/clips, data/models/{codec,segmenter,classifier}; params.yaml: clip, engine, segment,
        track_objects
Writes  data/tracks/{train,val}: from the true masks of all frames; data/tracks/unlabeled: from the
        segmenter's; data/tracks/test/<test set>: from the segmenter's masks of the context frames, with the
        pixels of the objects (labels.npy) and the masks decided frame by frame (frame_masks.npy).
        Without tracks where no training clip has masks, or nothing is predicted.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from vdp.api.tracks import has_classifier, load_tracker
from vdp.config.read import read_section, run_script
from vdp.config.schema import ClipParams
from vdp.core.empty import NO_MASKS, NO_TARGETS, write_empty
from vdp.core.files import replacing
from vdp.data.object_states import class_labels, object_states
from vdp.data.stores.arrays import ArrayWriter
from vdp.data.stores.clips import ClipStore, existing_stores, list_test_sets
from vdp.data.stores.tracks import FRAME_MASKS, Tracks, write_tracks
from vdp.launch.items import Arrays, Parts, SharedWork, share_work, split_rows
from vdp.launch.params import EngineParams
from vdp.models.segmenters.params import SegmentParams, TrackParams
from vdp.models.segmenters.track import TrackedClip
from vdp.tracking.mlflow_run import project_root, track_stage

CLIPS = Path("data/clips")
MODELS = Path("data/models")
TRACKS = Path("data/tracks")

Tracker = Callable[[np.ndarray], TrackedClip]


def main() -> None:
    clip, engine = read_section(ClipParams, "clip"), read_section(EngineParams, "engine")
    segment, params = read_section(SegmentParams, "segment"), read_section(TrackParams, "track_objects")

    with (
        track_stage("track_objects") as ledger,
        share_work("track_objects", project_root(), engine, ledger) as work,
    ):
        if clip.predicts and has_classifier(MODELS):
            tracker = load_tracker(MODELS, segment, params, work.processes.device)
            write_all_tracks(clip, params, ledger.counted(tracker.__call__), work)
        elif work.join():
            write_empty(TRACKS, NO_MASKS if clip.predicts else NO_TARGETS)


def write_all_tracks(clip: ClipParams, params: TrackParams, tracker: Tracker, work: SharedWork) -> None:
    """Write the tracks of all splits."""
    parts = {}
    for store in existing_stores(CLIPS, ["train", "val"]):
        split = store.folder.name
        rows = [row for row in store.labelled if store.num_frames(row) >= clip.frames]
        parts[split] = work.compute(
            split, split_rows(rows, work.batch_clips), partial(true_tracks, store, clip.frames)
        )
    for store in existing_stores(CLIPS, ["unlabeled"]):
        batches = split_rows(range(min(params.unlabeled, len(store))), work.batch_clips)
        track = partial(found_tracks, tracker, store, clip.frames, with_frame_masks=False)
        parts["unlabeled"] = work.compute("unlabeled", batches, track)
    test_sets = list_test_sets(CLIPS)
    for name, folder in test_sets.items():
        store = ClipStore(folder)
        track = partial(found_tracks, tracker, store, clip.known, with_frame_masks=True)
        parts[f"test/{name}"] = work.compute(
            f"test/{name}", split_rows(range(len(store)), work.batch_clips), track
        )
    if not work.join():
        return
    with replacing(TRACKS) as part:
        for split, tracked in parts.items():
            frames = clip.known if split.startswith("test/") else clip.frames
            write_tracks(part / split, TrackParts(tracked), frames)
        for name in test_sets:
            found = parts[f"test/{name}"]
            with ArrayWriter(part / "test" / name / FRAME_MASKS, found.rows) as file:
                for arrays in found:
                    file.append(arrays["frame_masks"])


def true_tracks(store: ClipStore, frames: int, rows: Sequence[int]) -> Arrays:
    """Tracks of labelled clips from their true masks."""
    tracks = []
    for row in rows:
        labels, classes = class_labels(np.asarray(store.masks(row)[:frames]))
        tracks.append(Tracks(store.name(row), object_states(labels, len(classes)), classes))
    return to_arrays(tracks)


def found_tracks(
    tracker: Tracker, store: ClipStore, frames: int, rows: Sequence[int], with_frame_masks: bool
) -> Arrays:
    """Tracks of clips from the segmenter's masks of their first frames, and these masks frame by frame."""
    found = [tracker(np.asarray(store.frames(row)[:frames])) for row in rows]
    tracks = [
        Tracks(store.name(row), object_states(each.labels, len(each.classes)), each.classes, each.labels)
        for row, each in zip(rows, found, strict=True)
    ]
    masks = {"frame_masks": np.stack([each.frame_masks for each in found])} if with_frame_masks else {}
    return {**to_arrays(tracks), **masks}


def to_arrays(tracks: Sequence[Tracks]) -> dict[str, np.ndarray]:
    """Arrays of a file, by kind and number of the clip in it."""
    arrays: dict[str, np.ndarray] = {"names": np.array([each.name for each in tracks])}
    for n, each in enumerate(tracks):
        arrays |= {f"states_{n}": each.states, f"classes_{n}": each.classes}
        arrays |= {} if each.labels is None else {f"labels_{n}": each.labels}
    return arrays


@dataclass(frozen=True)
class TrackParts:
    """The tracks of all clips of a split, read from the files of its batches."""

    parts: Parts

    def __iter__(self) -> Iterator[Tracks]:
        for arrays in self.parts:
            for n, name in enumerate(arrays["names"].tolist()):
                states, classes = arrays[f"states_{n}"], arrays[f"classes_{n}"]
                yield Tracks(name, states, classes, arrays.get(f"labels_{n}"))


if __name__ == "__main__":
    run_script(main)
