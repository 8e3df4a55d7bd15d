import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from vdp.core.classes import NUM_CLASSES
from vdp.data.video.picture import SUFFIXES, decode_picture, read_masks, read_picture

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
