import hashlib
import json
import pickle
import weakref
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from vdp.data.stores.clips import Clip, ClipStore, Shard, ShardWriter, list_test_sets, write_clips


def make_clip(name: str, frames: int = 22, labelled: bool = True, height: int = 16, width: int = 24) -> Clip:
    rng = np.random.default_rng(sum(map(ord, name)))
    pixels = rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    masks = rng.integers(0, 49, (frames, height, width), dtype=np.uint8) if labelled else None
    return Clip(name, pixels, masks)


def folder_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(path.relative_to(folder).as_posix().encode())
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def assert_holds(store: ClipStore, clips: list[Clip]) -> None:
    by_name = {clip.name: clip for clip in clips}
    assert sorted(store.names) == sorted(by_name)
    for index, name in enumerate(store.names):
        clip = by_name[name]
        assert store.num_frames(index) == len(clip.frames)
        np.testing.assert_array_equal(store.frames(index), clip.frames)
        if clip.masks is not None:
            np.testing.assert_array_equal(store.masks(index), clip.masks)


def test_clips_are_read_back_under_names_of_any_script(tmp_path):
    clips = [make_clip(name) for name in ("видео 1", "短", "a" * 100, "x y")]
    store = write_clips(tmp_path / "train", iter(clips), shard_mb=1)
    assert (len(store), store.height, store.width) == (4, 16, 24)
    assert store.names == [clip.name for clip in clips]
    assert_holds(ClipStore(tmp_path / "train"), clips)


def test_labelled_clips_come_first_and_lengths_may_differ(tmp_path):
    clips = [
        make_clip("a", labelled=False),
        make_clip("b"),
        make_clip("c", frames=11, labelled=False),
        make_clip("d"),
    ]
    store = write_clips(tmp_path / "store", clips, shard_mb=1)
    assert store.names == ["b", "d", "a", "c"]
    assert list(store.labelled) == [0, 1] and store.num_labelled == 2
    assert_holds(store, clips)
    with pytest.raises(ValueError, match="clip a has no masks"):
        store.masks(2)


def test_shards_are_closed_at_their_size(tmp_path):
    clips = [make_clip(f"video_{n}", height=64, width=96, labelled=n != 4) for n in range(5)]
    store = write_clips(tmp_path / "store", clips, shard_mb=1)  # two clips of 0.39 MiB fit, three do not
    kinds = {"frames": 3, "names": 3, "masks": 2}
    files = [f"{kind}_{n:03d}.npy" for kind, count in kinds.items() for n in range(count)]
    assert sorted(path.name for path in store.folder.iterdir()) == sorted([*files, "manifest.json"])
    assert np.load(store.folder / "frames_000.npy").shape == (2, 22, 64, 96, 3)
    assert_holds(store, clips)


def test_a_clip_larger_than_a_shard_gets_its_own(tmp_path):
    clips = [make_clip(f"video_{n}", height=128, width=192) for n in range(2)]
    store = write_clips(tmp_path / "store", clips, shard_mb=1)
    assert np.load(store.folder / "frames_001.npy").shape == (1, 22, 128, 192, 3)
    assert_holds(store, clips)


def test_equal_clips_give_equal_bytes(tmp_path):
    for name in ("one", "two"):
        write_clips(tmp_path / name, [make_clip("a"), make_clip("b", labelled=False)], shard_mb=1)
    assert folder_hash(tmp_path / "one") == folder_hash(tmp_path / "two")


def test_frames_are_read_only_views_of_the_file(tmp_path):
    store = write_clips(tmp_path / "store", [make_clip("a")], shard_mb=1)
    assert isinstance(store.frames(0), np.memmap) and isinstance(store.masks(0), np.memmap)
    assert not store.frames(0).flags.writeable


def test_a_store_is_pickled_without_its_arrays(tmp_path):
    clips = [make_clip(f"video_{n}", height=64, width=96) for n in range(3)]
    store = write_clips(tmp_path / "store", clips, shard_mb=1)
    store.frames(0)
    sent = pickle.dumps(store)
    assert len(sent) < 5000
    assert_holds(pickle.loads(sent), clips)


def test_one_clip_at_a_time_is_in_memory(tmp_path):
    alive: list[weakref.ref[np.ndarray]] = []

    def clips() -> Iterator[Clip]:
        for n in range(6):
            clip = make_clip(f"video_{n}")
            alive.append(weakref.ref(clip.frames))
            yield clip
            del clip
            assert sum(ref() is not None for ref in alive) <= 1

    write_clips(tmp_path / "store", clips(), shard_mb=1)


def test_a_failed_write_keeps_the_old_store(tmp_path):
    old = [make_clip("old")]
    write_clips(tmp_path / "store", old, shard_mb=1)

    def broken() -> Iterator[Clip]:
        yield make_clip("new")
        raise ValueError("video_1: unreadable")

    with pytest.raises(ValueError, match="video_1: unreadable"):
        write_clips(tmp_path / "store", broken(), shard_mb=1)
    assert [p.name for p in tmp_path.iterdir()] == ["store"]
    assert_holds(ClipStore(tmp_path / "store"), old)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([], "no clips to write"),
        ([make_clip("a"), make_clip("a")], "clip a: two clips have this name"),
        ([make_clip("a"), make_clip("b", height=32)], "clip b: expected uint8 frames"),
        ([Clip("a", np.zeros((22, 16, 24), np.uint8))], "clip a: expected uint8 frames"),
        ([Clip("a", np.zeros((22, 16, 24, 3)))], "clip a: expected uint8 frames"),
        ([replace(make_clip("a"), masks=np.zeros((22, 16, 23), np.uint8))], "clip a: expected uint8 masks"),
        ([replace(make_clip("a"), conditions=np.zeros((22, 16, 24, 3)))], "clip a: expected uint8 cond"),
        ([replace(make_clip("a"), masks=np.full((22, 16, 24), 49, np.uint8))], "class ids 0..48, got 49"),
    ],
)
def test_invalid_clips_are_refused_in_one_line(tmp_path, clips, message):
    with pytest.raises(ValueError, match=message) as error:
        write_clips(tmp_path / "store", clips, shard_mb=1)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_missing_or_outdated_store_names_the_command_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="dvc repro extract_frames"):
        ClipStore(tmp_path)
    store = write_clips(tmp_path / "store", [make_clip("a")], shard_mb=1)
    manifest = store.folder / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 0}))
    with pytest.raises(ValueError, match="expected format 2, got 0; run"):
        ClipStore(store.folder)


