import os
from dataclasses import replace
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from tests.data.sources.small_sources import CONTAINERS, FRAMES, make_containers
from tests.data.sources.source_contract import (
    REAL_VIDEOS,
    RULE,
    SourceContract,
    check_refused,
    clips_of,
    frames_of,
    gray_frame,
    make_video_file,
)
from tests.data.video.encoded import FINE, encode
from vdp.data.extract.cut import cut_clips
from vdp.data.sources.protocols import Pace
from vdp.data.sources.videos import VideoSource
from vdp.data.video.decode import count_frames, decode_frames, frame_rate
from vdp.data.video.discover import SUFFIXES, is_container


def real_video(name: str) -> Path:
    path = REAL_VIDEOS / name
    if not path.is_file():
        pytest.skip(f"no real data at {path}")
    return path


def write_avi(path: Path, frames: list[np.ndarray], codec: str, pix_fmt: str) -> Path:
    return encode(path, frames, codec, pix_fmt=pix_fmt, options={} if codec == "ffv1" else FINE)


def decoded(path: Path, pace: Pace | None = None) -> list[np.ndarray]:
    return [pixels for _, pixels in decode_frames(path, pace or Pace())]


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
        assert frames_of(source, "deep/ünï 日本.mp4")[0].pixels.shape == (96, 64, 3)

    def test_a_clip_has_every_nth_frame(self, source):
        rule = replace(RULE, frames=11, min_frames=11, stride=5, pace=Pace(interval=2))
        clips = list(cut_clips(source, "b.mp4", rule))
        assert [clip.name for clip in clips] == ["b_000000", "b_000010", "b_000020"]
        level = clips[1].frames.mean((1, 2, 3))
        np.testing.assert_allclose(level, 4 * np.arange(10, 32, 2), atol=3.9)  # lossy; the step is 8

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_every_supported_container_is_a_source(self, tmp_path, suffix):
        (tmp_path / f"A{suffix.upper()}").touch()
        assert VideoSource(tmp_path).items() == [f"A{suffix.upper()}"]

    def test_a_container_is_read_with_any_suffix_and_without(self, tmp_path):
        """As far as a file of the name is no picture or text; a broken one of another name is none."""
        make_containers(tmp_path)
        videos = VideoSource(tmp_path).items()
        assert len(videos) == len(CONTAINERS)
        for path in list(tmp_path.iterdir()):
            path.rename(tmp_path / f"{path.stem}{ord(path.stem) % 2 * '.data'}")
        source = VideoSource(tmp_path)
        assert len(source.items()) == len(CONTAINERS)
        assert all(len(frames_of(source, item)) == FRAMES for item in source.items())
        (tmp_path / "a.data").write_bytes((tmp_path / "a.data").read_bytes()[:600])
        assert "a.data" not in source.items()

    @pytest.mark.parametrize("brand", [b"avif", b"heic"])
    def test_a_still_picture_in_a_container_is_no_video(self, tmp_path, brand):
        (tmp_path / "x").write_bytes(b"\0\0\0\x20ftyp" + brand + bytes(100))
        assert VideoSource(tmp_path).items() == [] and not is_container(b"\0\0\0\x20ftyp" + brand)
        assert is_container(b"\0\0\0\x20ftypisom")

    def test_one_file_is_a_source(self, tmp_path):
        path = make_video_file(tmp_path / "my clip.mp4", frames=22)
        source = VideoSource(path)
        assert source.items() == ["my clip.mp4"]
        assert source.label("my clip.mp4") == str(path) and source.files("my clip.mp4") == [path]
        assert [clip.name for clip in clips_of(source)] == ["my clip_000000"]
        assert VideoSource(Path(__file__)).items() == []

    def test_an_unreadable_file_is_named(self, source):
        (source.path / "x.mp4").write_bytes(b"not a video")
        check_refused(source, "x.mp4", "source/x.mp4: not a readable video")
        assert source.count("x.mp4") == 0 and source.count("b.mp4") == 50


# --- Decoding --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["carphone_pristine.mp4", "bikes.mp4", "tree.avi"])
def test_real_frames_are_those_of_the_decoder_in_rgb(name):
    """Each has its own memory: later reads do not change a frame."""
    path = real_video(name)
    with av.open(str(path)) as video:
        expected = [frame.to_ndarray(format="rgb24") for frame in islice(video.decode(video=0), 30)]
    frames = [pixels for _, pixels in islice(decode_frames(path, Pace(offset=10)), 20)]
    width = frames[0].shape[1]
    if name == "carphone_pristine.mp4":  # its pixels are 128:117
        assert width == 193
        expected = [cv2.resize(frame, (width, 144), interpolation=cv2.INTER_LINEAR) for frame in expected]
    np.testing.assert_array_equal(frames, expected[10:])


