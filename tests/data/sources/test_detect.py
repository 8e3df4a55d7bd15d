import json
import os
from pathlib import Path

import pytest

from tests.data.sources.source_contract import REAL_CLIPS, REAL_VIDEOS, make_picture_folder, make_video_file
from vdp.data.params import ExtractParams
from vdp.data.sources.competition import CompetitionSource
from vdp.data.sources.detect import KINDS, open_source
from vdp.data.sources.images import ImageFolderSource
from vdp.data.sources.left_out import BROKEN_LINK, HIDDEN, OTHER, PICTURE, SPECIAL, describe_left_out
from vdp.data.sources.pairs import PairSource
from vdp.data.sources.protocols import LeftOut, Source
from vdp.data.sources.select import NO_SPLIT, Selection, select_videos
from vdp.data.sources.videos import VideoSource

PARAMS = {
    "val": None, "val_share": 0.5, "unlabeled": None, "test_sets": {}, "interval": 1, "fps": None,
    "offset": 0, "stride": 22, "fit": "crop", "on_bad_video": "error", "max_bad_share": 0.0,
    "on_bad_masks": "error", "group": None, "shard_mb": 256, "workers": 1, "scene_cut": None,
}  # fmt: skip


def select(**sources: object) -> dict[str, Selection]:
    return select_videos(ExtractParams.model_validate_json(json.dumps(PARAMS | sources)))


# --- One source ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_source_inherits_the_contract_test(tmp_path, name):
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert f"kind = {KINDS[name].__name__}\n" in tests
    assert KINDS[name](tmp_path).items() == [], "an empty folder"


def test_a_missing_folder_is_named_with_its_key_and_neighbours(tmp_path):
    (tmp_path / "hidden").mkdir()
    with pytest.raises(FileNotFoundError, match="test_sets.real: .*/test not found; .*/hidden"):
        open_source(tmp_path / "test", "auto", "extract_frames.test_sets.real")


def test_a_folder_without_videos_is_refused_with_all_layouts(tmp_path):
    (tmp_path / "train" / "notes").mkdir(parents=True)
    (tmp_path / "train" / "read me.txt").write_text("nothing here")
    with pytest.raises(FileNotFoundError, match="no usable videos .*video_<digits>.*mp4.*pictures.*/train"):
        open_source(tmp_path, "auto", "extract_frames.train")


def test_the_kind_of_a_folder_is_detected(tmp_path):
    make_picture_folder(tmp_path / "competition" / "video_7")
    make_picture_folder(tmp_path / "images" / "walk", pattern="f{}.jpg")
    make_picture_folder(tmp_path / "images" / "video_1", pattern="frame{}.jpg")
    make_video_file(tmp_path / "videos" / "deep" / "a.mp4")
    kinds = {"competition": CompetitionSource, "images": ImageFolderSource, "videos": VideoSource}
    for name, kind in kinds.items():
        for asked in ("auto", name):
            assert type(open_source(tmp_path / name, asked, "key")) is kind
    with pytest.raises(FileNotFoundError, match=r"key: no usable videos in .*kind=images"):
        open_source(tmp_path / "videos", "images", "key")


@pytest.mark.parametrize("video", ["video_7", "walk"])
def test_input_and_target_are_pairs_whatever_their_layout(tmp_path, video):
    for side in ("input", "target"):
        make_picture_folder(tmp_path / side / video, frames=2)
    source: Source = open_source(tmp_path, "auto", "key")
    assert type(source) is PairSource and source.items() == [video]


def test_a_folder_of_videos_and_pictures_needs_a_kind(tmp_path):
    make_video_file(tmp_path / "a.mp4")
    make_picture_folder(tmp_path / "thumbs", frames=2, pattern="t{}.jpg")
    with pytest.raises(ValueError, match=r"video files \(1\) and folders of pictures \(1\).*kind: videos"):
        open_source(tmp_path, "auto", "extract_frames.train")
    assert open_source(tmp_path, "videos", "key").items() == ["a.mp4"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.txt", "key: .*x.txt: expected a folder, a video file"),
        ("x.parquet", "x.parquet: not a readable parquet file"),
    ],
)
def test_an_unusable_file_is_named(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path / name, "auto", "key")


@pytest.mark.parametrize(("real", "kind"), [(REAL_CLIPS, CompetitionSource), (REAL_VIDEOS, VideoSource)])
def test_the_kind_of_real_folders_is_detected(real, kind):
    if not real.is_dir():
        pytest.skip(f"no real data at {real}")
    source: Source = open_source(real, "auto", "key")
    assert type(source) is kind and len(source.items()) >= 3


# --- The videos of every split ---------------------------------------------------------------------------


def test_train_is_split_by_video_if_val_is_null(tmp_path):
    for name in "abcd":
        make_video_file(tmp_path / f"{name}.mp4", frames=2)
    found = select(train=str(tmp_path))
    assert sorted(found["train"].videos + found["val"].videos) == ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]
    assert found["val"].videos and found["train"].videos and found["val"].role == "val"


