import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import datasets
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Array3D, Array4D, Audio, Dataset, DatasetDict, Features, Image, List, Value, Video

from tests.data.sources.small_sources import REPO
from tests.data.sources.source_contract import (
    REAL_CLIPS,
    REAL_VIDEOS,
    SourceContract,
    clips_of,
    frames_of,
    gray_frame,
    gray_frames,
    levels,
    make_video_file,
    mask_stack,
)
from vdp.data.sources.huggingface import HuggingFaceSource
from vdp.data.sources.protocols import Pace
from vdp.data.sources.table_files import open_table

pytestmark = pytest.mark.slow

datasets.disable_progress_bars()

ROW = "row_000000"
ARROW = "data-00000-of-00001.arrow"


def png(array: np.ndarray) -> bytes:
    return cv2.imencode(".png", array)[1].tobytes()


def stored(content: bytes | None, path: str | None = None) -> dict[str, object]:
    return {"bytes": content, "path": path}


def pictures(frames: int = 22, start: int = 0) -> list[dict[str, object]]:
    return [stored(png(frame)) for frame in gray_frames(frames, start)]


def save(
    folder: Path, rows: dict[str, list], features: dict[str, object], **options: int
) -> HuggingFaceSource:
    Dataset.from_dict(rows, features=Features(features)).save_to_disk(folder, **options)
    return HuggingFaceSource(folder)


def save_pictures(folder: Path, *rows: object) -> HuggingFaceSource:
    return save(folder, {"frames": list(rows)}, {"frames": List(Image())})


def write_parquet(path: Path, rows: dict[str, list], schema: dict[str, pa.DataType] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(rows, schema=pa.schema(schema) if schema else None), path)
    return path


def masks_of(source: HuggingFaceSource, item: str) -> list[int | None]:
    """Class of each mask, which has one."""
    return [None if f.mask is None else int(np.unique(f.mask).item()) for f in frames_of(source, item)]


def levels_of(source: HuggingFaceSource, item: str) -> list[int]:
    return levels(np.stack([frame.pixels for frame in frames_of(source, item)]))


def check_refused(source: HuggingFaceSource, message: str, item: str | None = None) -> None:
    """Check that a source, or one of its rows, raises a one-line error."""
    with pytest.raises(ValueError, match=message) as error:
        frames_of(source, item or source.items()[0])
    assert "\n" not in str(error.value) and source.place in str(error.value)


# --- The contract test, for each way to store videos -----------------------------------------------------


class HuggingFaceContract(SourceContract):
    kind = HuggingFaceSource
    real = REAL_CLIPS / "train"

    def test_nothing_is_written_beside_the_data(self, source):
        before = sorted(Path(source.place).rglob("*"))
        clips_of(source)
        assert sorted(Path(source.place).rglob("*")) == before


class TestSavedPictures(HuggingFaceContract):
    def make(self, folder: Path) -> HuggingFaceSource:
        rows = {"id": [7, 8, 9], "frames": [pictures(22), pictures(25), pictures(22, start=5)]}
        rows["masks"] = [[stored(png(mask)) for mask in mask_stack()], [], None]
        return save(folder, rows, {"id": Value("int64"), "frames": List(Image()), "masks": List(Image())})

    def real_source(self, real: Path, tmp_path: Path) -> HuggingFaceSource:
        return save_pictures(tmp_path / "set", [str(real / "video_0" / f"image_{k}.png") for k in range(22)])

    def test_rows_are_videos_with_masks_unless_null_or_empty(self, source):
        assert source.items() == [ROW, "row_000001", "row_000002"]
        assert source.label("row_000002") == f"{source.place}, row 2"
        assert [source.count(item) for item in source.items()] == [22, 25, 22]
        assert levels_of(source, "row_000002") == [5 + 10 * k for k in range(22)]
        assert masks_of(source, ROW) == list(range(1, 23))
        assert set(masks_of(source, "row_000001") + masks_of(source, "row_000002")) == {None}


