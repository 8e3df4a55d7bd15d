"""Event files of TensorBoard, written without its package: records of protocol buffers with checksums.

Format: tensorflow/core/lib/io/record_writer.h (records) and tensorflow/core/util/event.proto (messages).
"""

import struct
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

VERSION = b"brain.Event:2"  # of the first record of a file
POLYNOMIAL = 0x82F63B78  # of CRC-32C, bits reversed
MASK_DELTA = 0xA282EAD8  # by which checksums of records are masked
VARINT, DOUBLE, BYTES, FLOAT = 0, 1, 2, 5  # wire types of protocol buffers
RGB = 3  # colour space of a picture


class EventFile:
    """An event file of one run; replaces those in its folder. Points are written at `flush`.

    Raises:
        OSError: from every method, if the file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self.path = folder / f"events.out.tfevents.{int(time.time())}.vdp"
        self._waiting = bytearray()
        self._add(_field(3, BYTES, VERSION))
        self.flush()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each named curve."""
        for name, value in values.items():
            self._add_summary(_field(1, BYTES, name.encode()) + _field(2, FLOAT, value), step)

    def picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Add a picture (H, W, 3), RGB."""
        import cv2

        png = cv2.imencode(".png", picture[..., ::-1])[1].tobytes()
        height, width = picture.shape[:2]
        image = _field(1, VARINT, height) + _field(2, VARINT, width) + _field(3, VARINT, RGB)
        self._add_summary(
            _field(1, BYTES, name.encode()) + _field(4, BYTES, image + _field(4, BYTES, png)), step
        )

    def flush(self) -> None:
        """Append what was added to the file."""
        with self.path.open("ab") as file:
            file.write(self._waiting)
        self._waiting.clear()

    def _add_summary(self, value: bytes, step: int) -> None:
        self._add(_field(2, VARINT, step) + _field(5, BYTES, _field(1, BYTES, value)))

    def _add(self, event: bytes) -> None:
        content = _field(1, DOUBLE, time.time()) + event
        length = struct.pack("<Q", len(content))
        self._waiting += length + _checksum(length) + content + _checksum(content)


def _field(number: int, kind: int, value: float | bytes) -> bytes:
    """Encode a field of a message."""
    head = _varint(number << 3 | kind)
    if isinstance(value, bytes):
        return head + _varint(len(value)) + value
    if kind == VARINT:
        return head + _varint(int(value))
    return head + struct.pack("<d" if kind == DOUBLE else "<f", value)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _checksum(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF)


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of bytes."""
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


@cache
def _crc_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [value >> 1 ^ (POLYNOMIAL if value & 1 else 0) for value in table]
    return table
