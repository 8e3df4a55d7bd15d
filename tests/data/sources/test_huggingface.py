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

from tests.data.sources.source_contract import (
    REAL_CLIPS,
    REAL_VIDEOS,
    SourceContract,
    clips_of,
    frames_of,
    gray_frame,
    levels,
    make_video_file,
)
from vdp.data.sources.huggingface import HuggingFaceSource
from vdp.data.sources.protocols import Pace
from vdp.data.sources.table_files import open_table

datasets.disable_progress_bars()

REPO = Path(__file__).parents[3]


def png(array: np.ndarray) -> bytes:
    return cv2.imencode(".png", array)[1].tobytes()


def pictures(frames: int = 22, start: int = 0) -> list[dict[str, bytes | None]]:
    """Picture k is of gray level start + 10 k."""
    return [{"bytes": png(gray_frame(start + 10 * k)), "path": None} for k in range(frames)]


def mask_arrays(frames: int = 22) -> np.ndarray:
    """Mask k is of class k + 1."""
    return np.stack([np.full((64, 96), k + 1, np.uint8) for k in range(frames)])


def mask_pictures(frames: int = 22) -> list[dict[str, bytes | None]]:
    return [{"bytes": png(mask), "path": None} for mask in mask_arrays(frames)]


def save(folder: Path, rows: dict[str, list], features: dict[str, object]) -> HuggingFaceSource:
    Dataset.from_dict(rows, features=Features(features)).save_to_disk(folder)
    return HuggingFaceSource(folder)


def save_pictures(folder: Path, *rows: object) -> HuggingFaceSource:
    return save(folder, {"frames": list(rows)}, {"frames": List(Image())})


def write_parquet(path: Path, rows: dict[str, list], schema: dict[str, pa.DataType] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(rows, schema=pa.schema(schema) if schema else None), path)
    return path


def masks_of(source: HuggingFaceSource, item: str) -> list[int | None]:
    """Class of each mask, the same all over."""
    return [None if f.mask is None else int(np.unique(f.mask).item()) for f in frames_of(source, item)]


def levels_of(source: HuggingFaceSource, item: str) -> list[int]:
    return levels(np.stack([frame.pixels for frame in frames_of(source, item)]))


def refusal(source: HuggingFaceSource, item: str | None = None) -> str:
    """The one line of a source, or of one of its rows, that cannot be used."""
    with pytest.raises(ValueError) as error:
        items = source.items()
        frames_of(source, item or items[0])
    assert "\n" not in str(error.value) and source.place in str(error.value)
    return str(error.value)


# --- The contract, for each way to store videos ----------------------------------------------------------


class HuggingFaceContract(SourceContract):
    kind = HuggingFaceSource

    def test_nothing_is_written_beside_the_data(self, source):
        before = sorted(Path(source.place).rglob("*"))
        clips_of(source)
        assert sorted(Path(source.place).rglob("*")) == before


class TestSavedPictures(HuggingFaceContract):
    real = REAL_CLIPS / "train"

    def make(self, folder: Path) -> HuggingFaceSource:
        rows = {"id": [7, 8, 9], "frames": [pictures(22), pictures(25), pictures(22, start=5)]}
        rows["masks"] = [mask_pictures(22), [], None]
        return save(folder, rows, {"id": Value("int64"), "frames": List(Image()), "masks": List(Image())})

    def real_source(self, real: Path, tmp_path: Path) -> HuggingFaceSource:
        return save_pictures(tmp_path / "set", [str(real / "video_0" / f"image_{k}.png") for k in range(22)])

    def test_rows_are_videos_in_their_order(self, source):
        assert source.items() == ["row_000000", "row_000001", "row_000002"]
        assert source.label("row_000002") == f"{source.place}, row 2"
        assert [source.count(item) for item in source.items()] == [22, 25, 22]
        assert levels_of(source, "row_000002") == [5 + 10 * k for k in range(22)]

    def test_masks_go_with_their_frames(self, source):
        assert masks_of(source, "row_000000") == list(range(1, 23))

    def test_null_or_empty_masks_are_none(self, source):
        assert set(masks_of(source, "row_000001") + masks_of(source, "row_000002")) == {None}