class TestParquet(HuggingFaceContract):
    def make(self, folder: Path) -> HuggingFaceSource:
        features = Features({"clip": List(Image()), "mask": List(List(List(Value("uint8"))))})
        for split, starts in {"train": (0, 1, 2), "test": (3, 4)}.items():
            rows = {"clip": [pictures(start=s) for s in starts], "mask": [mask_stack()] * len(starts)}
            path = folder / "data" / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            Dataset.from_dict(rows, features=features).to_parquet(path, batch_size=2)
            assert pq.ParquetFile(path).num_row_groups == (len(starts) + 1) // 2
        return HuggingFaceSource(folder)

    def real_source(self, real: Path, tmp_path: Path) -> HuggingFaceSource:
        clip = [(real / "video_0" / f"image_{k}.png").read_bytes() for k in range(22)]
        return HuggingFaceSource(write_parquet(tmp_path / "clips.parquet", {"frames": [clip]}))

    def test_rows_are_named_below_their_split_and_read_in_any_order(self, source):
        test, train = ([f"{name}/row_00000{k}" for k in range(n)] for name, n in (("test", 2), ("train", 3)))
        assert source.items() == test + train
        assert source.label(test[1]) == f"{source.place}, row 1 of test"
        assert source.files(test[1]) == [Path(source.place, "data", "test-00000-of-00001.parquet")]
        assert [source.count(item) for item in source.items()] == [22] * 5
        assert [levels_of(source, train[k])[0] for k in (2, 0, 1, 1, 2)] == [2, 0, 1, 1, 2]
        assert masks_of(source, train[1]) == list(range(1, 23))


class TestSavedVideos(HuggingFaceContract):
    real = REAL_VIDEOS

    def make(self, folder: Path) -> HuggingFaceSource:
        files = [make_video_file(folder.parent / f"{n}.mp4", frames=n) for n in (22, 50)]
        source = save(folder, {"clip": list(map(str, files))}, {"clip": Video()})
        for file in files:
            file.unlink()  # their bytes are in the set
        return source

    def real_source(self, real: Path, tmp_path: Path) -> HuggingFaceSource:
        return save(tmp_path / "set", {"video": [str(real / "carphone_pristine.mp4")]}, {"video": Video()})

    def test_frames_and_rate_are_those_of_the_file(self, source):
        np.testing.assert_allclose(levels_of(source, "row_000001"), [4 * k for k in range(50)], atol=6)
        numbers = [frame.number for frame in frames_of(source, "row_000001", Pace(fps=12.5))]
        assert numbers == list(range(0, 50, 2))
        with pytest.raises(ValueError, match="row 1, clip: fps=30"):
            frames_of(source, "row_000001", Pace(fps=30))


class TestSavedArrays(HuggingFaceContract):
    def make(self, folder: Path) -> HuggingFaceSource:
        videos = [np.stack([gray_frame(k + v) for k in range(22)]) for v in range(3)]
        masks = [mask_stack(), np.zeros((22, 64, 96), np.uint8), None]
        features = {"pixels": Array4D((22, 64, 96, 3), "uint8"), "mask": Array3D((22, 64, 96), "uint8")}
        return save(folder, {"pixels": videos, "mask": masks}, features, num_shards=2)

    def real_source(self, real: Path, tmp_path: Path) -> HuggingFaceSource:
        video = np.stack([cv2.imread(str(real / "video_0" / f"image_{k}.png")) for k in range(22)])
        return save(tmp_path / "set", {"x": [video]}, {"x": Array4D(video.shape, "uint8")})

    def test_rows_are_found_in_their_shards_with_their_masks(self, source):
        files = [source.files(item)[0].name[:10] for item in source.items()]
        assert files == ["data-00000", "data-00000", "data-00001"]
        assert [levels_of(source, item)[0] for item in source.items()] == [0, 1, 2]
        assert masks_of(source, ROW) == list(range(1, 23))
        assert masks_of(source, "row_000002") == [None] * 22


