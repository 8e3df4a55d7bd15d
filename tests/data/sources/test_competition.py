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

    def test_folders_and_pictures_are_in_the_order_of_their_numbers(self, source):
        assert source.items() == ["video_0", "video_2", "video_10"]
        assert levels(clips_of(source)[0].frames) == [10 * k for k in range(22)]

    def test_a_video_is_one_clip_at_its_own_pace(self, source):
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
            pytest.skip(f"{self.real} is not here")
        source = CompetitionSource(self.real)
        clip = next(cut_clips(source, "video_0", replace(RULE, height=64, width=96)))
        assert set(np.unique(clip.masks)) <= {0, 5, 12, 20, 22, 25, 30}
        assert len(np.unique(clip.masks)) >= 5


def test_an_empty_folder_holds_no_videos(tmp_path):
    assert CompetitionSource(tmp_path).items() == []


def test_numbers_may_have_leading_zeros(tmp_path):
    make_picture_folder(tmp_path / "video_15000", pattern="image_{:05d}.png", frames=11)
    make_picture_folder(tmp_path / "video_00003", frames=11)
    source = CompetitionSource(tmp_path)
    assert source.items() == ["video_00003", "video_15000"]
    assert levels(clips_of(source, replace(RULE, frames=11))[1].frames) == [10 * k for k in range(11)]


def test_videos_are_found_at_any_depth(tmp_path):
    for path in ("video_4", "train/video_10", "train/video_9", "hidden set/part 2/video_15000"):
        (tmp_path / path).mkdir(parents=True)
    items = CompetitionSource(tmp_path).items()
    assert items == ["video_4", "hidden set/part 2/video_15000", "train/video_9", "train/video_10"]


def test_a_video_of_a_deeper_folder_keeps_its_path(tmp_path):
    make_picture_folder(tmp_path / "train" / "video_3")
    make_picture_folder(tmp_path / "val" / "video_3")
    source = CompetitionSource(tmp_path)
    assert [clip.name for clip in clips_of(source)] == ["train_video_3", "val_video_3"]
    assert source.label("val/video_3") == f"{tmp_path}/val/video_3"


@pytest.mark.parametrize(
    "name", ["video_", "video_1a", "video_1.5", "my_video_1", "video_٣", "Video_1", ".video_1"]
)
def test_other_folders_are_not_videos(tmp_path, name):
    make_picture_folder(tmp_path / name, frames=1)
    assert CompetitionSource(tmp_path).items() == []


def test_video_folders_are_not_looked_into_before_they_are_read(tmp_path, monkeypatch):
    for k in range(5):
        (tmp_path / "train" / f"video_{k}").mkdir(parents=True)
    scanned = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scanned.append(Path(path)) or scandir(path))
    assert len(CompetitionSource(tmp_path).items()) == 5
    assert scanned == [tmp_path, tmp_path / "train"]


def test_pictures_are_decoded_as_they_are_asked_for(tmp_path):
    folder = make_picture_folder(tmp_path / "video_7")
    (folder / "image_3.png").write_bytes(b"broken")
    frames = CompetitionSource(tmp_path).frames("video_7", Pace())
    assert [next(frames).number for _ in range(3)] == [0, 1, 2]
    assert [f.number for f in frames_of(CompetitionSource(tmp_path), "video_7", Pace(interval=2))] == [
        *range(0, 22, 2)
    ]


def test_a_folder_with_more_pictures_gives_its_first_frames(tmp_path):
    make_picture_folder(tmp_path / "video_7", frames=24, masks=True)
    (clip,) = clips_of(CompetitionSource(tmp_path))
    assert levels(clip.frames) == [10 * k for k in range(22)]
    assert clip.masks[:, 0, 0].tolist() == list(range(1, 23))


def test_numbers_may_begin_anywhere(tmp_path):
    folder = make_picture_folder(tmp_path / "video_7", frames=23)
    (folder / "image_0.png").unlink()
    (clip,) = clips_of(CompetitionSource(tmp_path))
    assert levels(clip.frames) == [10 * k for k in range(1, 23)]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((22, 64, 95), np.uint8), r"mask.npy: expected uint8 masks of shape \(22, 64, 96\)"),
        (np.zeros((21, 64, 96), np.uint8), r"mask.npy: .* got uint8 \(21, 64, 96\)"),
        (np.zeros((22, 64, 96), np.int64), r"mask.npy: .* got int64"),
        (np.full((22, 64, 96), 49, np.uint8), r"mask.npy: class id 49 is over 48"),
        (np.full((22, 64, 96), {}, object), r"mask.npy: not a readable .npy array"),
    ],
)
def test_a_wrong_mask_is_named_before_the_first_frame(tmp_path, mask, message):
    folder = make_picture_folder(tmp_path / "video_7")
    np.save(folder / "mask.npy", mask)
    assert_refused(tmp_path, message)