class TestParquet(HuggingFaceContract):
    real = REAL_CLIPS / "train"

    def make(self, folder: Path) -> HuggingFaceSource:
        features = Features({"clip": List(Image()), "mask": List(List(List(Value("uint8"))))})
        for split, starts in {"train": (0, 1, 2), "test": (3, 4)}.items():
            rows = {"clip": [pictures(start=s) for s in starts], "mask": [mask_arrays()] * len(starts)}
            data = Dataset.from_dict(rows, features=features)
            path = folder / "data" / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            data.to_parquet(path, batch_size=2)
            assert pq.ParquetFile(path).num_row_groups == (len(starts) + 1) // 2
        return HuggingFaceSource(folder)

    def real_source(self, real: Path, tmp_path: Path) -> HuggingFaceSource:
        clip = [(real / "video_0" / f"image_{k}.png").read_bytes() for k in range(22)]
        write_parquet(tmp_path / "clips.parquet", {"frames": [clip]})
        return HuggingFaceSource(tmp_path / "clips.parquet")

    def test_rows_lie_below_their_split(self, source):
        assert source.items() == [f"test/row_00000{k}" for k in range(2)] + [
            f"train/row_00000{k}" for k in range(3)
        ]
        assert source.label("test/row_000001") == f"{source.place}, row 1 of test"
        assert source.files("test/row_000001") == [Path(source.place, "data", "test-00000-of-00001.parquet")]

    def test_the_count_needs_no_picture(self, source):
        assert [source.count(item) for item in source.items()] == [22] * 5

    def test_rows_may_be_read_in_any_order(self, source):
        items = [f"train/row_00000{k}" for k in (2, 0, 1, 1, 2)]
        assert [levels_of(source, item)[0] for item in items] == [2, 0, 1, 1, 2]

    def test_masks_go_with_their_frames(self, source):
        assert masks_of(source, "train/row_000001") == list(range(1, 23))


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

    def test_frames_are_those_of_the_file(self, source):
        np.testing.assert_allclose(levels_of(source, "row_000001"), [4 * k for k in range(50)], atol=6)

    def test_a_frame_rate_may_be_asked_for(self, source):
        frames = frames_of(source, "row_000001", Pace(fps=12.5))
        assert [frame.number for frame in frames] == list(range(0, 50, 2))
        with pytest.raises(ValueError, match="row 1, clip: has 25 frames per second, 30 are asked for"):
            frames_of(source, "row_000001", Pace(fps=30))


class TestSavedArrays(HuggingFaceContract):
    real = REAL_CLIPS / "train"

    def make(self, folder: Path) -> HuggingFaceSource:
        videos = [np.stack([gray_frame(k + v) for k in range(22)]) for v in range(3)]
        masks = [mask_arrays(), np.zeros((22, 64, 96), np.uint8), None]
        features = Features(
            {"pixels": Array4D((22, 64, 96, 3), "uint8"), "mask": Array3D((22, 64, 96), "uint8")}
        )
        rows = {"pixels": videos, "mask": masks}
        Dataset.from_dict(rows, features=features).save_to_disk(folder, num_shards=2)
        return HuggingFaceSource(folder)

    def real_source(self, real: Path, tmp_path: Path) -> HuggingFaceSource:
        video = np.stack([cv2.imread(str(real / "video_0" / f"image_{k}.png")) for k in range(22)])
        return save(tmp_path / "set", {"x": [video]}, {"x": Array4D(video.shape, "uint8")})

    def test_masks_go_with_their_frames(self, source):
        assert masks_of(source, "row_000000") == list(range(1, 23))
        assert masks_of(source, "row_000002") == [None] * 22

    def test_rows_are_found_in_their_shards(self, source):
        assert [source.files(item)[0].name[:10] for item in source.items()] == ["data-00000"] * 2 + [
            "data-00001"
        ]
        assert [levels_of(source, item)[0] for item in source.items()] == [0, 1, 2]


# --- Where the rows are ----------------------------------------------------------------------------------