class TestSavedPairs(HuggingFaceContract):
    def make(self, folder: Path) -> HuggingFaceSource:
        """Inputs are 5 levels brighter and of half the size; the last row has no masks."""
        inputs = [[stored(png(frame[::2, ::2])) for frame in gray_frames(22, 5 + k)] for k in range(2)]
        rows = {"input": inputs, "target": [pictures(22, k) for k in range(2)]}
        rows["mask"] = [[stored(png(mask)) for mask in mask_stack()], None]
        return save(folder, rows, dict.fromkeys(rows, List(Image())))

    def real_source(self, real: Path, tmp_path: Path) -> HuggingFaceSource:
        clip = [str(real / "video_0" / f"image_{k}.png") for k in range(22)]
        features = {"input": List(Image()), "target": List(Image())}
        return save(tmp_path / "set", {"input": [clip], "target": [clip]}, features)

    def test_inputs_are_the_conditions_of_targets_at_their_size(self, source):
        frames = frames_of(source, "row_000001", Pace(interval=7))
        assert levels(np.stack([frame.pixels for frame in frames])) == [1, 71, 141, 211]
        assert levels(np.stack([frame.condition for frame in frames])) == [6, 76, 146, 216]
        assert frames[0].condition.shape == frames[0].pixels.shape == (64, 96, 3)
        assert masks_of(source, ROW) == list(range(1, 23))

    def test_inputs_of_another_length_are_refused(self, tmp_path):
        rows = {"input": [pictures(3)], "target": [pictures(4)]}
        source = save(tmp_path / "set", rows, dict.fromkeys(rows, List(Image())))
        check_refused(source, "row 0: expected one input per picture, got 4 pictures and 3 inputs")


class TestParquetOfPairedVideos(HuggingFaceContract):
    real = REAL_VIDEOS

    def make(self, folder: Path) -> HuggingFaceSource:
        paths = [make_video_file(folder.parent / f"{n}.mp4", frames=25, height=n) for n in (32, 64)]
        degraded, clean = (path.read_bytes() for path in paths)
        write_parquet(folder / "pairs.parquet", {"input": [degraded, clean], "target": [clean, clean]})
        return HuggingFaceSource(folder)

    def real_source(self, real: Path, tmp_path: Path) -> HuggingFaceSource:
        clip = str(real / "carphone_pristine.mp4")
        return save(
            tmp_path / "set", {"input": [clip], "target": [clip]}, {"input": Video(), "target": Video()}
        )

    def test_both_videos_are_decoded_at_the_same_frames(self, source):
        frames = frames_of(source, ROW, Pace(fps=5))
        assert [frame.number for frame in frames] == [0, 5, 10, 15, 20]
        for part in ("pixels", "condition"):
            stack = np.stack([getattr(frame, part) for frame in frames])
            assert stack.shape == (5, 64, 96, 3)
            np.testing.assert_allclose(levels(stack), [0, 20, 40, 60, 80], atol=6)

    def test_videos_of_another_length_are_named_by_their_columns(self, tmp_path):
        short, clean = (make_video_file(tmp_path / f"{n}.mp4", frames=n).read_bytes() for n in (4, 5))
        write_parquet(tmp_path / "set" / "a.parquet", {"input": [short], "target": [clean]})
        source = HuggingFaceSource(tmp_path / "set")
        check_refused(source, "row 0, input: has 4 frames, its target .*row 0, target has 5")


# --- Files of a set --------------------------------------------------------------------------------------


def test_items_of_a_saved_dict_begin_with_their_split(tmp_path):
    data = Dataset.from_dict({"frames": [pictures(2)] * 2}, features=Features({"frames": List(Image())}))
    DatasetDict({"train": data, "validation": data.select([0])}).save_to_disk(tmp_path)
    source = HuggingFaceSource(tmp_path)
    assert source.items() == ["train/row_000000", "train/row_000001", "validation/row_000000"]
    assert source.files("train/row_000001") == [tmp_path / "train" / ARROW]
    assert len(frames_of(source, "validation/row_000000")) == 2


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train-00000-of-00002.parquet", "train/"),
        ("data/unlabeled-00001-of-00002-0a1b2c3d.parquet", "unlabeled/"),
        ("data/train_small-00000-of-00001.parquet", "train_small/"),
        ("default/validation/0000.parquet", "validation/"),
        ("test/data-00000-of-00001.parquet", "test/"),
        ("my_val.parquet", "val/"),
        ("part-0.parquet", ""),
        ("contest/latest.PARQUET", ""),
    ],
)
def test_the_split_of_a_parquet_file_is_in_its_path(tmp_path, path, split):
    write_parquet(tmp_path / "train" / path, {"frames": [[png(gray_frame(0))]]})
    assert HuggingFaceSource(tmp_path / "train").items() == [f"{split}row_000000"]


