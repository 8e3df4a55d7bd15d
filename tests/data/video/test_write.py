"""Write videos that browsers and phones play, at any size and rate."""

from itertools import count
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data.video.encoded import drawn, psnr
from vdp.core.errors import UserError
from vdp.data.sources.protocols import Pace
from vdp.data.video.decode import count_frames, decode_frames, frame_rate
from vdp.data.video.write import MAX_MP4_PIXELS, check_frame_size, write_frames


def test_an_mp4_is_h264_that_browsers_and_phones_play(tmp_path):
    frames = [drawn(k) for k in range(12)]
    write_frames(tmp_path / "a.mp4", iter(frames), 25)
    data = (tmp_path / "a.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")  # plays before it is whole
    with av.open(str(tmp_path / "a.mp4")) as file:
        context = file.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.colorspace, context.color_range) == (1, 1)  # BT.709, limited
    read = [pixels for _, pixels in decode_frames(tmp_path / "a.mp4", Pace())]
    assert min(psnr(frame, other) for frame, other in zip(frames, read, strict=True)) > 33


def test_colors_are_kept(tmp_path):
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (180, 120, 60)]
    write_frames(tmp_path / "a.mp4", (np.full((32, 48, 3), color, np.uint8) for color in colors), 10)
    for color, (_, read) in zip(colors, decode_frames(tmp_path / "a.mp4", Pace()), strict=True):
        np.testing.assert_allclose(read.mean((0, 1)), color, atol=3)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (33, 47), (31, 48)])
def test_an_odd_side_repeats_its_last_row_or_column(tmp_path, size):
    frame = np.random.default_rng(0).integers(100, 140, (*size, 3), np.uint8)
    write_frames(tmp_path / "a.mp4", iter([frame] * 3), 10)
    _, (_, read), _ = decode_frames(tmp_path / "a.mp4", Pace())
    assert read.shape[:2] == tuple(side + side % 2 for side in size)
    assert psnr(frame, read[: size[0], : size[1]]) > 25


@pytest.mark.parametrize("rate", [119.357, 66.667, 30000 / 1001, 23.976, 1, 240, 7.3, 29.919])
def test_any_rate_is_written(tmp_path, rate):
    write_frames(tmp_path / "a.mp4", (drawn(k) for k in range(12)), rate)
    assert frame_rate(tmp_path / "a.mp4") == pytest.approx(rate, rel=1e-4)
    assert count_frames(tmp_path / "a.mp4") == 12


def test_a_rate_that_players_do_not_support_is_limited(tmp_path):
    for stated, rate in ((0.2, 1), (1000, 240)):
        write_frames(tmp_path / "a.mp4", (drawn(k) for k in range(3)), stated)
        assert frame_rate(tmp_path / "a.mp4") == pytest.approx(rate)


def test_equal_frames_give_equal_bytes(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_frames(tmp_path / name, (drawn(k) for k in range(6)), 25)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_size_that_a_format_does_not_hold_is_refused(tmp_path):
    for name, rows, columns in (("a.mp4", 2, 16386), ("a.mp4", 8192, 8192), ("a.gif", 2, 65537)):
        with pytest.raises(UserError, match=f"{name}: frames of {columns}x{rows} .* a name without a suffix"):
            check_frame_size(tmp_path / name, rows, columns)
    assert MAX_MP4_PIXELS > 8192 * 4320
    for name, rows, columns in (
        ("a.mp4", 2, 16384),
        ("a.mp4", 4320, 8192),
        ("a", 2, 99999),
        ("a.npy", 2, 99999),
    ):
        check_frame_size(tmp_path / name, rows, columns)


def test_a_full_disk_is_reported(tmp_path):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no full device")
    (tmp_path / "a.mp4").symlink_to(full)
    noise = np.random.default_rng(0)
    frames = (noise.integers(0, 256, (64, 96, 3), np.uint8) for _ in range(40))
    with pytest.raises((UserError, OSError), match=r"a\.mp4"):
        write_frames(tmp_path / "a.mp4", frames, 25)


def test_frames_are_written_one_at_a_time(tmp_path):
    """An endless clip is read no further than it is written."""
    read = count()

    def frames():
        for number in range(40):
            next(read)
            yield drawn(number % 40)
        raise OSError("broken clip")

    with pytest.raises(OSError, match="broken clip"):
        write_frames(tmp_path / "a.mp4", frames(), 25)
    assert next(read) == 40