def test_splits_of_a_saved_dict_come_first_in_the_names(tmp_path):
    data = Dataset.from_dict({"frames": [pictures(2)] * 2}, features=Features({"frames": List(Image())}))
    DatasetDict({"train": data, "validation": data.select([0])}).save_to_disk(tmp_path)
    source = HuggingFaceSource(tmp_path)
    assert source.items() == ["train/row_000000", "train/row_000001", "validation/row_000000"]
    assert source.files("train/row_000001") == [tmp_path / "train" / "data-00000-of-00001.arrow"]
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
def test_the_split_of_a_parquet_file_is_told_by_its_name(tmp_path, path, split):
    write_parquet(tmp_path / "train" / path, {"frames": [[png(gray_frame(0))]]})
    assert HuggingFaceSource(tmp_path / "train").items() == [f"{split}row_000000"]


def test_shards_of_a_split_are_one_after_another(tmp_path):
    for k, rows in enumerate((2, 0, 1)):
        frames = [[png(gray_frame(10 * k + row))] for row in range(rows)]
        path = tmp_path / f"train-{k:05d}-of-00003.parquet"
        write_parquet(path, {"frames": frames}, {"frames": pa.list_(pa.binary())})
    source = HuggingFaceSource(tmp_path)
    assert [levels_of(source, item)[0] for item in source.items()] == [0, 1, 20]


def test_a_file_that_belongs_to_no_split_among_others_is_refused(tmp_path):
    for name in ("train.parquet", "more.parquet"):
        write_parquet(tmp_path / name, {"frames": [[b"x"]]})
    assert "more.parquet: belongs to no split, as " in refusal(HuggingFaceSource(tmp_path))


@pytest.mark.parametrize("name", ["a.mp4", "state.json", "notes.txt", ".cache/train.parquet"])
def test_a_folder_of_another_kind_has_no_items(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    assert HuggingFaceSource(tmp_path).items() == []


def test_a_file_of_another_kind_has_no_items(tmp_path):
    assert HuggingFaceSource(make_video_file(tmp_path / "a.mp4", frames=2)).items() == []


def test_a_set_without_rows_has_no_items(tmp_path):
    assert save(tmp_path / "set", {"frames": []}, {"frames": List(Image())}).items() == []


def test_a_worker_is_sent_what_was_found(tmp_path):
    source = save_pictures(tmp_path / "set", pictures(2))
    source.items()
    copy = pickle.loads(pickle.dumps(source))
    (tmp_path / "set" / "state.json").unlink()
    assert levels_of(copy, "row_000000") == [0, 10]


def test_local_files_need_no_datasets_library(tmp_path):
    """Nor its types: an Array4D is read by a process that has not registered it."""
    rows = {"frames": [np.full((2, 8, 8, 3), 9, np.uint8)]}
    save(tmp_path / "set", rows, {"frames": Array4D((None, 8, 8, 3), "uint8")})
    code = (
        "import sys; from pathlib import Path\n"
        "from vdp.data.sources.protocols import Pace\n"
        "from vdp.data.sources.huggingface import HuggingFaceSource\n"
        f"frames = list(HuggingFaceSource(Path({str(tmp_path / 'set')!r})).frames('row_000000', Pace()))\n"
        "print([int(frame.pixels.mean()) for frame in frames], 'datasets' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.stdout == "[9, 9] False\n", done.stderr


# --- Which columns ---------------------------------------------------------------------------------------


def test_a_column_of_a_telling_name_wins(tmp_path):
    rows = {"left": [pictures(3)], "images": [pictures(2, start=7)], "right": [pictures(4)]}
    source = save(tmp_path / "set", rows, dict.fromkeys(rows, List(Image())))
    assert levels_of(source, "row_000000") == [7, 17]


def test_other_columns_do_not_matter(tmp_path):
    features = {"x": List(Image()), "poster": Image(), "sounds": List(Audio()), "text": Value("string")}
    features |= {"classes": List(Value("int64")), "depth": Array3D((2, 4, 4), "uint8")}
    rows = {"x": [pictures(2)], "poster": pictures(1), "sounds": [[]], "text": ["a"], "classes": [[1]]}
    source = save(tmp_path / "set", rows | {"depth": [np.zeros((2, 4, 4), np.uint8)]}, features)
    assert levels_of(source, "row_000000") == [0, 10]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"a": Image(), "n": Value("int64")}, r"no column holds .* a \(Image\), n \(int64\)"),
        ({"a": List(Image()), "b": List(Image())}, r"a and b may each .* a \(list of Image\)"),
        ({"a": List(Image()), "mask": Value("string")}, "column mask holds string; expected class ids"),
        ({"a": List(Image()), "mask": List(Image()), "masks": List(Image())}, "two columns of masks"),
    ],
)
def test_columns_that_leave_a_doubt_are_listed(tmp_path, features, message):
    source = save(tmp_path / "set", {name: [None] for name in features}, features)
    with pytest.raises(ValueError, match=message):
        source.items()
    refusal(source)


