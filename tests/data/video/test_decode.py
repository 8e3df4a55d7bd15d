"""Decode files of every kind: the right frames at their times, upright, in square pixels and true colour."""

import os
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import Colorspace

from tests.data.sources.source_contract import SHARED
from tests.data.video.encoded import FINE, drawn, encode, psnr
from vdp.data.sources.protocols import Pace
from vdp.data.video import container, decode
from vdp.data.video.container import Clock
from vdp.data.video.decode import clip_frames, count_frames, decode_frames, frame_rate, quiet_decoder

quiet_decoder()

ODD = SHARED / "odd_inputs"
MILLISECONDS = Fraction(1, 1000)
CRF = {"crf": "16"}
QUIET = {"x265-params": "log-level=none:pools=none"}
VP9 = {"crf": "15", "b": "0", "cpu-used": "8"}
# suffix, codec, pixel format and options; the times of every one are uneven multiples of 40 ms
PAIRS = [
    ("mp4", "libx264", "yuv420p", CRF),
    ("mp4", "libx265", "yuv420p10le", CRF | QUIET),
    ("mp4", "libvpx-vp9", "yuv420p", VP9),
    ("mp4", "mpeg4", "yuv420p", FINE),
    ("mov", "prores_ks", "yuv422p10le", {}),
    ("mov", "png", "rgb24", {}),
    ("mov", "qtrle", "rgb24", {}),
    ("mkv", "ffv1", "yuv420p", {}),
    ("mkv", "libx264", "yuv444p", CRF),
    ("mkv", "libx265", "yuv420p", CRF | QUIET),
    ("webm", "libvpx", "yuv420p", {"crf": "8", "b": "2M"}),
    ("webm", "libsvtav1", "yuv420p", {"crf": "15", "preset": "10"}),
    ("avi", "mpeg4", "yuv420p", FINE),
    ("avi", "mjpeg", "yuvj420p", FINE),
    ("avi", "libx264", "yuv420p", CRF),
    ("avi", "huffyuv", "rgb24", {}),
    ("wmv", "wmv2", "yuv420p", FINE),
    ("asf", "msmpeg4", "yuv420p", FINE),
    ("flv", "flv", "yuv420p", FINE),
    ("flv", "libx264", "yuv420p", CRF),
    ("3gp", "mpeg4", "yuv420p", FINE),
    ("ts", "mpeg2video", "yuv420p", FINE),
    ("m2ts", "libx264", "yuv420p", CRF),
    ("mpg", "mpeg1video", "yuv420p", FINE),
    ("ogv", "libvpx", "yuv420p", {"crf": "8", "b": "2M"}),
    ("gif", "gif", "rgb8", {}),
    ("apng", "apng", "rgb24", {}),
]
TIMES = [0, 1, 2, 3, 5, 6, 7, 9, 10, 11, 12, 14]  # in units of 40 ms


@pytest.mark.parametrize(("suffix", "codec", "pixels", "options"), PAIRS)
def test_drawn_frames_come_back_at_their_times(tmp_path, suffix, codec, pixels, options):
    frames = [drawn(k) for k in range(len(TIMES))]
    if codec == "gif":  # 3 bits of red and green, 2 of blue
        frames = [np.where(frame > 127, 255, 0).astype(np.uint8) for frame in frames]
    even = codec in ("mpeg1video", "mpeg2video") or suffix == "ogv"  # of a constant rate
    times = list(range(len(TIMES))) if even else TIMES
    path = encode(tmp_path / f"a.{suffix}", frames, codec, times=times, pix_fmt=pixels, options=options)
    with av.open(str(path)) as file:
        unit = float(file.streams.video[0].time_base)
    found = list(clip_frames(path))
    assert [frame.number for frame in found] == list(range(len(times)))
    errors = [abs(frame.time - time / 25) for frame, time in zip(found, times, strict=True)]
    assert max(errors) < unit + 1e-6
    assert min(psnr(frame, read.read()) for frame, read in zip(frames, found, strict=True)) >= 30
    assert count_frames(path) == len(times)
    assert (len(times) - 1) / frame_rate(path) == pytest.approx(times[-1] / 25, abs=unit + 1e-6)