def test_shards_of_a_split_follow_one_another(tmp_path):
    for k, rows in enumerate((2, 0, 1)):
        frames = [[png(gray_frame(10 * k + row))] for row in range(rows)]
        path = tmp_path / f"train-{k:05d}-of-00003.parquet"
        write_parquet(path, {"frames": frames}, {"frames": pa.list_(pa.binary())})
    source = HuggingFaceSource(tmp_path)
    assert [levels_of(source, item)[0] for item in source.items()] == [0, 1, 20]


@pytest.mark.parametrize(
    ("names", "columns", "message"),
    [
        (["train", "more"], ["frames", "frames"], "more.parquet: no split in its name"),
        (["a", "b"], ["frames", "video"], "b.parquet: expected column frames .* got column video"),
    ],
)
def test_files_of_two_sets_in_one_folder_are_refused(tmp_path, names, columns, message):
    for name, column in zip(names, columns, strict=True):
        write_parquet(tmp_path / f"{name}.parquet", {column: [[b"x"]] if column == "frames" else [b"x"]})
    check_refused(HuggingFaceSource(tmp_path), message)


def test_the_columns_of_a_shard_that_lacks_one_are_listed_beside_those_of_the_first(tmp_path):
    row = {"input": [[b"x"]], "target": [[b"x"]], "title": ["a"]}
    for k, names in enumerate((["input", "target", "title"], ["target", "title"])):
        write_parquet(tmp_path / f"train-{k:05d}-of-00002.parquet", {name: row[name] for name in names})
    message = (
        r"-00001-of-00002.parquet: expected columns input and target \(pictures\), masks in none, as "
        r"\S+-00000-of-00002.parquet with its columns input, target, title; got column target \(pictures\), "
        "masks in none, with target, title; name"
    )
    check_refused(HuggingFaceSource(tmp_path), message)


def test_a_shard_without_videos_is_named(tmp_path):
    for name, column in (("a", "frames"), ("b", "title")):
        write_parquet(tmp_path / f"{name}.parquet", {column: [[b"x"]] if column == "frames" else ["x"]})
    check_refused(
        HuggingFaceSource(tmp_path), r"b.parquet: expected one column of videos .* of title \(string"
    )