def test_files_of_two_sets_in_one_folder_are_refused(tmp_path):
    write_parquet(tmp_path / "a.parquet", {"frames": [[b"x"]]})
    write_parquet(tmp_path / "b.parquet", {"video": [b"x"]})
    assert "b.parquet: expected the videos in column frames, as in" in refusal(HuggingFaceSource(tmp_path))


# --- What other writers of parquet store -----------------------------------------------------------------

FILE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
U8 = pa.uint8()
VIDEO = np.stack([gray_frame(10 * k, 4, 6) for k in range(3)])


@pytest.mark.parametrize(
    ("kind", "cell"),
    [
        (pa.list_(pa.binary()), [png(frame) for frame in VIDEO]),
        (pa.large_list(pa.large_binary()), [png(frame) for frame in VIDEO]),
        (pa.list_(FILE), [{"bytes": png(frame), "path": None} for frame in VIDEO]),
        (pa.list_(pa.struct({"bytes": pa.binary()})), [{"bytes": png(frame)} for frame in VIDEO]),
        (pa.list_(pa.list_(pa.list_(pa.list_(U8)))), VIDEO.tolist()),
        (pa.list_(pa.list_(pa.list_(pa.list_(pa.int64(), 3), 6), 4)), VIDEO.tolist()),
    ],
)
def test_plain_parquet_of_any_writer_is_read(tmp_path, kind, cell):
    path = write_parquet(tmp_path / "a.parquet", {"x": [cell, cell]}, {"x": kind})
    source = HuggingFaceSource(path)
    for item in source.items():
        assert levels_of(source, item) == [0, 10, 20] and source.count(item) in (0, 3)


@pytest.mark.parametrize("kind", [FILE, pa.binary()])
def test_plain_bytes_are_a_video_in_a_column_of_that_name(tmp_path, kind):
    data = make_video_file(tmp_path / "v.mp4", frames=5).read_bytes()
    cell = data if kind == pa.binary() else {"bytes": data, "path": None}
    for name in ("video", "other"):
        write_parquet(tmp_path / name / "a.parquet", {name: [cell]}, {name: kind})
    assert len(frames_of(HuggingFaceSource(tmp_path / "video"), "row_000000")) == 5
    assert "no column holds videos" in refusal(HuggingFaceSource(tmp_path / "other"))


def test_files_may_lie_beside_the_table(tmp_path):
    make_video_file(tmp_path / "v" / "a.mp4", frames=5)
    write_parquet(tmp_path / "a.parquet", {"video": [{"bytes": None, "path": "v/a.mp4"}]}, {"video": FILE})
    assert len(frames_of(HuggingFaceSource(tmp_path), "row_000000")) == 5


def test_a_large_group_of_rows_is_read_row_by_row(tmp_path, monkeypatch):
    """Rows in ascending order, as a worker gets them, decode each row of their group once."""
    cells = [[png(gray_frame(k, 4, 6))] for k in range(20)]
    path = write_parquet(tmp_path / "a.parquet", {"frames": cells})
    file, started = open_table(path), []
    plain = file._file.iter_batches
    monkeypatch.setattr(
        file._file, "iter_batches", lambda *a, **k: started.append(a) or plain(*a, **k), raising=False
    )
    source = HuggingFaceSource(path)
    assert [levels_of(source, item)[0] for item in source.items()[::3]] == list(range(0, 20, 3))
    assert len(started) == 1


