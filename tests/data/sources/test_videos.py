import os
import struct
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.data.sources.source_contract import (
    REAL_VIDEOS,
    RULE,
    SourceContract,
    clips_of,
    frames_of,
    make_video_file,
)
from vdp.data.extract.cut import cut_clips
from vdp.data.sources.protocols import Pace
from vdp.data.sources.videos import VideoSource
from vdp.data.stores.clips import write_clips
from vdp.data.video.decode import SUFFIXES, count_frames, decode_frames, frame_rate


def real_video(name: str) -> Path:
    path = REAL_VIDEOS / name
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    return path


def opencv_frames(path: Path, count: int) -> list[np.ndarray]:
    """The first frames by the plainest way, each in memory of its own."""
    video = cv2.VideoCapture(str(path))
    return [video.read()[1][..., ::-1].copy() for _ in range(count)]


def motion_jpeg(path: Path, frames: int = 50) -> Path:
    """Big enough frames that half of the file is half of the video; frame k is of gray level 4 k."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (96, 64))
    noise = np.random.default_rng(0).integers(0, 30, (64, 96, 3), dtype=np.uint8)
    for k in range(frames):
        writer.write(noise + np.uint8(4 * k))
    writer.release()
    return path


class TestVideos(SourceContract):
    kind = VideoSource
    real = REAL_VIDEOS

    def make(self, folder: Path) -> VideoSource:
        make_video_file(folder / "b.mp4")
        make_video_file(folder / "take 2.avi", frames=22)
        make_video_file(folder / "take 10.avi", frames=22)
        make_video_file(folder / "deep" / "ünï 日本.mp4", frames=22, height=96, width=64)
        (folder / "notes.txt").touch()
        (folder / ".hidden.mp4").touch()
        return VideoSource(folder)

    def test_files_at_any_depth_are_in_natural_order(self, source):
        assert source.items() == ["b.mp4", "take 2.avi", "take 10.avi", "deep/ünï 日本.mp4"]

    def test_a_portrait_video_keeps_its_shape(self, source):
        assert frames_of(source, "deep/ünï 日本.mp4")[0].pixels.shape == (96, 64, 3)

    def test_clips_are_cut_at_the_stride(self, source):
        clips = cut_clips(source, "b.mp4", replace(RULE, stride=10))
        assert [clip.name for clip in clips] == ["b_000000", "b_000010", "b_000020"]

    def test_a_clip_takes_every_nth_frame(self, source):
        rule = replace(RULE, frames=11, min_frames=11, stride=5, pace=Pace(interval=2))
        clips = list(cut_clips(source, "b.mp4", rule))
        assert [clip.name for clip in clips] == ["b_000000", "b_000010", "b_000020"]
        level = clips[1].frames.mean((1, 2, 3))
        np.testing.assert_allclose(level, 4 * np.arange(10, 32, 2), atol=3.9)  # lossy; the step is 8

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_every_promised_container_is_a_source(self, tmp_path, suffix):
        (tmp_path / f"A{suffix.upper()}").touch()
        assert VideoSource(tmp_path).items() == [f"A{suffix.upper()}"]

    def test_one_file_is_a_source(self, tmp_path):
        path = make_video_file(tmp_path / "my clip.mp4", frames=22)
        source = VideoSource(path)
        assert source.items() == ["my clip.mp4"]
        assert source.label("my clip.mp4") == str(path) and source.files("my clip.mp4") == [path]
        assert [clip.name for clip in clips_of(source)] == ["my clip_000000"]
        assert VideoSource(Path(__file__)).items() == []

    def test_an_unreadable_file_is_named_and_the_others_are_not_hurt(self, source):
        (source.path / "x.mp4").write_bytes(b"not a video")
        with pytest.raises(ValueError, match="source/x.mp4: not a readable video; convert it") as error:
            frames_of(source, "x.mp4")
        assert "\n" not in str(error.value)
        assert source.count("x.mp4") == 0 and source.count("b.mp4") == 50

    def test_two_files_of_one_name_are_told(self, tmp_path):
        make_video_file(tmp_path / "source" / "a.mp4", frames=22)
        make_video_file(tmp_path / "source" / "a.avi", frames=22)
        with pytest.raises(ValueError, match="clip a_000000: two clips have this name; rename"):
            write_clips(tmp_path / "store", clips_of(VideoSource(tmp_path / "source")), 1)


@pytest.mark.parametrize("name", ["carphone_pristine.mp4", "bikes.mp4", "tree.avi"])
def test_real_frames_are_those_of_opencv_in_rgb(name):
    """And each has memory of its own: a frame is not changed by the ones that are read after it."""
    path = real_video(name)
    frames = [pixels for _, pixels in islice(decode_frames(path, Pace(offset=10)), 20)]
    for ours, theirs in zip(frames, opencv_frames(path, 30)[10:], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_red_is_the_first_channel(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "red.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (96, 64))
    writer.write(np.full((64, 96, 3), (0, 0, 255), np.uint8))  # OpenCV's order: blue, green, red
    writer.release()
    (_, pixels), *others = decode_frames(tmp_path / "red.avi", Pace())
    assert not others  # a video of one frame
    np.testing.assert_allclose(pixels.mean((0, 1)), (255, 0, 0), atol=5)


def test_a_gray_video_is_read_as_rgb(tmp_path):
    path = tmp_path / "gray.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), 25, (96, 64), isColor=False)
    for k in range(5):
        writer.write(np.full((64, 96), 50 * k, np.uint8))
    writer.release()
    frames = np.stack([pixels for _, pixels in decode_frames(path, Pace())])
    np.testing.assert_array_equal(
        frames, np.broadcast_to(50 * np.arange(5)[:, None, None, None], (5, 64, 96, 3))
    )


def test_a_video_that_was_filmed_on_its_side_is_upright(tmp_path):
    """A phone writes how it was held into the matrix of the track's header."""
    path = make_video_file(tmp_path / "a.mp4", frames=3)
    data = path.read_bytes()
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    quarter = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    place = data.index(upright, data.index(b"tkhd"))
    path.write_bytes(data[:place] + quarter + data[place + len(quarter) :])
    assert [pixels.shape for _, pixels in decode_frames(path, Pace())] == 3 * [(96, 64, 3)]


