import json
from pathlib import Path

import pytest

from tests.data.sources.source_contract import REAL_CLIPS, REAL_VIDEOS, make_picture_folder, make_video_file
from vdp.data.params import ExtractParams
from vdp.data.sources.competition import CompetitionSource
from vdp.data.sources.detect import KINDS, open_source
from vdp.data.sources.images import ImageFolderSource
from vdp.data.sources.protocols import Source
from vdp.data.sources.select import Selection, select_videos
from vdp.data.sources.videos import VideoSource

PARAMS = {
    "val": None, "val_share": 0.5, "unlabeled": None, "test_sets": {}, "interval": 1, "fps": None,
    "offset": 0, "stride": 22, "fit": "crop", "on_bad_video": "error", "max_bad_share": 0.0,
    "shard_mb": 256, "workers": 1,
}  # fmt: skip


def select(**sources: object) -> dict[str, Selection]:
    return select_videos(ExtractParams.model_validate_json(json.dumps(PARAMS | sources)))


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_source_inherits_the_contract(name):
    """Collected by file, since only the test modules that were imported have registered their classes."""
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert f"kind = {KINDS[name].__name__}\n" in tests


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_finds_nothing_in_an_empty_folder(tmp_path, name):
    assert KINDS[name](tmp_path).items() == []


def test_a_missing_folder_is_told_with_its_key_and_neighbours(tmp_path):
    (tmp_path / "hidden").mkdir()
    with pytest.raises(FileNotFoundError, match="test_sets.real: .*/test is not there; .*/hidden"):
        open_source(tmp_path / "test", "auto", "extract_frames.test_sets.real")


def test_a_folder_without_videos_says_what_was_expected(tmp_path):
    (tmp_path / "train" / "notes").mkdir(parents=True)
    (tmp_path / "train" / "read me.txt").write_text("nothing here")
    with pytest.raises(
        FileNotFoundError, match="no usable videos in .*video_<digits>.*mp4.*pictures.*/train"
    ):
        open_source(tmp_path, "auto", "extract_frames.train")


def test_what_a_folder_holds_is_found(tmp_path):
    make_picture_folder(tmp_path / "competition" / "video_7")
    make_picture_folder(tmp_path / "images" / "walk", pattern="f{}.jpg")
    make_video_file(tmp_path / "videos" / "deep" / "a.mp4")
    for name, kind in [
        ("competition", CompetitionSource),
        ("images", ImageFolderSource),
        ("videos", VideoSource),
    ]:
        for asked in ("auto", name):
            assert type(open_source(tmp_path / name, asked, "key")) is kind


def test_folders_of_the_competitions_names_may_hold_other_pictures(tmp_path):
    make_picture_folder(tmp_path / "video_1", pattern="frame{}.jpg")
    assert type(open_source(tmp_path, "auto", "key")) is ImageFolderSource


def test_a_folder_of_videos_and_pictures_asks_which_are_meant(tmp_path):
    make_video_file(tmp_path / "a.mp4")
    make_picture_folder(tmp_path / "thumbs", frames=2, pattern="t{}.jpg")
    with pytest.raises(
        ValueError, match=r"both video files \(1\) and folders of pictures \(1\).*kind: videos"
    ):
        open_source(tmp_path, "auto", "extract_frames.train")
    assert open_source(tmp_path, "videos", "key").items() == ["a.mp4"]


def test_a_kind_that_is_not_there_is_told(tmp_path):
    make_video_file(tmp_path / "a.mp4")
    with pytest.raises(FileNotFoundError, match="key: no usable videos in .*as kind=images says"):
        open_source(tmp_path, "images", "key")


def test_one_video_file_is_a_source(tmp_path):
    path = make_video_file(tmp_path / "a b.mp4")
    make_video_file(tmp_path / "other.mp4")
    source = open_source(path, "auto", "key")
    assert source.items() == ["a b.mp4"] and source.files("a b.mp4") == [path]


def test_a_file_of_another_type_is_told(tmp_path):
    (tmp_path / "x.txt").touch()
    with pytest.raises(ValueError, match="key: .*x.txt: expected a folder, a video file"):
        open_source(tmp_path / "x.txt", "auto", "key")