# --- What cannot be used ---------------------------------------------------------------------------------

ROW = "row_000000"
ZEROS = [[0] * 6] * 4


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (None, "row 0, frames: is null, expected a video"),
        ([], "row 0, frames: an empty list, expected pictures"),
        ([*pictures(1), None], r"row 0, frames\[1\]: is null"),
        ([*pictures(1), {"bytes": b"no", "path": None}], r"row 0, frames\[1\]: not a readable picture"),
        ([*pictures(1), {"bytes": b"", "path": None}], r"row 0, frames\[1\]: not a readable picture"),
        ([{"bytes": None, "path": None}], r"row 0, frames\[0\]: has neither"),
        ([*pictures(1), {"bytes": png(VIDEO[0]), "path": None}], "one size, 96x64, got 6x4 at 1"),
    ],
)  # fmt: skip
def test_a_row_without_usable_pictures_is_named(tmp_path, cell, message):
    path = write_parquet(tmp_path / "a.parquet", {"frames": [cell]}, {"frames": pa.list_(FILE)})
    source = HuggingFaceSource(path)
    with pytest.raises(ValueError, match=message):
        frames_of(source, ROW)
    refusal(source)


def test_a_path_that_is_not_text_is_told(tmp_path):
    cell = [{"bytes": png(VIDEO[0]), "path": "tele.png"}]
    path = tmp_path / "a.parquet"
    table = pa.table({"frames": [cell]}, schema=pa.schema({"frames": pa.list_(FILE)}))
    pq.write_table(table, path, use_dictionary=False, compression="NONE", write_statistics=False)
    data = path.read_bytes()
    assert data.count(b"tele.png") == 1
    path.write_bytes(data.replace(b"tele.png", b"t\xffle.png"))
    assert "row 0: cannot be read from" in refusal(HuggingFaceSource(path))


@pytest.mark.parametrize("path", ["gone.png", "https://example.org/a.png", "hf://datasets/a/b@c/a.png"])
def test_a_file_that_is_not_here_is_named(tmp_path, path):
    write_parquet(
        tmp_path / "a.parquet", {"frames": [[{"bytes": None, "path": path}]]}, {"frames": pa.list_(FILE)}
    )
    assert f"row 0, frames[0]: {path} is not here" in refusal(HuggingFaceSource(tmp_path))


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ([[[[0] * 3] * 6] * 4, [[[0] * 3] * 6] * 3], "lists of different lengths"),
        ([[]], "or empty ones"),
        ([[[[0] * 4] * 6] * 4], r"expected shape \(T, H, W, 3\), got \(1, 4, 6, 4\)"),
        ([[[[0, 0, None]]]], "expected integers from 0 to 255"),
        ([[[[0, 0, 256]]]], "expected integers from 0 to 255"),
        ([[[[0, 0, -1]]]], "expected integers from 0 to 255"),
        ([[[None]]], "lists of different lengths"),
    ],
)
def test_an_array_that_is_no_video_is_named(tmp_path, cell, message):
    kind = pa.list_(pa.list_(pa.list_(pa.list_(pa.int16()))))
    source = HuggingFaceSource(write_parquet(tmp_path / "a.parquet", {"x": [cell]}, {"x": kind}))
    with pytest.raises(ValueError, match="row 0, x: .*" + message):
        frames_of(source, ROW)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([ZEROS], "2 pictures and 1 masks"),
        ([ZEROS[1:], ZEROS[1:]], "masks of the frames' size, 6x4, got 6x3 at 0"),
        ([ZEROS, [[49] * 6] * 4], "row 0, masks: class id 49 is over 48"),
        ([ZEROS, [[-1] * 6] * 4], "row 0, masks: expected integers from 0 to 255"),
        ([ZEROS, ZEROS[1:]], "row 0, masks: .* lists of different lengths"),
    ],
)
def test_mask_arrays_that_do_not_fit_are_named(tmp_path, masks, message):
    kinds = {"frames": pa.list_(pa.binary()), "masks": pa.list_(pa.list_(pa.list_(pa.int16())))}
    rows = {"frames": [[png(frame) for frame in VIDEO[:2]]], "masks": [masks]}
    source = HuggingFaceSource(write_parquet(tmp_path / "a.parquet", rows, kinds))
    with pytest.raises(ValueError, match=message):
        frames_of(source, ROW)