@pytest.mark.parametrize("name", ["a.mp4", "state.json", "notes.txt", ".cache/train.parquet"])
def test_other_folders_and_files_have_no_items(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    assert HuggingFaceSource(tmp_path).items() == []
    assert not name.endswith(".mp4") or HuggingFaceSource(tmp_path / name).items() == []


def test_a_set_without_rows_has_no_items(tmp_path):
    assert save(tmp_path / "set", {"frames": []}, {"frames": List(Image())}).items() == []


def test_a_pickled_source_does_not_search_again(tmp_path):
    source = save_pictures(tmp_path / "set", pictures(2))
    source.items()
    copy = pickle.loads(pickle.dumps(source))
    (tmp_path / "set" / "state.json").unlink()
    assert levels_of(copy, ROW) == [0, 10]


def test_local_files_do_not_import_datasets(tmp_path):
    """Also an Array4D, a type that `datasets` registers."""
    video = np.full((2, 8, 8, 3), 9, np.uint8)
    save(tmp_path / "set", {"frames": [video]}, {"frames": Array4D((None, 8, 8, 3), "uint8")})
    code = (
        "import sys; from pathlib import Path\n"
        "from vdp.data.sources.protocols import Pace\n"
        "from vdp.data.sources.huggingface import HuggingFaceSource\n"
        f"frames = list(HuggingFaceSource(Path({str(tmp_path / 'set')!r})).frames('row_000000', Pace()))\n"
        "print([int(frame.pixels.mean()) for frame in frames], 'datasets' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.stdout == "[9, 9] False\n", done.stderr


# --- Columns ---------------------------------------------------------------------------------------------


def test_a_column_of_a_preferred_name_is_used(tmp_path):
    rows = {"left": [pictures(3)], "images": [pictures(2, start=7)], "right": [pictures(4)]}
    source = save(tmp_path / "set", rows, dict.fromkeys(rows, List(Image())))
    assert levels_of(source, ROW) == [7, 17]


@pytest.mark.parametrize("name", ["video", "frames", "images", "other"])
def test_pairs_are_used_before_any_other_column(tmp_path, name):
    rows = {name: [pictures(4, start=20)], "input": [pictures(2, start=7)], "target": [pictures(2)]}
    source = save(tmp_path / "set", rows, dict.fromkeys(rows, List(Image())))
    frames = frames_of(source, ROW)
    assert levels(np.stack([frame.pixels for frame in frames])) == [0, 10]
    assert levels(np.stack([frame.condition for frame in frames])) == [7, 17]


@pytest.mark.parametrize(("name", "other"), [("target", "title"), ("input", "title"), ("frames", "target")])
def test_half_a_pair_is_a_column_of_videos_where_the_other_name_is_missing(tmp_path, name, other):
    features = {name: List(Image()), other: Value("string")}
    source = save(tmp_path / "set", {name: [pictures(2)], other: ["a"]}, features)
    assert levels_of(source, ROW) == [0, 10]
    assert [frame.condition for frame in frames_of(source, ROW)] == [None, None]


def test_columns_of_other_types_are_ignored(tmp_path):
    features = {"x": List(Image()), "poster": Image(), "sounds": List(Audio()), "text": Value("string")}
    features |= {"classes": List(Value("int64")), "depth": Array3D((2, 4, 4), "uint8")}
    rows = {"x": [pictures(2)], "poster": pictures(1), "sounds": [[]], "text": ["a"], "classes": [[1]]}
    source = save(tmp_path / "set", rows | {"depth": [np.zeros((2, 4, 4), np.uint8)]}, features)
    assert levels_of(source, ROW) == [0, 10]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"a": Image(), "n": Value("int64")}, r"one column of videos .* none of a \(Image\), n \(int64\)"),
        ({"a": List(Image()), "b": List(Image())}, r"one column of videos .* a and b of a \(list of Image\)"),
        (
            {"input": List(Image()), "target": Video()},
            r"columns input and target of one type, got input \(list of Image\), target \(Video\)",
        ),
        (
            {"input": List(Image()), "target": Value("string")},
            r"columns input and target of one type, got .* target \(string\); store both alike, or, if they",
        ),
        ({"input": Image(), "target": List(Image())}, r"columns input and target of one type, got input \(I"),
        (
            {"input": List(Image()), "target": Value("string"), "video": List(Image())},
            "columns input and target of one type",
        ),
        ({"input": List(Image()), "b": List(Image())}, "one column of videos .* input and b of input"),
        ({"a": List(Image()), "mask": Value("string")}, r"one column of class ids .* mask \(string\)"),
        ({"a": List(Image()), "mask": List(Image()), "masks": List(Image())}, "got mask and masks"),
    ],
)
def test_unclear_columns_are_listed(tmp_path, features, message):
    check_refused(save(tmp_path / "set", {name: [None] for name in features}, features), message)


# --- Files of other writers ------------------------------------------------------------------------------

FILE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
VIDEO = gray_frames(3, height=4, width=6)
PNGS = [png(frame) for frame in VIDEO]


def nested(kind: pa.DataType, *sizes: int) -> pa.DataType:
    for size in sizes:
        kind = pa.list_(kind, size)
    return kind