def test_a_truncated_mask_is_named(tmp_path):
    folder = make_picture_folder(tmp_path / "video_7", masks=True)
    (folder / "mask.npy").write_bytes((folder / "mask.npy").read_bytes()[:1000])
    assert_refused(tmp_path, "mask.npy: not a readable .npy array")


def test_a_mask_that_links_to_nothing_is_not_taken_for_none(tmp_path):
    folder = make_picture_folder(tmp_path / "video_7")
    (folder / "mask.npy").symlink_to(tmp_path / "gone.npy")
    assert_refused(tmp_path, "mask.npy: not a readable .npy array")


@pytest.mark.parametrize("content", [b"", b"not a picture"])
def test_an_unreadable_picture_is_named(tmp_path, content, capfd):
    folder = make_picture_folder(tmp_path / "video_7")
    (folder / "image_5.png").write_bytes(content)
    assert_refused(tmp_path, "image_5.png: not a readable picture", good=5)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("pattern", "gap"), [("image_{}.png", "image_5.png"), ("image_{:04d}.png", "image_0005.png")]
)
def test_a_gap_in_the_pictures_is_named_before_the_first_frame(tmp_path, pattern, gap):
    folder = make_picture_folder(tmp_path / "video_7", frames=23, pattern=pattern)
    (folder / gap).unlink()
    assert_refused(tmp_path, f"{gap}: missing, though {pattern.format(6)} is there")


def test_a_picture_that_links_to_nothing_is_named(tmp_path):
    folder = make_picture_folder(tmp_path / "video_7")
    (folder / "image_5.png").unlink()
    (folder / "image_5.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(FileNotFoundError, match="image_5.png"):
        frames_of(CompetitionSource(tmp_path), "video_7")


def test_two_pictures_of_one_number_are_named_before_the_first_frame(tmp_path):
    folder = make_picture_folder(tmp_path / "video_7")
    cv2.imwrite(str(folder / "image_01.png"), gray_frame(0))
    assert_refused(tmp_path, "image_01.png and image_1.png: two pictures of one number")


@pytest.mark.parametrize("other", ["video_00007", "video_07", "video_000000000000007"])
def test_two_folders_of_one_number_are_named(tmp_path, other):
    make_picture_folder(tmp_path / "video_7")
    make_picture_folder(tmp_path / other)
    source = CompetitionSource(tmp_path)
    with pytest.raises(
        ValueError, match=f"{other} and video_7|video_7 and {other}: two folders of one number"
    ):
        clips_of(source)
    assert set(source.items()) == {"video_7", other}


def test_folders_of_one_number_may_lie_apart(tmp_path):
    make_picture_folder(tmp_path / "a" / "video_7")
    make_picture_folder(tmp_path / "b" / "video_00007")
    assert len(clips_of(CompetitionSource(tmp_path))) == 2


def test_a_picture_of_another_size_is_named(tmp_path):
    folder = make_picture_folder(tmp_path / "video_7")
    cv2.imwrite(str(folder / "image_5.png"), gray_frame(0, height=60))
    assert_refused(tmp_path, "image_5.png: expected the size of image_0.png, 96x64, got 96x60", good=5)


def test_an_empty_video_folder_is_named(tmp_path):
    (tmp_path / "video_7").mkdir()
    with pytest.raises(ValueError, match=f"{tmp_path}/video_7: too few frames: 0, expected at least 22"):
        clips_of(CompetitionSource(tmp_path))


def test_a_video_folder_that_is_gone_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="video_7"):
        frames_of(CompetitionSource(tmp_path), "video_7")


def assert_refused(folder: Path, message: str, good: int = 0) -> None:
    """One line names the file of video_7 at fault, after the `good` frames before it."""
    frames = CompetitionSource(folder).frames("video_7", Pace())
    for _ in range(good):
        next(frames)
    with pytest.raises(ValueError, match=message) as error:
        next(frames)
    assert str(error.value).startswith(f"{folder}/video_7/") and "\n" not in str(error.value)