JPEG = cv2.imencode(".jpg", np.zeros((4, 6), np.uint8))[1].tobytes()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (png(np.zeros((4, 5), np.uint8)), "masks of the frames' size, 6x4, got 5x4 at 1"),
        (png(np.full((4, 6), 49, np.uint8)), r"masks\[1\]: class id 49 is over 48"),
        (png(np.full((4, 6), 300, np.uint16)), r"masks\[1\]: class id 255 is over 48"),
        (png(np.zeros((4, 6, 3), np.uint8)), r"masks\[1\]: expected a gray picture .* got uint8 \(4, 6, 3\)"),
        (JPEG, r"masks\[1\]: a mask stored as JPEG"),
        (b"no", r"masks\[1\]: expected a gray picture .* unreadable"),
        (b"", r"masks\[1\]: expected a gray picture .* unreadable"),
    ],
)
def test_mask_pictures_that_do_not_fit_are_named(tmp_path, mask, message):
    rows = {
        "frames": [[png(frame) for frame in VIDEO[:2]]],
        "masks": [[png(np.zeros((4, 6), np.uint8)), mask]],
    }
    source = HuggingFaceSource(write_parquet(tmp_path / "a.parquet", rows))
    with pytest.raises(ValueError, match=f"row 0.*{message}"):
        frames_of(source, ROW)


def test_a_video_needs_a_mask_for_each_frame(tmp_path):
    rows = {"video": [make_video_file(tmp_path / "a.mp4", frames=5).read_bytes()] * 2}
    rows["masks"] = [mask_arrays(5), mask_arrays(4)]
    features = Features({"video": Video(), "masks": List(List(List(Value("uint8"))))})
    Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "set")
    source = HuggingFaceSource(tmp_path / "set")
    assert masks_of(source, "row_000000") == [1, 2, 3, 4, 5]
    assert "row 1: expected a mask for each frame, got 4 masks" in refusal(source, "row_000001")


def test_an_unreadable_video_is_named_by_its_row(tmp_path):
    write_parquet(tmp_path / "a.parquet", {"video": [b"no video"]})
    assert refusal(HuggingFaceSource(tmp_path)).startswith(f"{tmp_path}, row 0, video: not a readable video")


def test_pictures_state_no_frame_rate(tmp_path):
    source = save_pictures(tmp_path / "set", pictures(2))
    with pytest.raises(ValueError, match="set, row 0: states no frame rate"):
        frames_of(source, ROW, Pace(fps=5))


def broken(folder: Path, name: str, change: Callable[[bytes], bytes]) -> HuggingFaceSource:
    """A saved set one file of which was changed."""
    save_pictures(folder, pictures(2), pictures(2))
    path = folder / name
    path.write_bytes(change(path.read_bytes()))
    return HuggingFaceSource(folder)


ARROW = "data-00000-of-00001.arrow"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (ARROW, lambda data: b"", "not a readable Arrow file"),
        (ARROW, lambda data: data[:1000], "not a readable Arrow file"),
        (ARROW, lambda data: data.replace(b"frames", b"f\xffames"), "arrow: a column's name is not text"),
        (ARROW, lambda data: data[: len(data) // 2], "not a readable Arrow file"),
        ("state.json", lambda data: b"{", "expected a list _data_files"),
        ("state.json", lambda data: b"[" * 100_000, "expected a list _data_files"),
        ("state.json", lambda data: b'{"_data_files": 5}', "expected a list _data_files"),
        ("state.json", lambda data: data.replace(b"data-0", b"gone-0"), "gone-00000.*: not a readable Arrow"),
        ("state.json", lambda data: b'{"_data_files": [5]}', "not a readable Arrow"),
    ],
)  # fmt: skip
def test_a_broken_set_is_named_before_its_rows(tmp_path, name, change, message):
    source = broken(tmp_path / "set", name, change)
    with pytest.raises(ValueError, match=message):
        source.items()
    refusal(source)