@pytest.mark.parametrize(
    ("kind", "cell"),
    [
        (pa.list_(pa.binary()), PNGS),
        (pa.large_list(pa.large_binary()), PNGS),
        (pa.list_(FILE), [stored(data) for data in PNGS]),
        (pa.list_(pa.struct({"bytes": pa.binary()})), [{"bytes": data} for data in PNGS]),
        (nested(pa.uint8(), -1, -1, -1, -1), VIDEO.tolist()),
        (nested(pa.int64(), 3, 6, 4, -1), VIDEO.tolist()),
    ],
)
def test_plain_parquet_of_any_writer_is_read(tmp_path, kind, cell):
    source = HuggingFaceSource(write_parquet(tmp_path / "a.parquet", {"x": [cell, cell]}, {"x": kind}))
    for item in source.items():
        assert levels_of(source, item) == [0, 10, 20] and source.count(item) in (0, 3)


@pytest.mark.parametrize("kind", [FILE, pa.binary()])
def test_plain_bytes_are_a_video_in_a_column_of_that_name(tmp_path, kind):
    data = make_video_file(tmp_path / "v.mp4", frames=5).read_bytes()
    cell = data if kind == pa.binary() else stored(data)
    for name in ("video", "other"):
        write_parquet(tmp_path / name / "a.parquet", {name: [cell]}, {name: kind})
    assert len(frames_of(HuggingFaceSource(tmp_path / "video"), ROW)) == 5
    check_refused(HuggingFaceSource(tmp_path / "other"), "expected one column of videos")


def test_video_files_may_lie_beside_the_table(tmp_path):
    make_video_file(tmp_path / "v" / "a.mp4", frames=5)
    write_parquet(tmp_path / "a.parquet", {"video": [stored(None, "v/a.mp4")]}, {"video": FILE})
    assert len(frames_of(HuggingFaceSource(tmp_path), ROW)) == 5


def test_ascending_rows_of_a_group_are_decoded_once(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "a.parquet", {"frames": [[png(gray_frame(k, 4, 6))] for k in range(20)]})
    file, started = open_table(path)._file, []
    plain = file.iter_batches
    monkeypatch.setattr(
        file, "iter_batches", lambda *a, **k: started.append(a) or plain(*a, **k), raising=False
    )
    source = HuggingFaceSource(path)
    assert [levels_of(source, item)[0] for item in source.items()[::3]] == list(range(0, 20, 3))
    assert len(started) == 1


# --- Invalid rows ----------------------------------------------------------------------------------------

ZEROS = np.zeros((4, 6), np.uint8)
JPEG = cv2.imencode(".jpg", ZEROS)[1].tobytes()


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (None, "row 0, frames: is null"),
        ([], "row 0, frames: an empty list"),
        ([*pictures(1), None], r"row 0, frames\[1\]: is null"),
        ([*pictures(1), stored(b"no")], r"row 0, frames\[1\]: not a readable picture"),
        ([stored(None)], r"row 0, frames\[0\]: file None not found"),
        ([stored(None, "gone.png")], r"row 0, frames\[0\]: file gone.png not found"),
        (
            [stored(None, "https://example.org/a.png")],
            r"frames\[0\]: file https://example.org/a.png not found",
        ),
        ([*pictures(1), stored(PNGS[0])], "row 0, picture 1: expected the size .* 96x64, got 6x4"),
    ],
)
def test_unusable_pictures_are_named(tmp_path, cell, message):
    path = write_parquet(tmp_path / "a.parquet", {"frames": [cell]}, {"frames": pa.list_(FILE)})
    check_refused(HuggingFaceSource(path), message, ROW)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ([[[[0] * 3] * 6] * 4, [[[0] * 3] * 6] * 3], "lists of different lengths"),
        ([[]], "or empty ones"),
        ([[[[0] * 4] * 6] * 4], r"expected shape \(T, H, W, 3\), got \(1, 4, 6, 4\)"),
        ([[[[0, 0, None]]]], "expected integers from 0 to 255"),
        ([[[[0, 0, 256]]]], "expected integers from 0 to 255"),
        ([[[None]]], "lists of different lengths"),
    ],
)
def test_unusable_arrays_are_named(tmp_path, cell, message):
    kind = nested(pa.int16(), -1, -1, -1, -1)
    path = write_parquet(tmp_path / "a.parquet", {"x": [cell]}, {"x": kind})
    check_refused(HuggingFaceSource(path), f"row 0, x: .*{message}", ROW)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([ZEROS], "2 pictures and 1 masks"),
        ([ZEROS[1:], ZEROS[1:]], "mask 0: expected the size .* 6x4, got 6x3"),
        ([ZEROS, ZEROS - np.int16(1)], "masks: expected integers from 0 to 255"),
        ([ZEROS, ZEROS[1:]], "masks: .* lists of different lengths"),
        (png(ZEROS[:, 1:]), "mask 1: expected the size .* 6x4, got 5x4"),
        (png(VIDEO[0]), r"masks\[1\]: expected a gray picture .* got uint8 \(4, 6, 3\)"),
        (JPEG, r"masks\[1\]: a mask stored as JPEG"),
        (b"no", r"masks\[1\]: expected a gray picture .* unreadable"),
    ],
)
def test_unusable_masks_are_named(tmp_path, masks, message):
    kind, cell = pa.list_(pa.binary()), [png(ZEROS), masks]
    if isinstance(masks, list):
        kind, cell = nested(pa.int16(), -1, -1, -1), [mask.tolist() for mask in masks]
    schema = {"frames": pa.list_(pa.binary()), "masks": kind}
    path = write_parquet(tmp_path / "a.parquet", {"frames": [PNGS[:2]], "masks": [cell]}, schema)
    check_refused(HuggingFaceSource(path), f"row 0.*{message}", ROW)