def test_one_root_gives_every_split_its_folder(tmp_path):
    for split in ("train", "val", "hidden", "more"):
        make_picture_folder(tmp_path / split / f"video_{len(split)}", frames=2)
    root = str(tmp_path)
    found = select(train=root, val=root, test_sets={"h": root})
    assert {split: chosen.videos for split, chosen in found.items()} == {
        "train": ["train/video_5"],
        "val": ["val/video_3"],
        "test/h": ["hidden/video_6"],
    }
    assert found["train"].left_out == [LeftOut("more/video_4", NO_SPLIT)]
    assert not found["val"].left_out and not found["test/h"].left_out
    assert select(train=root)["val"].videos == ["val/video_3"]
    with pytest.raises(
        ValueError, match="extract_frames.unlabeled: .* has folders for train, val, test and none"
    ):
        select(train=root, unlabeled=root)


def test_what_a_source_leaves_out_is_listed_with_its_reason(tmp_path):
    for name in ("a.mp4", "deep/b", "c.MKV"):
        make_video_file(tmp_path / "copy.mp4", frames=2)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / "copy.mp4").rename(tmp_path / name)
    for name in (".hidden.mp4", "notes.txt", "deep/part.ts", "thumb.png"):
        (tmp_path / name).write_bytes(b"const x = 1;" * 100 if name.endswith(".ts") else b"\0" * 20)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone").symlink_to("nowhere")
    chosen = select(train={"folder": str(tmp_path), "kind": "videos"})
    assert sorted(chosen["train"].videos + chosen["val"].videos) == ["a.mp4", "c.MKV", "deep/b"]
    left_out = {entry.name: entry.reason for entry in chosen["train"].left_out}
    assert left_out == {
        ".hidden.mp4": HIDDEN, "notes.txt": OTHER, "thumb.png": PICTURE, "pipe": SPECIAL,
        "gone": BROKEN_LINK, "deep/part.ts": OTHER,
    }  # fmt: skip
    assert describe_left_out(chosen["train"].left_out).startswith("1 hidden (.hidden.mp4); 1 pipes")


def test_files_of_a_source_in_video_folders_and_of_another_split_are_not_left_out(tmp_path):
    make_picture_folder(tmp_path / "video_1", frames=3)
    make_picture_folder(tmp_path / "video_2", frames=3)
    (tmp_path / "video_2" / "cover.jpg").write_bytes(b"")
    found = select(train=str(tmp_path))
    assert found["train"].left_out == [LeftOut("video_2/cover.jpg", PICTURE)] and not found["val"].left_out


def test_a_large_folder_is_listed_once(tmp_path, monkeypatch):
    make_picture_folder(tmp_path / "walk", frames=30)
    os.utime(tmp_path / "walk", (1, 1))
    monkeypatch.setattr("vdp.data.sources.walk.LARGE_FOLDER", 20)
    scanned, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scanned.append(Path(path)) or scandir(path))
    found = select(train={"folder": str(tmp_path / "walk"), "interval": 1}, val_share=0.0)["train"]
    assert found.source.count("walk") == 30 and len(found.source.files("walk")) == 30
    assert scanned.count(tmp_path / "walk") == 1


def test_takes_stay_on_one_side_of_the_split(tmp_path, capsys):
    for n in range(12):
        make_video_file(tmp_path / f"take{n // 3}_{n}.mp4", frames=2)
    found = select(train=str(tmp_path), group="take([0-9]+)_")
    takes = [{name[4] for name in found[split].videos} for split in ("train", "val")]
    assert takes[0] and takes[1] and not takes[0] & takes[1] and len(takes[0] | takes[1]) == 4
    with pytest.raises(ValueError, match="extract_frames.train: .*names such as take0_0.mp4 to match"):
        select(train=str(tmp_path), group="scene")
    assert not capsys.readouterr().err
    select(train=str(tmp_path), group="take[01]")
    assert "extract_frames.group: 6 of 12 names do not match" in capsys.readouterr().err


def test_a_video_and_a_link_to_it_are_in_one_split(tmp_path):
    for name in "abcdefgh":
        make_video_file(tmp_path / "run5" / f"{name}.mp4", frames=2)
    (tmp_path / "latest").symlink_to(tmp_path / "run5")
    found = select(train=str(tmp_path))
    train, val = ({Path(video).name for video in found[split].videos} for split in ("train", "val"))
    assert train and val and not train & val
    assert len(found["train"].videos) == 2 * len(train)


@pytest.mark.parametrize("split", ["val", "unlabeled", "test"])
def test_a_training_video_does_not_validate_by_any_path(tmp_path, capsys, split):
    for name in ("sub/a", "sub/b", "sub/c"):
        make_video_file(tmp_path / "v" / f"{name}.mp4", frames=2)
    (tmp_path / "link").symlink_to(tmp_path / "v" / "sub")
    train, link = str(tmp_path / "v"), str(tmp_path / "link")
    if split == "test":
        select(train=train, val_share=0.01, test_sets={"mine": link})
        assert "warning: extract_frames.test_sets.mine: " in capsys.readouterr().err
        return
    with pytest.raises(ValueError, match="extract_frames.val: .* also in (train|unlabeled)"):
        select(train=train, val_share=0.01, **{split: link})


def test_a_pace_of_precut_clips_is_refused(tmp_path):
    make_picture_folder(tmp_path / "video_1")
    make_picture_folder(tmp_path / "video_2")
    with pytest.raises(ValueError, match="extract_frames.train: interval.*kind: images"):
        select(train={"folder": str(tmp_path), "interval": 2})
    assert select(train={"folder": str(tmp_path), "interval": 2, "kind": "images"})
    assert select(train=str(tmp_path), interval=2)["train"].videos