def test_reordered_frames_are_in_the_order_of_their_times(tmp_path):
    options = {"bf": "3", "b-adapt": "0"} | CRF
    path = encode(tmp_path / "a.mp4", [drawn(k) for k in range(12)], "libx264", options=options)
    with av.open(str(path)) as file:
        stamps = [packet.pts for packet in file.demux(video=0) if packet.size]
    assert stamps != sorted(stamps)
    times = [frame.time for frame in clip_frames(path)]
    np.testing.assert_allclose(times, np.arange(12) / 25, atol=1e-9)


# --- Times -----------------------------------------------------------------------------------------------


def recorded(path: Path, frames: int = 60) -> list[int]:
    """Write a video as a browser records it: 30 frames/s, times in ms with jitter, 1000 frames/s stated."""
    jitter = np.random.default_rng(0).integers(-4, 5, frames)
    times = (np.arange(frames) * 100 / 3 + jitter).round().astype(int)
    times = (times - times[0]).tolist()
    encode(path, [drawn(k % 40) for k in range(frames)], "libvpx", 1000, times, MILLISECONDS)
    return times


def promise(path: Path, milliseconds: float) -> None:
    """Set the duration in the header of a webm."""
    data = path.read_bytes()
    at = data.index(b"\x44\x89\x88") + 3
    path.write_bytes(data[:at] + np.array(milliseconds, ">f8").tobytes() + data[at + 8 :])


def test_a_rate_is_measured_and_not_read_from_the_header(tmp_path):
    times = recorded(tmp_path / "a.webm")
    assert frame_rate(tmp_path / "a.webm") == pytest.approx(59_000 / times[-1])
    numbers = [number for number, _ in decode_frames(tmp_path / "a.webm", Pace(fps=10))]
    assert len(numbers) == 20
    wanted = np.arange(20) * 100
    nearest = np.abs(np.subtract.outer(wanted, times)).min(axis=1)
    np.testing.assert_array_equal(np.abs(np.array(times)[numbers] - wanted), nearest)


def test_a_header_that_promises_too_much_is_reported_and_not_used(tmp_path, capsys):
    recorded(tmp_path / "a.webm")
    list(clip_frames(tmp_path / "a.webm"))
    assert capsys.readouterr().err == ""
    promise(tmp_path / "a.webm", 68_000)
    assert count_frames(tmp_path / "a.webm") == 60 and 29 < frame_rate(tmp_path / "a.webm") < 31
    assert len(list(clip_frames(tmp_path / "a.webm"))) == 60
    assert "a.webm: the header promises 68.0 s, 2.0 s decode; these are used" in capsys.readouterr().err


def test_the_length_of_a_long_video_is_extrapolated(tmp_path, monkeypatch):
    monkeypatch.setattr(container, "MEASURED_PACKETS", 50)
    path = encode(tmp_path / "a.avi", [drawn(0)] * 200, "huffyuv", pix_fmt="rgb24")
    assert count_frames(path) == pytest.approx(200, abs=5) and frame_rate(path) == 25


def test_an_uneven_video_is_sampled_in_time(tmp_path):
    times = [*range(0, 30), *range(30, 151, 6)]  # 1 s at 30 frames/s, then 4 s at 5
    frames = [np.full((32, 48, 3), k * 3, np.uint8) for k in range(len(times))]
    path = encode(tmp_path / "a.mp4", frames, "libx264", 30, times, options=CRF)
    shown = [number for number, _ in decode_frames(path, Pace(fps=5))]
    assert [times[number] for number in shown] == list(range(0, 151, 6))
    # where frames are farther apart than asked for, the nearest is repeated
    dense = [number for number, _ in decode_frames(path, Pace(fps=10))]
    assert [times[number] for number in dense[:12]] == [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 30]


def test_missing_and_broken_times_are_replaced():
    def times(stamps: list[float | None]) -> list[float]:
        clock = Clock(0.5)
        return [clock.time(stamp) for stamp in stamps]

    assert times([3.0, 3.25, 3.75, 4.0]) == [0, 0.25, 0.75, 1]
    assert times([None, None, None]) == [0, 0.5, 1]
    assert times([7.0, None, 8.0]) == [0, 0.5, 1]
    assert times([5.0, 6.0, 0.0, 1.0, 3.0]) == [0, 1, 1.5, 2.5, 4.5]  # two joined recordings
    assert times([0.0, 1.0, 1e6, 1e6 + 1]) == [0, 1, 1.5, 2.5]
    assert times([0.0, 60.0, 120.0]) == [0, 0.5, 1]  # gaps of a minute, at two frames a second
    assert times([0.0, 0.0, 0.0]) == [0, 0.5, 1]