def test_a_video_needs_one_mask_per_frame(tmp_path):
    rows = {"video": [make_video_file(tmp_path / "a.mp4", frames=5).read_bytes()] * 2}
    rows["masks"] = [mask_stack(5), mask_stack(4)]
    source = save(tmp_path / "set", rows, {"video": Video(), "masks": List(List(List(Value("uint8"))))})
    assert masks_of(source, ROW) == [1, 2, 3, 4, 5]
    check_refused(source, "row 1: expected one mask per frame, got 4 masks", "row_000001")


def test_an_unreadable_video_is_named_by_its_row(tmp_path):
    write_parquet(tmp_path / "a.parquet", {"video": [b"no video"]})
    check_refused(HuggingFaceSource(tmp_path), f"^{tmp_path}, row 0, video: not a readable video")


def test_pictures_have_no_frame_rate(tmp_path):
    with pytest.raises(ValueError, match="set, row 0: no frame rate"):
        frames_of(save_pictures(tmp_path / "set", pictures(2)), ROW, Pace(fps=5))


# --- Broken files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (ARROW, lambda data: b"", "not a readable Arrow file"),
        (ARROW, lambda data: data[: len(data) // 2], "not a readable Arrow file"),
        (ARROW, lambda data: data.replace(b"frames", b"f\xffames"), "the name of a column is not text"),
        ("state.json", lambda data: b"{", "expected a list _data_files"),
        ("state.json", lambda data: b'{"_data_files": 5}', "expected a list _data_files"),
        ("state.json", lambda data: data.replace(b"data-0", b"gone-0"), "gone-00000.*: not a readable Arrow"),
        ("state.json", lambda data: b'{"_data_files": [5]}', "not a readable Arrow"),
        ("state.json", None, "state.json: part of a saved data set, cannot be read"),
    ],
)  # fmt: skip
def test_a_broken_saved_set_is_named(tmp_path, name, change: Callable[[bytes], bytes] | None, message):
    source = save_pictures(tmp_path / "set", pictures(2), pictures(2))
    path = tmp_path / "set" / name
    if change:
        path.write_bytes(change(path.read_bytes()))
    else:
        path.unlink()
    check_refused(source, message)


@pytest.mark.parametrize("name", ["state.json", ARROW])
def test_a_pipe_does_not_block(tmp_path, name):
    source = save_pictures(tmp_path / "set", pictures(2))
    (tmp_path / "set" / name).unlink()
    os.mkfifo(tmp_path / "set" / name)
    check_refused(source, f"{name}: .*not a file")