def test_red_is_the_first_channel_and_gray_is_read_as_rgb(tmp_path):
    red = np.full((64, 96, 3), (255, 0, 0), np.uint8)
    (pixels,) = decoded(write_avi(tmp_path / "red.avi", [red], "mjpeg", "yuvj420p"))
    np.testing.assert_allclose(pixels.mean((0, 1)), (255, 0, 0), atol=5)
    gray = [gray_frame(50 * k) for k in range(5)]
    frames = decoded(write_avi(tmp_path / "gray.avi", [frame[..., 0] for frame in gray], "ffv1", "gray"))
    np.testing.assert_array_equal(frames, gray)


def test_frames_that_a_recorder_dropped_are_no_damage(capfd):
    """The header counts 444 frames; 376 of them are empty, and the times of the others are far apart."""
    path = real_video("tree.avi")
    clips = list(cut_clips(VideoSource(path.parent), "tree.avi", RULE))
    assert [clip.name for clip in clips] == ["tree_000000", "tree_000022", "tree_000044"]
    assert capfd.readouterr().err == "" and frame_rate(path) == pytest.approx(67 / 29.53, rel=1e-3)


def test_of_a_truncated_avi_the_frames_that_decode_are_read(tmp_path, capfd):
    noise = np.random.default_rng(0).integers(0, 30, (64, 96, 3), dtype=np.uint8)
    path = write_avi(tmp_path / "a.avi", [noise + np.uint8(4 * k) for k in range(50)], "mjpeg", "yuvj420p")
    whole = decoded(path)
    assert "header" not in capfd.readouterr().err
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    part = decoded(path)
    assert 20 <= len(part) <= 25
    np.testing.assert_array_equal(part[:-1], whole[: len(part) - 1])
    assert f"a.avi: the header promises 2.0 s, {len(part) / 25:.1f} s decode" in capfd.readouterr().err


@pytest.mark.parametrize("pace", [Pace(), Pace(fps=5)])
@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x\n" * 99]
)
def test_an_unreadable_video_is_refused_at_any_pace(tmp_path, damage, pace):
    path = make_video_file(tmp_path / "a.mp4")
    path.write_bytes(damage(path.read_bytes()))  # the index of an mp4 is at its end
    with pytest.raises(ValueError, match="a.mp4: not a readable video") as error:
        decoded(path, pace)
    assert "\n" not in str(error.value)
    assert count_frames(path) == 0 and frame_rate(path) == 0


def test_a_missing_file_or_a_pipe_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.mp4"):
        decoded(tmp_path / "gone.mp4")
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="a.mp4: not a file"):
        decoded(tmp_path / "a.mp4")


@pytest.mark.parametrize("name", [b"a:b.mp4", b"100%03d.mp4", b"[x] y.mp4", b"caf\xe9.mp4", b"-i.mp4"])
def test_a_name_is_not_a_url_a_pattern_or_an_option(tmp_path, monkeypatch, name):
    make_video_file(tmp_path / "a.mp4", frames=3).rename(tmp_path / os.fsdecode(name))
    monkeypatch.chdir(tmp_path)
    assert len(decoded(Path(os.fsdecode(name)))) == 3
    assert len(frames_of(VideoSource(Path()), os.fsdecode(name))) == 3


def test_the_number_of_frames_can_be_required(tmp_path):
    path = make_video_file(tmp_path / "a.mp4", frames=20)
    assert len(list(decode_frames(path, Pace(interval=15), exactly=20))) == 2
    with pytest.raises(ValueError, match="a.mp4: 20 frames decode, expected 21"):
        list(decode_frames(path, Pace(interval=15), exactly=21))


def test_a_rate_is_reached_by_skipping_frames(tmp_path):
    path = make_video_file(tmp_path / "a.mp4", frames=50, fps=25)
    assert frame_rate(path) == 25
    assert [number for number, _ in decode_frames(path, Pace(fps=5))] == list(range(0, 50, 5))
    # 2.5 frames per step, from frame 3 on; of two equally near frames the earlier
    assert [number for number, _ in decode_frames(path, Pace(fps=10, offset=3))][:5] == [3, 5, 8, 10, 13]
    assert len(decoded(path, Pace(fps=25))) == 50
    with pytest.raises(ValueError, match="a.mp4: fps=30: expected at most the video's 25"):
        decoded(path, Pace(fps=30))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system does not list open files")
def test_a_file_is_closed_when_its_reader_stops_early(tmp_path):
    path = make_video_file(tmp_path / "a.mp4")

    def opened() -> int:
        links = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
        return sum(os.path.lexists(link) and os.readlink(link) == str(path) for link in links)

    frames = decode_frames(path, Pace())
    next(frames)
    assert opened() == 1
    frames.close()
    assert opened() == 0