def test_a_header_that_counts_too_much_is_reported_and_what_decodes_is_given(capfd):
    path = real_video("tree.avi")
    clips = list(cut_clips(VideoSource(path.parent), "tree.avi", RULE))
    assert [clip.name for clip in clips] == ["tree_000000", "tree_000022", "tree_000044"]
    assert "tree.avi: the header says 444 frames, 68 decode" in capfd.readouterr().err


def test_an_avi_that_breaks_off_gives_what_decodes(tmp_path, capfd):
    path = motion_jpeg(tmp_path / "a.avi")
    whole = [pixels for _, pixels in decode_frames(path, Pace())]
    assert "header" not in capfd.readouterr().err
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    part = [pixels for _, pixels in decode_frames(path, Pace())]
    assert 20 <= len(part) <= 25
    np.testing.assert_array_equal(part[:-1], whole[: len(part) - 1])
    assert f"a.avi: the header says 50 frames, {len(part)} decode" in capfd.readouterr().err


def _half(data: bytes) -> bytes:
    """An mp4's index is at its end, so that half of the file is nothing."""
    return data[: len(data) // 2]


@pytest.mark.parametrize("pace", [Pace(), Pace(fps=5)])
@pytest.mark.parametrize("damage", [_half, lambda data: b"", lambda data: b"to do: film this\n" * 99])
def test_a_file_that_is_no_video_is_told_so_whatever_the_pace(tmp_path, damage, pace):
    path = make_video_file(tmp_path / "a.mp4")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="a.mp4: not a readable video; convert it to mp4") as error:
        list(decode_frames(path, pace))
    assert "\n" not in str(error.value)
    assert count_frames(path) == 0 and frame_rate(path) == 0


def test_a_missing_file_is_an_error_of_its_own(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.mp4"):
        list(decode_frames(tmp_path / "gone.mp4", Pace()))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="a.mp4: not a file"):
        list(decode_frames(tmp_path / "a.mp4", Pace()))


@pytest.mark.parametrize("name", [b"a:b.mp4", b"100%03d.mp4", b"[x] y.mp4", b"caf\xe9.mp4", b"-i.mp4"])
def test_any_name_is_only_a_name(tmp_path, monkeypatch, name):
    """Not a URL, a pattern of pictures or an option; nor does one that is not valid text end the process."""
    make_video_file(tmp_path / "a.mp4", frames=3).rename(tmp_path / os.fsdecode(name))
    monkeypatch.chdir(tmp_path)
    assert len(list(decode_frames(Path(os.fsdecode(name)), Pace()))) == 3
    assert len(frames_of(VideoSource(Path()), os.fsdecode(name))) == 3


def test_another_number_of_frames_than_expected_is_told_even_where_few_are_taken(tmp_path):
    path = make_video_file(tmp_path / "a.mp4", frames=20)
    assert len(list(decode_frames(path, Pace(interval=15), exactly=20))) == 2
    with pytest.raises(ValueError, match="a.mp4: 20 frames decode, expected 21"):
        list(decode_frames(path, Pace(interval=15), exactly=21))


def test_a_rate_is_reached_by_leaving_frames_out(tmp_path):
    path = make_video_file(tmp_path / "a.mp4", frames=50, fps=25)
    assert frame_rate(path) == 25
    assert [number for number, _ in decode_frames(path, Pace(fps=5))] == list(range(0, 50, 5))
    # 2.5 frames at a time, from the third on
    assert [number for number, _ in decode_frames(path, Pace(fps=10, offset=3))][:5] == [3, 5, 8, 11, 13]
    assert len(list(decode_frames(path, Pace(fps=25)))) == 50


def test_a_rate_above_the_videos_own_is_told(tmp_path):
    path = make_video_file(tmp_path / "a.mp4", frames=5, fps=25)
    with pytest.raises(ValueError, match="a.mp4: has 25 frames per second, 30 are asked for; lower fps"):
        list(decode_frames(path, Pace(fps=30)))


def test_a_file_is_closed_when_its_reader_stops_early(tmp_path):
    path = make_video_file(tmp_path / "a.mp4")

    def opened() -> int:
        links = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
        return sum(os.path.lexists(link) and os.readlink(link) == str(path) for link in links)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("this system does not list open files")
    frames = decode_frames(path, Pace())
    next(frames)
    assert opened() == 1
    frames.close()
    assert opened() == 0