def test_wrong_offsets_in_a_file_do_not_crash(tmp_path):
    source = save_pictures(tmp_path / "set", pictures(1) * 2)
    path, size = tmp_path / "set" / ARROW, len(png(gray_frame(0)))
    right, wrong = (np.array([0, size, end], np.int32).tobytes() for end in (2 * size, 2**31 - 1))
    data = path.read_bytes()
    assert data.count(right) == 1
    path.write_bytes(data.replace(right, wrong))
    check_refused(source, f"row 0: cannot be read from {path}")


def test_a_broken_page_of_parquet_is_named_with_its_row(tmp_path):
    """Rows before it can be read, also after it was tried."""
    rows = [[png(gray_frame(k))] for k in range(4)]
    path, one_by_one = tmp_path / "a.parquet", {"write_batch_size": 1, "data_page_size": 1}
    pq.write_table(pa.table({"frames": rows}), path, use_dictionary=False, compression="NONE", **one_by_one)
    data = bytearray(path.read_bytes())
    start = data.index(rows[2][0])
    data[start - 40 : start] = b"\xff" * 40  # the page's header
    path.write_bytes(data)
    source = HuggingFaceSource(path)
    for row in (2, 3):
        assert levels_of(source, ROW) == [0]
        check_refused(source, f"row {row}: cannot be read from {path}", f"row_{row:06d}")


# --- The hub ---------------------------------------------------------------------------------------------


@pytest.fixture
def hub() -> Iterator[str]:
    """Address of a hub where every data set is gated, missing or broken, by its name."""
    answers = {"gated": (403, "GatedRepo"), "missing": (404, "RepoNotFound"), "broken": (500, "")}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, code = answers[self.path.rpartition("/")[2]]
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("gated", "gated repo"), ("missing", "Repository Not Found"), ("broken", "Server error")],
)
def test_an_error_of_the_hub_is_one_line(hub, monkeypatch, name, reason):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub)
    message = rf"^user/{name}: not loaded from the Hugging Face hub \(.*{reason}.*save_to_disk"
    check_refused(HuggingFaceSource.from_hub(f"user/{name}"), message)


def test_an_unreachable_hub_fails_within_seconds(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    check_refused(HuggingFaceSource.from_hub("user/set"), "not loaded from the Hugging Face hub")
    assert time.monotonic() - start < 5


def test_offline_the_cache_is_used(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    check_refused(HuggingFaceSource.from_hub("user/no-such-set"), r"\(Couldn't reach 'user/no-such-set'")


@pytest.mark.parametrize("name", ["parquet", "a/b/c", "../a", "user/", "user/a b", ""])
def test_only_a_name_of_the_hub_is_requested(name):
    with pytest.raises(ValueError, match="expected the name of a data set of the hub, user/name"):
        HuggingFaceSource.from_hub(name).items()


def test_a_set_of_the_hub_is_loaded_once_and_read_as_a_saved_one(tmp_path, monkeypatch):
    frames = {"frames": [pictures(2), pictures(3)]}
    data = Dataset.from_dict(frames, features=Features({"frames": List(Image())}))
    DatasetDict({"train": data, "test": data.select([1])}).save_to_disk(tmp_path / "cache")
    loaded = []

    def load(path: str, config: str | None, revision: str | None, keep_in_memory: bool) -> DatasetDict:
        assert datasets.are_progress_bars_disabled() and not keep_in_memory
        loaded.append((path, config, revision))
        return DatasetDict.load_from_disk(tmp_path / "cache")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *args, **kwargs: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    source = HuggingFaceSource.from_hub("user/set", "small", "v1")
    assert source.items() == ["train/row_000000", "train/row_000001", "test/row_000000"]
    assert loaded == [("hf://datasets/user/set", "small", "v1")]
    copy = pickle.loads(pickle.dumps(source))
    assert levels_of(copy, "test/row_000000") == [0, 10, 20] and len(loaded) == 1
    assert copy.files("test/row_000000") == [] and copy.label("test/row_000000") == "user/set, row 0 of test"