# --- Geometry --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("aspect", "size"), [("64/45", (144, 256)), ("8/9", (144, 160)), ("1", (144, 180))])
def test_pixels_become_square(tmp_path, aspect, size):
    frames = [cv2.resize(drawn(3, 144, 256), (180, 144), interpolation=cv2.INTER_AREA)] * 3
    for name, codec in (("a.mp4", "mpeg4"), ("a.mkv", "libx264"), ("a.mpg", "mpeg2video")):
        if aspect == "8/9" and codec == "mpeg2video":  # knows screens, not pixels
            continue
        path = encode(tmp_path / name, frames, codec, aspect=Fraction(aspect))
        (_, frame), *_ = decode_frames(path, Pace())
        assert frame.shape == (*size, 3)
    if aspect == "64/45":
        assert psnr(drawn(3, 144, 256), frame) > 25


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_turned_and_mirrored_video_is_shown_upright(tmp_path, degrees, mirrored):
    path = encode(tmp_path / "a.mp4", [drawn(5)], "libx264", options=CRF, rotation=(degrees, mirrored))
    ((_, frame),) = decode_frames(path, Pace())
    turned = np.rot90(drawn(5), degrees // 90)
    assert psnr(turned[:, ::-1] if mirrored else turned, frame) > 30


# --- Colour ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [Colorspace.ITU601, Colorspace.ITU709, Colorspace.BT2020])
@pytest.mark.parametrize("full_range", [False, True])
def test_matrix_and_range_are_those_of_the_file(tmp_path, space, full_range):
    frame = np.zeros((32, 48, 3), np.uint8)
    for k, color in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (90, 160, 40)]):
        frame[:, 8 * k : 8 * k + 8] = color
    path = encode(tmp_path / "a.mkv", [frame], "ffv1", pix_fmt="yuv444p", space=space, full_range=full_range)
    ((_, read),) = decode_frames(path, Pace())
    np.testing.assert_allclose(read.astype(int), frame, atol=3)


@pytest.mark.parametrize(("rows", "space"), [(718, Colorspace.ITU601), (720, Colorspace.ITU709)])
def test_an_untagged_video_is_taken_as_players_do(tmp_path, rows, space):
    frame = np.full((rows, 16, 3), (30, 200, 60), np.uint8)
    stored = av.VideoFrame.from_ndarray(frame).reformat(format="yuv444p", dst_colorspace=space)
    stored.colorspace = 2  # unspecified
    with av.open(str(tmp_path / "a.mkv"), "w") as file:
        stream = file.add_stream("ffv1", 25)
        stream.width, stream.height, stream.pix_fmt = 16, rows, "yuv444p"
        stored.pts = 0
        file.mux(stream.encode(stored))
        file.mux(stream.encode(None))
    ((_, read),) = decode_frames(tmp_path / "a.mkv", Pace())
    np.testing.assert_allclose(read.astype(int), frame, atol=3)


# --- Pictures of several frames, deep pictures, arrays ---------------------------------------------------


def animation(path: Path, frames: list[np.ndarray]) -> Path:
    if path.suffix == ".tif":
        written, data = cv2.imencodemulti(".tif", [frame[..., ::-1] for frame in frames])
        path.write_bytes(data.tobytes())
        return path
    content = cv2.Animation()
    content.frames, content.durations = [frame[..., ::-1].copy() for frame in frames], [40] * len(frames)
    options = [cv2.IMWRITE_WEBP_QUALITY, 101] if path.suffix == ".webp" else []
    written, data = cv2.imencodeanimation(path.suffix, content, options)
    assert written
    path.write_bytes(data.tobytes())
    return path


@pytest.mark.parametrize("suffix", [".tif", ".png", ".webp", ".gif"])
def test_a_picture_file_of_several_frames_is_a_clip(tmp_path, suffix):
    frames = [drawn(k) for k in range(24)]
    path = animation(tmp_path / f"a{suffix}", frames)
    found = list(decode_frames(path, Pace()))
    assert [number for number, _ in found] == list(range(24)) and count_frames(path) == 24
    assert (
        min(psnr(frame, read) for frame, (_, read) in zip(frames, found, strict=True)) > 19
    )  # a GIF has 256 colours
    assert frame_rate(path) == pytest.approx(0 if suffix == ".tif" else 25)
    np.testing.assert_array_equal(list(decode_frames(path, Pace(5, offset=2)))[1][1], found[7][1])


