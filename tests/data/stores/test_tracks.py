"""The track store."""

import json

import numpy as np
import pytest

from vdp.core.objects import FEATURES
from vdp.data.stores.tracks import LISTING, Tracks, TrackStore, track_stores, write_tracks


def clip(name: str, objects: int, labels: bool = True) -> Tracks:
    rng = np.random.default_rng(objects)
    states = rng.random((objects, 5, len(FEATURES)), np.float32)
    classes = np.arange(1, objects + 1, dtype=np.uint8)
    return Tracks(name, states, classes, np.full((2, 4, 6), objects, np.uint8) if labels else None)


def test_tracks_are_read_as_written_and_padded_to_the_largest_number_of_objects(tmp_path):
    clips = [clip("a", 2), clip("b", 3), clip("c", 0)]
    write_tracks(tmp_path / "t", clips, frames=5)
    store = TrackStore(tmp_path / "t")
    assert (store.names, store.frames, len(store)) == (["a", "b", "c"], 5, 3)
    np.testing.assert_array_equal(store.states[0, :2], clips[0].states)
    np.testing.assert_array_equal(store.states[1], clips[1].states)
    assert store.classes.tolist() == [[1, 2, 0], [1, 2, 3], [0, 0, 0]]
    assert not store.states[2].any()
    assert store.labels is not None and store.labels[:, 0, 0, 0].tolist() == [2, 3, 0]


def test_pixels_are_the_labels_of_a_clip_or_an_error_that_names_the_stage(tmp_path):
    write_tracks(tmp_path / "t", [clip("a", 2), clip("b", 3)], frames=5)
    assert (TrackStore(tmp_path / "t").pixels(1) == 3).all()
    write_tracks(tmp_path / "u", [clip("a", 2, labels=False)], frames=5)
    with pytest.raises(ValueError, match=r"u: no labels\.npy; run `dvc repro --force track_objects`"):
        TrackStore(tmp_path / "u").pixels(0)


def test_labels_are_optional_and_no_clips_are_a_store(tmp_path):
    write_tracks(tmp_path / "a", [clip("a", 2, labels=False)], frames=5)
    assert TrackStore(tmp_path / "a").labels is None
    write_tracks(tmp_path / "b", [], frames=5)
    assert len(TrackStore(tmp_path / "b")) == 0


def test_equal_tracks_give_equal_bytes(tmp_path):
    for name in "ab":
        write_tracks(tmp_path / name, [clip("a", 2)], frames=5)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_only_existing_splits_are_opened(tmp_path):
    write_tracks(tmp_path / "train", [clip("a", 2)], frames=5)
    assert [store.names for store in track_stores(tmp_path, ["train", "unlabeled"])] == [["a"]]


def test_a_missing_or_unsuitable_store_names_its_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        TrackStore(tmp_path / "none")
    write_tracks(tmp_path / "t", [clip("a", 2)], frames=5)
    np.save(tmp_path / "t" / "classes.npy", np.zeros((2, 2), np.uint8))
    with pytest.raises(ValueError, match="files of"):
        TrackStore(tmp_path / "t")
    listing = json.loads((tmp_path / "t" / LISTING).read_text())
    (tmp_path / "t" / LISTING).write_text(json.dumps(listing | {"features": ["x"]}))
    with pytest.raises(ValueError, match="features"):
        TrackStore(tmp_path / "t")
