import os
import time
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
from vdp.data.sources.images import ImageFolderSource, list_pictures, picture_frames
from vdp.data.sources.input_clips import find_clip
from vdp.data.sources.protocols import Pace
from vdp.data.video.picture import SUFFIXES


class TestImageFolders(SourceContract):
    kind = ImageFolderSource
    real = REAL_CLIPS

    def make(self, folder: Path) -> ImageFolderSource:
        make_picture_folder(folder / "walk 2", frames=25, pattern="frame{}.png", masks=True)
        make_picture_folder(folder / "walk 10" / "left", frames=24, pattern="{:04d}.bmp")
        make_picture_folder(folder / "ünï", frames=22, pattern="{}.BMP")
        return ImageFolderSource(folder)

    def test_each_folder_of_pictures_is_a_video_in_natural_order(self, source):
        assert source.items() == ["walk 2", "walk 10/left", "ünï"]
        assert source.label("walk 10/left") == f"{source.folder}/walk 10/left"
        for item in source.items():
            frames = np.stack([frame.pixels for frame in frames_of(source, item)])
            assert levels(frames) == [10 * (k % 25) for k in range(len(frames))]

    def test_clips_are_named_by_their_first_frame(self, source):
        rule = replace(RULE, frames=5, min_frames=5, pace=Pace(interval=2, offset=1), stride=3)
        names = [clip.name for clip in clips_of(source, rule)]
        assert names[:3] == ["walk 2_000001", "walk 2_000007", "walk 2_000013"]

    def test_masks_go_with_their_frames(self, source):
        frames = frames_of(source, "walk 2", Pace(interval=4, offset=3))
        assert [int(frame.mask.max()) for frame in frames] == [4, 8, 12, 16, 20, 24]
        assert all(frame.mask is None for frame in frames_of(source, "ünï"))

    def test_the_files_of_a_video_are_its_pictures_and_its_mask(self, source):
        (source.folder / "walk 2" / "notes.txt").touch()
        names = [path.name for path in source.files("walk 2")]
        assert names == [f"frame{k}.png" for k in range(25)] + ["mask.npy"]


@pytest.mark.parametrize("suffix", [*SUFFIXES, *map(str.upper, SUFFIXES)])
def test_every_supported_suffix_is_a_picture(tmp_path, suffix):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / f"x{suffix}").touch()
    assert ImageFolderSource(tmp_path).items() == ["a"]


def test_other_and_hidden_files_are_no_pictures(tmp_path):
    folder = make_picture_folder(tmp_path / "a", frames=3)
    for name in ("mask.txt", "._image_0.png", ".image_9.png", "image_5.png.part", "png"):
        (folder / name).write_bytes(b"x")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "readme.txt").touch()
    make_picture_folder(tmp_path / ".thumbnails", frames=1)
    source = ImageFolderSource(tmp_path)
    assert source.items() == ["a"] and source.count("a") == len(frames_of(source, "a")) == 3


def test_pictures_in_the_folder_itself_are_a_video_of_its_name(tmp_path, monkeypatch):
    folder = make_picture_folder(tmp_path / "my clip")
    source = ImageFolderSource(folder)
    assert source.items() == ["my clip"] and source.label("my clip") == str(folder)
    assert [clip.name for clip in clips_of(source)] == ["my clip_000000"]
    monkeypatch.chdir(folder)
    assert ImageFolderSource(Path()).items() == ["my clip"]
    assert len(frames_of(ImageFolderSource(Path()), "my clip")) == 22


def test_a_subfolder_may_have_the_name_of_its_parent(tmp_path):
    make_picture_folder(tmp_path / "v", frames=2)
    make_picture_folder(tmp_path / "v" / "v", frames=3)
    source = ImageFolderSource(tmp_path / "v")
    assert {item: source.count(item) for item in source.items()} == {"v_": 2, "v": 3}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("frame_01.png", "frame_1.png"),
        ("frame_1.bmp", "frame_1.png"),
        ("frame_1.PNG", "frame_1.png"),
        ("frame_001.bmp", "frame_1.png"),
    ],
)
def test_two_pictures_at_the_same_position_are_named_before_the_first_frame(tmp_path, one, other):
    folder = make_picture_folder(tmp_path / "a", frames=4, pattern="frame_{}.png")
    (folder / one).write_bytes((folder / other).read_bytes())
    check_refused(ImageFolderSource(tmp_path), "a", f"{one} and {other}: two pictures at the same position")