def test_train_is_parted_by_video_where_val_is_null(tmp_path):
    for name in "abcd":
        make_video_file(tmp_path / f"{name}.mp4", frames=2)
    found = select(train=str(tmp_path))
    assert sorted(found["train"].videos + found["val"].videos) == ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]
    assert found["val"].videos and found["train"].videos and found["val"].role == "val"


def test_one_root_gives_every_split_its_folder(tmp_path):
    for split in ("train", "val", "unlabeled", "hidden"):
        make_picture_folder(tmp_path / split / f"video_{len(split)}", frames=2)
    root = str(tmp_path)
    found = select(train=root, val=root, unlabeled=root, test_sets={"h": root})
    assert {split: chosen.videos for split, chosen in found.items()} == {
        "train": ["train/video_5"],
        "val": ["val/video_3"],
        "unlabeled": ["unlabeled/video_9"],
        "test/h": ["hidden/video_6"],
    }
    assert select(train=root)["val"].videos == ["val/video_3"]


def test_a_role_without_a_folder_names_the_key(tmp_path):
    for split in ("train", "val"):
        make_picture_folder(tmp_path / split / "video_1", frames=2)
    with pytest.raises(
        ValueError, match="extract_frames.unlabeled: .* has folders for train, val and none for"
    ):
        select(train=str(tmp_path), unlabeled=str(tmp_path))


def test_videos_that_are_learnt_from_must_not_validate(tmp_path):
    make_video_file(tmp_path / "a.mp4", frames=2)
    with pytest.raises(
        ValueError, match="extract_frames.val: 1 of its videos are also in train.*set val to null"
    ):
        select(train=str(tmp_path), val=str(tmp_path))


def test_a_video_and_a_link_to_it_are_on_one_side(tmp_path):
    for name in "abcdefgh":
        make_video_file(tmp_path / "run5" / f"{name}.mp4", frames=2)
    (tmp_path / "latest").symlink_to(tmp_path / "run5")
    found = select(train=str(tmp_path))
    train, val = ({Path(video).name for video in found[split].videos} for split in ("train", "val"))
    assert train and val and not train & val
    assert len(found["train"].videos) == 2 * len(train)


@pytest.mark.parametrize("split", ["val", "unlabeled", "test"])
def test_a_video_is_not_learnt_from_and_validated_on_by_whatever_path(tmp_path, capsys, split):
    for name in ("sub/a", "sub/b", "sub/c"):
        make_video_file(tmp_path / "v" / f"{name}.mp4", frames=2)
    (tmp_path / "link").symlink_to(tmp_path / "v" / "sub")
    train, link = str(tmp_path / "v"), str(tmp_path / "link")
    if split == "test":
        select(train=train, val_share=0.01, test_sets={"mine": link})
        assert "warning: extract_frames.test_sets.mine: " in capsys.readouterr().err
        return
    with pytest.raises(
        ValueError, match="extract_frames.val: .* of its videos are also in (train|unlabeled)"
    ):
        select(train=train, val_share=0.01, **{split: link})


def test_a_pace_for_clips_that_are_cut_already_is_refused(tmp_path):
    make_picture_folder(tmp_path / "video_1")
    make_picture_folder(tmp_path / "video_2")
    with pytest.raises(ValueError, match="extract_frames.train: .*cut already.*kind: images"):
        select(train={"folder": str(tmp_path), "interval": 2})
    assert select(train={"folder": str(tmp_path), "interval": 2, "kind": "images"})
    assert select(train=str(tmp_path), interval=2)["train"].videos


def test_videos_in_folders_of_no_split_are_told(tmp_path, capsys):
    for split in ("train", "val", "more"):
        make_picture_folder(tmp_path / split / "video_1", frames=2)
    select(train=str(tmp_path))
    assert "extract_frames.train: 1 videos lie in folders that are named after no" in capsys.readouterr().err


def test_one_parquet_file_is_asked_of_its_kind(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="x.parquet: not a readable parquet file"):
        open_source(tmp_path / "x.parquet", "auto", "key")


@pytest.mark.parametrize(("real", "kind"), [(REAL_CLIPS, CompetitionSource), (REAL_VIDEOS, VideoSource)])
def test_real_folders_are_told_apart(real, kind):
    if not real.is_dir():
        pytest.skip(f"{real} is not here")
    source: Source = open_source(real, "auto", "key")
    assert type(source) is kind and len(source.items()) >= 3