def test_a_set_that_lost_its_state_is_no_folder_of_another_kind(tmp_path):
    source = save_pictures(tmp_path / "set", pictures(2))
    (tmp_path / "set" / "state.json").unlink()
    assert "state.json: expected in a saved data set, cannot be read" in refusal(source)


@pytest.mark.parametrize("name", ["state.json", ARROW])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    source = save_pictures(tmp_path / "set", pictures(2))
    (tmp_path / "set" / name).unlink()
    os.mkfifo(tmp_path / "set" / name)
    assert f"{name}: " in refusal(source) and "not a file" in refusal(source)


def test_wrong_offsets_in_a_file_are_told_and_do_not_crash(tmp_path):
    size = len(png(gray_frame(0)))
    offsets = np.array([0, size, 2 * size], np.int32).tobytes()

    def far_away(data: bytes) -> bytes:
        assert data.count(offsets) == 1
        return data.replace(offsets, np.array([0, size, 2**31 - 1], np.int32).tobytes())

    folder = tmp_path / "set"
    same = [{"bytes": png(gray_frame(0)), "path": None}] * 2
    save_pictures(folder, same)
    (folder / ARROW).write_bytes(far_away((folder / ARROW).read_bytes()))
    assert f"row 0: cannot be read from {folder / ARROW}" in refusal(HuggingFaceSource(folder))


@pytest.mark.parametrize("cut", [0, 20, -20])
def test_a_broken_parquet_file_is_named(tmp_path, cut):
    path = write_parquet(tmp_path / "a.parquet", {"frames": [[b"x"]]})
    path.write_bytes(path.read_bytes()[:cut])
    assert "a.parquet: not a readable parquet file" in refusal(HuggingFaceSource(tmp_path))


def test_a_broken_page_of_parquet_is_named_with_its_row(tmp_path):
    """Rows before it can be read, also after it was tried."""
    rows = [[png(gray_frame(k))] for k in range(4)]
    path, one_by_one = tmp_path / "a.parquet", {"write_batch_size": 1, "data_page_size": 1}
    pq.write_table(pa.table({"frames": rows}), path, use_dictionary=False, compression="NONE", **one_by_one)
    data = bytearray(path.read_bytes())
    at = data.index(rows[2][0])
    data[at - 40 : at] = b"\xff" * 40  # the page's header
    path.write_bytes(data)
    source = HuggingFaceSource(path)
    for row in (0, 2, 3, 0):
        if row == 0:
            assert levels_of(source, "row_000000") == [0]
        else:
            assert f"row {row}: cannot be read from {path}" in refusal(source, f"row_{row:06d}")


# --- The hub ---------------------------------------------------------------------------------------------


@pytest.fixture
def hub() -> Iterator[str]:
    """Address of a hub where every data set is gated, missing or broken, as its name says."""
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
def test_a_hub_that_refuses_is_told_in_one_line(hub, monkeypatch, name, reason):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub)
    line = refusal(HuggingFaceSource.from_hub(f"user/{name}"))
    assert line.startswith(f"user/{name}: not loaded from the Hugging Face hub (") and reason in line
    assert line.endswith("or load it elsewhere, save_to_disk it and name that folder")


def test_a_hub_out_of_reach_is_told_at_once(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    assert "not loaded from the Hugging Face hub" in refusal(HuggingFaceSource.from_hub("user/set"))
    assert time.monotonic() - start < 5


def test_offline_only_what_was_downloaded_is_there(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert "(Couldn't reach 'user/no-such-set'" in refusal(HuggingFaceSource.from_hub("user/no-such-set"))


@pytest.mark.parametrize("name", ["parquet", "a/b/c", "../a", "user/", "user/a b", ""])
def test_only_a_name_of_the_hub_is_asked_for(name):
    with pytest.raises(ValueError, match="expected the name of a data set of the hub, user/name"):
        HuggingFaceSource.from_hub(name).items()


def test_a_set_of_the_hub_is_loaded_once_and_read_as_a_saved_one(tmp_path, monkeypatch, capsys):
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