def test_the_order_is_that_of_the_stems_and_may_have_gaps(tmp_path):
    for k, name in enumerate(["a.png", "a1.bmp", "a1b.png", "a2.bmp", "a10.png"]):
        cv2.imwrite(str(tmp_path / name), gray_frame(10 * k))
    frames = list(picture_frames(tmp_path, Pace()))
    assert levels(np.stack([frame.pixels for frame in frames])) == [0, 10, 20, 30, 40]
    assert [frame.number for frame in frames] == [0, 1, 2, 3, 4]


def test_pictures_have_no_frame_rate(tmp_path):
    folder = make_picture_folder(tmp_path / "a", frames=5)
    with pytest.raises(ValueError, match=f"{folder}: no frame rate; set fps to null"):
        list(picture_frames(folder, Pace(fps=5)))


def test_the_size_of_pictures_matters_only_if_they_are_selected(tmp_path):
    folder = make_picture_folder(tmp_path / "a", frames=5)
    cv2.imwrite(str(folder / "image_3.png"), gray_frame(0, width=95))
    message = "image_3.png: expected the size of the first frame, 96x64, got 95x64"
    check_refused(ImageFolderSource(tmp_path), "a", message, good=3)
    assert [frame.number for frame in picture_frames(folder, Pace(interval=2))] == [0, 2, 4]


def test_a_10_bit_video_is_not_dark(tmp_path):
    for k in range(12):
        cv2.imwrite(str(tmp_path / f"{k}.png"), np.full((32, 48), 80 * k + 60, np.uint16))
    frames = list(picture_frames(tmp_path, Pace()))
    assert levels(np.stack([frame.pixels for frame in frames])) == [(80 * k + 60) >> 2 for k in range(12)]


def test_a_stack_among_pictures_is_refused(tmp_path):
    folder = make_picture_folder(tmp_path / "a", frames=2)
    data = cv2.imencodemulti(".tif", [gray_frame(0)] * 3)[1]
    (folder / "image_2.tif").write_bytes(data.tobytes())
    check_refused(
        ImageFolderSource(tmp_path), "a", "image_2.tif: holds 3 frames, expected one picture", good=2
    )


def test_a_large_folder_is_listed_once(tmp_path, monkeypatch):
    monkeypatch.setattr("vdp.data.sources.walk.LARGE_FOLDER", 10)
    folder = make_picture_folder(tmp_path / "a", frames=20)
    old = time.time() - 60
    os.utime(folder, (old, old))
    listed = []
    plain = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (listed.append(Path(path).name), plain(path))[1])
    source = ImageFolderSource(tmp_path)
    assert source.items() == ["a"] and len(source.files("a")) == source.count("a") == 20
    assert (
        len(frames_of(source, "a")) == 20
        and len(list_pictures(folder)) == find_clip(str(folder)).count() == 20
    )
    assert listed.count("a") == 1
    (folder / "image_20.png").write_bytes((folder / "image_0.png").read_bytes())
    assert source.count("a") == 21 and source.count("a") == 21
    assert listed.count("a") == 3  # what has just changed may change again


@pytest.mark.parametrize("frames", [4, 6])
def test_masks_of_another_number_than_the_pictures_are_named(tmp_path, frames):
    folder = make_picture_folder(tmp_path / "a", frames=5)
    np.save(folder / "mask.npy", np.zeros((frames, 64, 96), np.uint8))
    check_refused(ImageFolderSource(tmp_path), "a", r"mask.npy: expected uint8 masks of shape \(5, 64, 96\)")