def test_test_sets_are_listed_by_name(tmp_path):
    assert list_test_sets(tmp_path) == {}
    for name in ("b", "a"):
        write_clips(tmp_path / "test" / name, [make_clip("x")], shard_mb=1)
    assert list(list_test_sets(tmp_path).items()) == [(n, tmp_path / "test" / n) for n in ("a", "b")]


def test_conditions_are_stored_beside_their_frames(tmp_path):
    clips = [make_clip("a"), make_clip("b", labelled=False), make_clip("c"), make_clip("d", labelled=False)]
    clips[2:] = [replace(clip, conditions=255 - clip.frames) for clip in clips[2:]]
    store = write_clips(tmp_path / "store", clips, shard_mb=1)
    assert store.names == ["c", "a", "d", "b"] and store.paired.tolist() == [0, 2]
    np.testing.assert_array_equal(store.conditions(0), 255 - store.frames(0))
    np.testing.assert_array_equal(store.clip(2).conditions, clips[3].conditions)
    with pytest.raises(ValueError, match="clip a has no degraded frames"):
        store.conditions(1)


@pytest.mark.parametrize("index", [-1, 1])
def test_an_index_out_of_range_is_refused(tmp_path, index):
    store = write_clips(tmp_path / "store", [make_clip("a")], shard_mb=1)
    with pytest.raises(IndexError, match="expected a clip of 0..0"):
        store.frames(index)


def test_memory_does_not_grow_with_the_number_of_clips(tmp_path):
    store = write_clips(tmp_path / "store", [make_clip("a")], shard_mb=1)
    manifest = json.loads((store.folder / "manifest.json").read_text())
    manifest["shards"] = [manifest["shards"][0] | {"clips": 250_000} for _ in range(4)]
    (store.folder / "manifest.json").write_text(json.dumps(manifest))
    big = ClipStore(store.folder)
    assert len(big) == 1_000_000 and big.num_labelled == 1_000_000
    assert big.num_frames(999_999) == 22
    assert len(pickle.dumps(big)) < 5000


class TestShardWriter:
    CLIPS = [make_clip(f"video_{n}", height=64, width=96, labelled=n % 3 != 1) for n in range(9)]

    def write(self, writer: ShardWriter, clips: list[Clip]) -> None:
        for clip in clips:
            writer.append(clip)

    def finish(self, folder: Path, writer: ShardWriter) -> str:
        writer.close()
        return folder_hash(folder) + json.dumps([asdict(shard) for shard in writer.shards])

    def write_all(self, folder: Path) -> str:
        folder.mkdir()
        writer = ShardWriter(folder, 1)
        self.write(writer, self.CLIPS)
        return self.finish(folder, writer)

    @pytest.mark.parametrize("kept", range(9))
    def test_rolled_back_clips_leave_no_trace(self, tmp_path, kept):
        (tmp_path / "a").mkdir()
        writer = ShardWriter(tmp_path / "a", 1)
        self.write(writer, self.CLIPS[:kept])
        mark = writer.mark()
        self.write(writer, [replace(clip, name=f"bad_{clip.name}") for clip in self.CLIPS])
        writer.rollback(mark)
        self.write(writer, self.CLIPS[kept:])
        assert self.finish(tmp_path / "a", writer) == self.write_all(tmp_path / "b")

    @pytest.mark.parametrize("kept", range(1, 9))
    def test_a_writer_continues_where_a_killed_one_had_noted(self, tmp_path, kept):
        (tmp_path / "a").mkdir()
        killed = ShardWriter(tmp_path / "a", 1)
        self.write(killed, self.CLIPS[:kept])
        killed.mark()
        noted = [Shard(**json.loads(json.dumps(asdict(shard)))) for shard in killed.shards]
        self.write(killed, self.CLIPS[kept:])  # written, never noted, and never closed
        killed.mark()
        writer = ShardWriter(tmp_path / "a", 1, noted)
        self.write(writer, self.CLIPS[kept:])
        assert self.finish(tmp_path / "a", writer) == self.write_all(tmp_path / "b")

    def test_mark_flushes_to_the_file(self, tmp_path):
        """Small clips would stay in Python's buffer, which a killed process does not write."""
        writer = ShardWriter(tmp_path, 1)
        writer.append(make_clip("a", frames=2, height=2, width=2))
        writer.mark()
        assert (tmp_path / "frames_000.npy").stat().st_size == 128 + 2 * 2 * 2 * 3

    def test_files_shorter_than_noted_are_refused(self, tmp_path):
        self.write_all(tmp_path / "a")
        noted = [Shard(True, False, 22, ["video_0", "video_2"])]
        path = tmp_path / "a" / "frames_000.npy"
        path.write_bytes(path.read_bytes()[:-10_000])
        with pytest.raises(ValueError, match="frames_000.npy: shorter"):
            ShardWriter(tmp_path / "a", 1, noted)