def test_a_long_webp_is_decoded_in_parts(tmp_path, monkeypatch):
    path = animation(tmp_path / "a.webp", [drawn(k) for k in range(10)])
    whole = [pixels for _, pixels in decode_frames(path, Pace())]
    monkeypatch.setattr("vdp.data.video.stacks.WEBP_CHUNK", 4)
    np.testing.assert_array_equal([pixels for _, pixels in decode_frames(path, Pace())], whole)


def test_pages_of_16_bits_are_scaled_by_the_bits_of_all(tmp_path):
    pages = [np.full((8, 12), 100 * k, np.uint16) for k in range(1, 11)]  # 10 bits
    _, data = cv2.imencodemulti(".tif", pages)
    (tmp_path / "a.tif").write_bytes(data.tobytes())
    levels = [int(pixels[0, 0, 0]) for _, pixels in decode_frames(tmp_path / "a.tif", Pace())]
    assert levels == [100 * k >> 2 for k in range(1, 11)]


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize(
    ("scale", "dtype"),
    [(1, np.uint8), (4, np.uint16), (257, np.uint16), (1 / 255, np.float32), (1 / 255, np.float16)],
)
@pytest.mark.parametrize("gray", [False, True])
def test_an_array_is_a_clip(tmp_path, suffix, scale, dtype, gray):
    video = np.random.default_rng(0).integers(0, 256, (6, 8, 12, 3), np.uint8)
    video[3, 0, 0] = 255
    video = video[..., 0] if gray else video
    path = tmp_path / f"a{suffix}"
    array = (video * float(scale)).round(0 if scale >= 1 else 9).astype(dtype)
    np.save(path, array) if suffix == ".npy" else np.savez_compressed(path, frames=array, fps=25)
    found = list(decode_frames(path, Pace(interval=2, offset=1)))
    assert [number for number, _ in found] == [1, 3, 5] and (count_frames(path), frame_rate(path)) == (6, 0)
    expected = np.repeat(video[..., None], 3, 3) if gray else video
    np.testing.assert_array_equal([pixels for _, pixels in found], expected[1::2])
    with pytest.raises(ValueError, match=f"a{suffix}: no frame rate"):
        next(decode_frames(path, Pace(fps=5)))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 5, 3), np.uint8), r"expected frames \(T, H, W, 3\) .* got uint8 of shape \(4, 5, 3\)"),
        (np.zeros((2, 4, 5), np.int64), "got int64"),
        (np.zeros((2, 3, 4, 5, 3), np.uint8), r"shape \(2, 3, 4, 5, 3\)"),
        (np.zeros((0, 4, 5), np.uint8), r"shape \(0, 4, 5\)"),
        (np.full((2, 4, 5), -1.0), "levels from -1 to -1; expected 0 or more"),
        (np.full((2, 4, 5), np.nan), "levels from nan"),
    ],
)
def test_an_array_that_is_no_clip_is_refused(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", array)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ValueError, match=f"{name}: .*{message}") as error:
            list(decode_frames(tmp_path / name, Pace()))
        assert "\n" not in str(error.value)


def test_a_broken_archive_is_refused(tmp_path):
    np.savez(tmp_path / "two.npz", a=np.zeros((2, 4, 5)), b=np.zeros(3))
    np.savez(tmp_path / "whole.npz", np.random.default_rng(0).random((9, 8, 8)))
    data = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[:400])
    (tmp_path / "flipped.npz").write_bytes(data[:900] + bytes(100) + data[1000:])
    np.savez(tmp_path / "fortran.npz", np.asfortranarray(np.random.default_rng(0).random((9, 8, 8))))
    for name, message in {
        "two": "expected one array, or one called .* got a, b", "cut": "not a readable .npz archive",
        "flipped": "not a readable .npz", "fortran": "Fortran's order",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=f"{name}.npz: .*{message}"):
            list(decode_frames(tmp_path / f"{name}.npz", Pace()))


