import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.data.sources.source_contract import (
    REAL_CLIPS,
    RULE,
    SourceContract,
    check_refused,
    clips_of,
    frames_of,
    gray_frame,
    levels,
    make_picture_folder,
)
from vdp.data.extract.cut import cut_clips
from vdp.data.sources.competition import CompetitionSource
from vdp.data.sources.protocols import Pace


class TestCompetition(SourceContract):
    kind = CompetitionSource
    real = REAL_CLIPS / "train"

    def make(self, folder: Path) -> CompetitionSource:
        for number in (0, 10, 2):
            make_picture_folder(folder / f"video_{number}", masks=number != 10)
        return CompetitionSource(folder)

    def test_a_video_is_one_clip_without_pace_or_stride(self, source):
        rule = replace(RULE, frames=5, min_frames=5, pace=Pace(interval=2, offset=1), stride=1)
        clips = clips_of(source, rule)
        assert [clip.name for clip in clips] == ["video_0", "video_2", "video_10"]
        assert levels(clips[0].frames) == [0, 10, 20, 30, 40]

    def test_masks_go_with_their_frames(self, source):
        clips = clips_of(source)
        assert [clip.masks is not None for clip in clips] == [True, True, False]
        assert clips[0].masks[:, 0, 0].tolist() == list(range(1, 23))
        frame = frames_of(source, "video_0")[7]
        assert type(frame.mask) is np.ndarray and frame.mask.base is None, "keeps the file open"

    def test_the_files_of_a_video_are_its_pictures_and_its_mask(self, source):
        (source.folder / "video_0" / "notes.txt").touch()
        names = [path.name for path in source.files("video_0")]
        assert names == [f"image_{k}.png" for k in range(22)] + ["mask.npy"]
        assert len(source.files("video_10")) == source.count("video_0") == 22

    def test_real_masks_hold_the_classes_of_their_clip(self):
        if not self.real.is_dir():
            pytest.skip(f"no real data at {self.real}")
        clip = next(cut_clips(CompetitionSource(self.real), "video_0", replace(RULE, height=64, width=96)))
        assert set(np.unique(clip.masks)) <= {0, 5, 12, 20, 22, 25, 30}
        assert len(np.unique(clip.masks)) >= 5


def test_numbers_may_have_leading_zeros_and_start_anywhere(tmp_path):
    folder = make_picture_folder(tmp_path / "video_15000", pattern="image_{:05d}.png", frames=12)
    (folder / "image_00000.png").unlink()
    make_picture_folder(tmp_path / "video_00003", frames=11)
    source = CompetitionSource(tmp_path)
    assert source.items() == ["video_00003", "video_15000"]
    clips = clips_of(source, replace(RULE, frames=11, min_frames=11))
    assert levels(clips[1].frames) == [10 * k for k in range(1, 12)]


def test_videos_are_found_at_any_depth_and_keep_their_path(tmp_path):
    for path in ("video_4", "train/video_10", "train/video_9", "hidden set/part 2/video_15000"):
        make_picture_folder(tmp_path / path, frames=11)
    source = CompetitionSource(tmp_path)
    assert source.items() == ["video_4", "hidden set/part 2/video_15000", "train/video_9", "train/video_10"]
    assert source.label("train/video_9") == f"{tmp_path}/train/video_9"
    names = [clip.name for clip in clips_of(source, replace(RULE, frames=11, min_frames=11))]
    assert names == ["video_4", "hidden set_part 2_video_15000", "train_video_9", "train_video_10"]


@pytest.mark.parametrize(
    "name", ["video_", "video_1a", "video_1.5", "my_video_1", "video_٣", "Video_1", ".video_1"]
)
def test_other_folders_are_not_videos(tmp_path, name):
    make_picture_folder(tmp_path / name, frames=1)
    assert CompetitionSource(tmp_path).items() == []


