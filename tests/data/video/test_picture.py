import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from vdp.core.classes import NUM_CLASSES
from vdp.data.video.picture import (
    SUFFIXES,
    content_reader,
    count_pictures,
    holds_clip,
    picture_reader,
    read_masks,
)


def read_picture(path: Path) -> np.ndarray:
    return picture_reader([path], str(path))(0)


def decode_picture(data: bytes, name: str) -> np.ndarray:
    return content_reader(lambda index: (data, name), 1, name)(0)


RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
ROTATION = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # EXIF: a quarter clockwise


def png(rows: np.ndarray, color_type: int, bits: int = 8, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of width 9 written explicitly: `rows` are the bytes of each row (H, bytes)."""
    header = struct.pack(">IIBBBBB", 9, len(rows), bits, color_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )


GOOD = png(RGB.reshape(6, 27), 2)
RGBA = np.concatenate([RGB, np.zeros((6, 9, 1), np.uint8)], axis=2)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (GOOD, RGB),
        (png(RGB[..., 0], 0), RGB[..., :1].repeat(3, 2)),
        (png(RGBA.reshape(6, 36), 6), RGB),
        (png((RGB.astype(">u2") * 257).reshape(6, 27), 2, 16), RGB),  # 0 to 65535 as 0 to 255
        (png(np.arange(54, dtype=np.uint8).reshape(6, 9), 3, 8, (b"PLTE", RGB.tobytes())), RGB),
        (png(RGB.reshape(6, 27), 2, 8, (b"eXIf", ROTATION)), np.rot90(RGB, -1)),
    ],
    ids=["rgb", "gray", "alpha", "16 bits", "palette", "exif"],
)
def test_every_pixel_format_becomes_rgb(data, expected):
    np.testing.assert_array_equal(decode_picture(data, "x"), expected)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_supported_format_is_read(tmp_path, suffix):
    path = tmp_path / f"ünï cödé{suffix.upper()}"
    smooth = np.full((16, 24, 3), (200, 100, 50), np.uint8)
    path.write_bytes(cv2.imencode(suffix, smooth[..., ::-1])[1].tobytes())
    frame = read_picture(path)
    assert frame.shape == (16, 24, 3) and frame.dtype == np.uint8
    np.testing.assert_allclose(frame, smooth, atol=4)  # jpg and webp lose a little


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a picture",
        GOOD[:20],
        GOOD[: len(GOOD) // 2],
        GOOD[:-20],
        cv2.imencode(".jpg", RGB)[1].tobytes()[:-20],
        cv2.imencode(".webp", RGB)[1].tobytes()[:-20],
        cv2.imencode(".tiff", RGB)[1].tobytes()[:-20],
        GOOD.replace(struct.pack(">II", 9, 6), struct.pack(">II", 9, 0)),
    ],
    ids=["empty", "text", "head", "half", "tail", "jpg", "webp", "tiff", "header"],
)
def test_a_broken_picture_is_named(tmp_path, data):
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.png: not a readable picture") as error:
        read_picture(tmp_path / "x.png")
    assert "\n" not in str(error.value)


# --- More than 8 bits ------------------------------------------------------------------------------------


def folder_of(path: Path, pictures: list[np.ndarray], suffix: str) -> list[Path]:
    files = [path / f"{number}{suffix}" for number in range(len(pictures))]
    for file, picture in zip(files, pictures, strict=True):
        assert cv2.imwrite(str(file), picture)
    return files


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_deep_pictures_are_scaled_by_the_bits_that_their_video_uses(tmp_path, bits, suffix):
    steps = (
        np.arange(6)[:, None, None] * (2**bits - 1) // 6 + np.arange(9) * 2
    )  # the last one is the brightest
    files = folder_of(tmp_path, [np.repeat(step, 4, 0).astype(np.uint16) for step in steps], suffix)
    read = picture_reader(files, "v")
    for number in (0, 3, 5):
        expected = np.repeat((steps[number] >> (bits - 8))[..., None], 3, 2).repeat(4, 0)
        np.testing.assert_array_equal(read(number), expected)
    assert read(5).mean() > 200


def test_the_bits_are_those_of_all_pictures_and_read_once(tmp_path, monkeypatch):
    levels = [100, 200, 1023, 300]
    files = folder_of(tmp_path, [np.full((4, 5), level, np.uint16) for level in levels], ".png")
    reads = []
    plain = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (reads.append(path.name), plain(path))[1])
    read = picture_reader(files, "v")
    assert [int(read(number)[0, 0, 0]) for number in range(4)] == [25, 50, 255, 75]
    assert len(reads) == 8  # each once to scale, once to read


def test_pictures_of_8_bits_are_read_once_and_as_they_are(tmp_path, monkeypatch):
    files = folder_of(tmp_path, [np.full((4, 5, 3), level, np.uint8) for level in (3, 9)], ".png")
    reads = []
    plain = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (reads.append(path.name), plain(path))[1])
    read = picture_reader(files, "v")
    assert [int(read(number).max()) for number in (0, 1)] == [3, 9] and reads == ["0.png", "1.png"]


@pytest.mark.parametrize("dtype", [np.int16, np.uint32, np.int32, np.float64])
def test_colors_of_any_type_are_in_order(tmp_path, dtype):
    picture = np.zeros((4, 5, 3), dtype)
    picture[:] = (0, 1, 4)  # blue, green, red
    scale = 0.25 if dtype == np.float64 else 60
    (file,) = folder_of(tmp_path, [(picture * scale).astype(dtype)], ".tif")
    expected = (255, 64, 0) if dtype == np.float64 else (240, 60, 0)
    np.testing.assert_array_equal(read_picture(file)[0, 0], expected)


@pytest.mark.parametrize(("top", "expected"), [(1.0, 255), (0.5, 128), (200.0, 255), (4000.0, 255)])
def test_floats_are_scaled_to_1_or_to_their_maximum(tmp_path, top, expected):
    (file,) = folder_of(tmp_path, [np.linspace(0, top, 20, dtype=np.float32).reshape(4, 5)], ".tif")
    picture = picture_reader([file], "v")(0)
    assert (picture.min(), picture.max()) == (0, expected)


def test_levels_without_a_scale_are_refused(tmp_path):
    for number, level in enumerate((-1.0, np.nan, np.inf)):
        picture = np.full((4, 5), level, np.float32)
        cv2.imwrite(str(tmp_path / f"{number}.tif"), picture)
        with pytest.raises(ValueError, match=f"{number}.tif: levels from .* expected 0 or more"):
            read_picture(tmp_path / f"{number}.tif")


# --- Several frames --------------------------------------------------------------------------------------


def pages(*flags: int, big: bool = False, order: str = "<") -> bytes:
    """The directories of a TIFF file with pages of these kinds; None: without a kind."""
    width, number, entry = (8, "Q", 20) if big else (4, "I", 12)
    data = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "H", 43 if big else 42)
    data += struct.pack(order + "HHQ", 8, 0, 16) if big else struct.pack(order + "I", 8)
    for position, flag in enumerate(flags):
        entries = [(254, 4, 1, flag), (256, 4, 1, 5)]
        body = b"".join(
            struct.pack(order + "HH" + number + "I", *values) + bytes(width - 4) for values in entries
        )
        count = struct.pack(order + ("Q" if big else "H"), len(entries))
        end = len(data) + len(count) + len(body) + width
        data += count + body + struct.pack(order + number, end if position + 1 < len(flags) else 0)
    return data


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_pages_are_counted_without_small_copies_and_masks(big, order):
    for flags, expected in (((0,), 1), ((0, 0, 0), 3), ((0, 1), 1), ((0, 1, 2, 4), 2)):
        assert count_pictures(pages(*flags, big=big, order=order)) == expected


def test_a_loop_of_pages_ends():
    data = bytearray(pages(0, 0))
    data[-4:] = struct.pack("<I", 8)  # the second page refers to the first
    assert count_pictures(bytes(data)) == 2


@pytest.mark.parametrize("suffix", [".tif", ".png", ".webp"])
def test_a_picture_of_several_frames_is_refused_where_one_is_expected(tmp_path, suffix):
    frames = [np.full((16, 24, 3), 40 * number, np.uint8) for number in range(1, 5)]
    if suffix == ".tif":
        data = cv2.imencodemulti(suffix, frames)[1]
    else:
        animation = cv2.Animation()
        animation.frames, animation.durations = frames, [100] * 4
        data = cv2.imencodeanimation(suffix, animation)[1]
    (tmp_path / f"a{suffix}").write_bytes(data.tobytes())
    assert holds_clip(tmp_path / f"a{suffix}") and not holds_clip(tmp_path / "gone.tif")
    with pytest.raises(ValueError, match=f"a{suffix}: holds 4 frames, expected one picture"):
        read_picture(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("side", [30_000, 100_000, 2**31 - 1])
def test_a_header_of_a_huge_picture_is_refused_without_allocating(side):
    data = png(np.zeros((1, 27), np.uint8), 2)
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    huge = data[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + data[33:]
    with pytest.raises(ValueError, match="x: not a readable picture"):
        decode_picture(huge, "x")


def test_a_missing_picture_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        read_picture(tmp_path / "gone.png")


SHAPE = (3, 4, 5)
MASKS = np.random.default_rng(0).integers(0, NUM_CLASSES, SHAPE, dtype=np.uint8)
UNREADABLE = r"not a readable \.npy array"


@pytest.fixture
def mask_file(tmp_path: Path) -> Path:
    np.save(tmp_path / "mask.npy", MASKS)
    return tmp_path / "mask.npy"


def assert_refused(path: Path, message: str = UNREADABLE) -> None:
    with pytest.raises(ValueError, match=rf"{path.name}: .*({message})") as error:
        read_masks(path, SHAPE)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("order", ["C", "F"])
def test_masks_are_memory_mapped(mask_file, order):
    np.save(mask_file, np.asarray(MASKS, order=order))
    masks = read_masks(mask_file, SHAPE)
    assert isinstance(masks, np.memmap) and not masks.flags.writeable
    np.testing.assert_array_equal(masks, MASKS)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (MASKS[:2], r"expected uint8 masks of shape \(3, 4, 5\).* got uint8 \(2, 4, 5\)"),
        (MASKS[None], r"got uint8 \(1, 3, 4, 5\)"),
        (MASKS.astype(bool), r"got bool \(3, 4, 5\)"),
        (MASKS.astype(np.int64), r"got int64 \(3, 4, 5\)"),
        (np.full(SHAPE, {}, object), UNREADABLE),
        (np.zeros((0, 4, 5), np.uint8), rf"{UNREADABLE}|got uint8 \(0, 4, 5\)"),
    ],
)
def test_unusable_masks_are_named(mask_file, masks, message):
    np.save(mask_file, masks, allow_pickle=True)
    assert_refused(mask_file, message)


@pytest.mark.parametrize(
    "content",
    [b"", b"text", b"PK\x03\x04 an archive cut short", b"\x93NUMPY\x01\x00\xff\xff{", "half"],
    ids=["empty", "text", "archive", "header", "half"],
)
def test_a_file_that_is_no_array_is_named(mask_file, content):
    mask_file.write_bytes(mask_file.read_bytes()[:150] if content == "half" else content)
    assert_refused(mask_file)


@pytest.mark.parametrize(
    "header",
    [
        "{1: 2, 'a': 3}",
        "{'descr': ('u1',), 'fortran_order': False, 'shape': (3, 4, 5)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (10**30, 4, 5)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 4, 5)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9" * 30 + ", 4, 5)}",
        "(" * 3000,
        "-" * 3000 + "1",
    ],
)
def test_a_hostile_header_is_named(mask_file, header):
    data = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    mask_file.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(data)) + data + bytes(60))
    assert_refused(mask_file)


def test_a_missing_mask_and_a_pipe_are_named(tmp_path):
    assert_refused(tmp_path / "mask.npy")
    os.mkfifo(tmp_path / "mask.npy")
    assert_refused(tmp_path / "mask.npy")


def test_a_header_of_python_2_is_read_without_a_warning(mask_file, recwarn):
    data = mask_file.read_bytes()
    mask_file.write_bytes(data.replace(b"(3, 4, 5), }   ", b"(3L, 4L, 5L), }"))
    assert mask_file.read_bytes() != data
    np.testing.assert_array_equal(read_masks(mask_file, SHAPE), MASKS)
    assert not recwarn.list