# --- Damage ----------------------------------------------------------------------------------------------


def test_damaged_packets_cost_their_frames_alone(tmp_path, capsys):
    path = encode(tmp_path / "a.mov", [drawn(k) for k in range(20)], "png", pix_fmt="rgb24")
    whole = [pixels for _, pixels in decode_frames(path, Pace())]
    data = path.read_bytes()
    starts = [at for at in range(len(data)) if data.startswith(b"IDAT", at)]
    for at in starts[5:8]:
        data = data[: at + 10] + bytes(8) + data[at + 18 :]
    path.write_bytes(data)
    left = [pixels for _, pixels in decode_frames(path, Pace())]
    np.testing.assert_array_equal(left[:5] + left[-12:], whole[:5] + whole[8:])
    assert "a.mov: 3 of 20 packets do not decode; the other frames are used" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["#EXTM3U\n#EXTINF:9,\na.mp4\n", "ffconcat version 1.0\nfile a.mp4\n", "just text\n" * 50]
)
@pytest.mark.parametrize("name", ["b.mp4", "b.m3u8", "b.txt", "b.ffconcat"])
def test_a_list_or_a_text_is_no_video(tmp_path, text, name):
    encode(tmp_path / "a.mp4", [drawn(0)])
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name}: not a readable video"):
        list(decode_frames(tmp_path / name, Pace()))


def test_sound_with_a_cover_picture_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.mp3"), "w") as file:
        sound, cover = file.add_stream("mp3", 44100), file.add_stream("png")
        cover.width, cover.height, cover.pix_fmt, cover.disposition = 96, 64, "rgb24", 0x400
        file.mux(cover.encode(av.VideoFrame.from_ndarray(drawn(0))))
        silence = av.AudioFrame.from_ndarray(np.zeros((2, 44100), np.float32), "fltp", "stereo")
        silence.sample_rate = 44100
        file.mux(sound.encode(silence))
        file.mux(sound.encode(None))
    with pytest.raises(ValueError, match="a.mp3: not a readable video"):
        list(decode_frames(tmp_path / "a.mp3", Pace()))


# --- Memory ----------------------------------------------------------------------------------------------


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not state the memory")
def test_a_large_video_is_read_in_little_memory(tmp_path):
    frame = np.zeros((2160, 3840, 3), np.uint8)
    path = encode(tmp_path / "a.mp4", (frame for _ in range(24)), "mpeg4")
    before, most = resident(), 0
    for _ in decode_frames(path, Pace()):
        most = max(most, resident())
    assert most - before < 8 * frame.nbytes


# --- The files themselves --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "frames", "size", "rate"),
    [
        ("plain.mp4", 24, (64, 96), 25),
        ("recorder.webm", 60, (64, 96), 30),
        ("recorder_saved_640.webm", 60, (480, 640), 30),
        ("uneven.mp4", 50, (64, 96), 10.2),
        ("slow_119.357.mp4", 24, (64, 96), 119.357),
        ("pal_wide.mp4", 24, (144, 256), 25),
        ("stack.tif", 24, (64, 96), 0),
        ("moving.png", 24, (64, 96), 25),
        *[(f"mixed/{name}", 24, (64, 96), 25) for name in ("a.mp4", "b.m4v", "c.mpg", "d.ts", "e.wmv")],
        *[(f"mixed/{name}", 24, (64, 96), 25) for name in ("f.3gp", "g.flv", "h.ogv", "i.gif")],
    ],
)
def test_odd_files_have_their_right_values(name, frames, size, rate, capsys):
    path = ODD / name
    if not path.is_file():
        pytest.skip(f"no real data at {path}")
    found = list(decode_frames(path, Pace()))
    assert {pixels.shape for _, pixels in found} == {(*size, 3)}
    assert len(found) == count_frames(path) == frames and frame_rate(path) == pytest.approx(rate, rel=0.01)
    assert capsys.readouterr().err == ""


def test_the_module_reads_with_one_thread(tmp_path):
    """Threads would change the frames of damaged files."""
    path = encode(tmp_path / "a.mp4", [drawn(0)] * 2, "libx264")
    with container._open_stream(path) as (_, stream):
        list(stream.container.decode(stream))
        assert stream.codec_context.thread_count == 1
    assert decode.VIDEO.frames is container.stream_frames