def test_video_folders_are_not_listed_before_they_are_read(tmp_path, monkeypatch):
    for k in range(5):
        (tmp_path / "train" / f"video_{k}").mkdir(parents=True)
    scanned = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scanned.append(Path(path)) or scandir(path))
    assert len(CompetitionSource(tmp_path).items()) == 5
    assert scanned == [tmp_path, tmp_path / "train"]


def test_pictures_beyond_the_length_of_a_clip_are_ignored(tmp_path):
    make_picture_folder(tmp_path / "video_7", frames=24, masks=True)
    (clip,) = clips_of(CompetitionSource(tmp_path))
    assert levels(clip.frames) == [10 * k for k in range(22)]
    assert clip.masks[:, 0, 0].tolist() == list(range(1, 23))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((22, 64, 95), np.uint8), r"mask.npy: expected uint8 masks of shape \(22, 64, 96\)"),
        (None, "mask.npy: not a readable .npy array"),
    ],
)
def test_a_wrong_mask_is_named_before_the_first_frame(tmp_path, mask, message):
    path = make_picture_folder(tmp_path / "video_7") / "mask.npy"
    if mask is None:  # not an unlabelled video
        path.symlink_to(tmp_path / "gone.npy")
    else:
        np.save(path, mask)
    check_refused(CompetitionSource(tmp_path), "video_7", message)


def test_an_unreadable_picture_is_named(tmp_path, capfd):
    folder = make_picture_folder(tmp_path / "video_7")
    for content in (b"", b"not a picture"):
        (folder / "image_5.png").write_bytes(content)
        check_refused(CompetitionSource(tmp_path), "video_7", "image_5.png: not a readable picture", good=5)
    assert capfd.readouterr().err == ""


def test_a_picture_that_links_to_nothing_is_named(tmp_path):
    folder = make_picture_folder(tmp_path / "video_7")
    (folder / "image_5.png").unlink()
    (folder / "image_5.png").symlink_to(tmp_path / "gone.png")
    check_refused(CompetitionSource(tmp_path), "video_7", "image_5.png", good=5, kind=FileNotFoundError)


@pytest.mark.parametrize(
    ("pattern", "gap"), [("image_{}.png", "image_5.png"), ("image_{:04d}.png", "image_0005.png")]
)
def test_a_missing_picture_is_named_before_the_first_frame(tmp_path, pattern, gap):
    folder = make_picture_folder(tmp_path / "video_7", frames=23, pattern=pattern)
    (folder / gap).unlink()
    check_refused(CompetitionSource(tmp_path), "video_7", f"{gap}: missing before {pattern.format(6)}")


def test_two_pictures_of_the_same_number_are_named_before_the_first_frame(tmp_path):
    folder = make_picture_folder(tmp_path / "video_7")
    cv2.imwrite(str(folder / "image_01.png"), gray_frame(0))
    check_refused(CompetitionSource(tmp_path), "video_7", "image_01.png and image_1.png: two pictures")


@pytest.mark.parametrize("other", ["video_00007", "video_07", "video_000000000000007"])
def test_two_folders_of_the_same_number_are_named(tmp_path, other):
    for name in ("video_7", other):
        make_picture_folder(tmp_path / name)
    with pytest.raises(ValueError, match=f"{other} and video_7|video_7 and {other}"):
        clips_of(CompetitionSource(tmp_path))


def test_folders_of_the_same_number_may_be_in_two_folders(tmp_path):
    make_picture_folder(tmp_path / "a" / "video_7")
    make_picture_folder(tmp_path / "b" / "video_00007")
    assert len(clips_of(CompetitionSource(tmp_path))) == 2


def test_an_empty_or_missing_video_folder_is_named(tmp_path):
    (tmp_path / "video_7").mkdir()
    with pytest.raises(ValueError, match=f"{tmp_path}/video_7: too few frames: 0, expected at least 22"):
        clips_of(CompetitionSource(tmp_path))
    check_refused(CompetitionSource(tmp_path), "video_8", "video_8", kind=FileNotFoundError)
