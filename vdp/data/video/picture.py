"""Read one picture or one array of masks of the user; count the frames in a picture file."""

import struct
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from tokenize import TokenError

import cv2
import numpy as np
from numpy.typing import NDArray

from vdp.data.stores.clips import Pixels
from vdp.data.video.levels import Levels, Picture

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
COLOR_ANY_DEPTH = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH  # 8-bit files as by IMREAD_COLOR_RGB alone
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
HEAD = 2**16  # bytes read to detect an animation
MAX_PAGES = 1_000_000  # of a TIFF file
MAX_ENTRIES = 64  # tags of a page searched for its kind, which is the first or none
NEW_SUBFILE_TYPE, REDUCED, TRANSPARENCY = 254, 1, 4  # tag of a page's kind, and its flags
# numpy parses the header of an array as Python; a broken one may raise almost any exception
HEADER_ERRORS = (
    ValueError, TypeError, IndexError, OverflowError, SyntaxError, TokenError, MemoryError, RecursionError,
)  # fmt: skip


def picture_reader(pictures: Sequence[Path], name: str) -> Callable[[int], Pixels]:
    """Return a function that reads a picture of a video by its index; see `content_reader`."""
    # from bytes: imread prints a warning for a file it cannot read
    return content_reader(
        lambda index: (pictures[index].read_bytes(), str(pictures[index])), len(pictures), name
    )


def content_reader(
    load: Callable[[int], tuple[bytes, str]], count: int, name: str
) -> Callable[[int], Pixels]:
    """Return a function that reads a picture of a video by its index, as (H, W, 3) uint8 RGB.

    Gray is repeated, transparency dropped, EXIF rotation applied. Pictures of more than 8 bits are scaled by
    the levels that all pictures of the video use; see `Levels`.

    Args:
        load: returns the bytes of a picture's file, and its name in messages.
        count: number of pictures.
        name: of the video in messages.

    Raises:
        ValueError: by the function, if it is not a picture, or incomplete, or holds several frames.
    """
    levels = Levels(lambda: (_decode(*load(index)) for index in range(count)), name)
    return lambda index: levels.convert(_decode(*load(index)))


def _decode(data: bytes, name: str) -> Picture:
    image = any_depth(lambda flags: cv2.imdecode(np.frombuffer(data, np.uint8), flags)) if data else None
    if image is None:
        raise ValueError(f"{name}: not a readable picture; restore the file or remove its video")
    if (count := count_pictures(data)) > 1:
        raise ValueError(
            f"{name}: holds {count} frames, expected one picture; name the file itself as a clip, or split it"
        )
    return image


def any_depth(decode: Callable[[int], Picture | None]) -> Picture | None:
    """Decode a picture to RGB at its own depth by OpenCV's flags; None if it is not readable."""
    try:
        picture = decode(COLOR_ANY_DEPTH)
        if picture is not None and picture.dtype.kind != "i":
            return picture
        # OpenCV converts neither gray of 32 and 64 bits nor signed colours
        picture = decode(cv2.IMREAD_UNCHANGED)
    except cv2.error:  # more pixels than its limit
        return None
    if picture is None or picture.dtype == np.uint8:
        return None
    return picture if picture.ndim == 2 else picture[..., 2::-1]


# --- Files of several pictures ---------------------------------------------------------------------------


def holds_clip(path: Path) -> bool:
    """Whether a picture file holds several frames: TIFF pages, an animated WebP or PNG."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
            return _count_in(head, lambda: head + file.read()) > 1
    except OSError:  # reported when it is read
        return False


def count_pictures(data: bytes) -> int:
    """Number of frames in the bytes of a picture file."""
    return _count_in(data, lambda: data)


def _count_in(head: bytes, whole: Callable[[], bytes]) -> int:
    if head.startswith(TIFF_MAGIC):
        return len(tiff_pages(whole()))
    if is_animated_webp(head):
        return len(webp_durations(whole()))
    return _apng_frames(head) if head.startswith(PNG_MAGIC) else 1


def is_animated_webp(head: bytes) -> bool:
    """Whether the first bytes of a file are those of an animated WebP."""
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) > 20 and bool(head[20] & 2)


def webp_durations(data: bytes) -> list[int]:
    """Durations of the frames of an animated WebP file, in milliseconds."""
    found, position = [], 12
    while position + 8 <= len(data):
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        if data[position : position + 4] == b"ANMF":
            found.append(int.from_bytes(data[position + 20 : position + 23], "little"))
        position += 8 + size + size % 2
    return found


def tiff_pages(data: bytes | memoryview) -> list[int]:
    """Indices of the pages of a TIFF file that are frames: neither smaller copies of a page nor masks."""
    order = "<" if bytes(data[:2]) == b"II" else ">"
    big = bytes(data[2:4]) in (b"+\0", b"\0+")
    first, width, entry = (8, 8, 20) if big else (4, 4, 12)
    counts = "Q" if big else "H"
    offset_format = order + ("Q" if big else "I")
    found: list[int] = []
    seen: set[int] = set()
    try:
        (offset,) = struct.unpack_from(offset_format, data, first)
        page = 0
        while offset and offset not in seen and len(seen) < MAX_PAGES:
            seen.add(offset)
            (entries,) = struct.unpack_from(order + counts, data, offset)
            start = offset + struct.calcsize(order + counts)
            if not _is_copy(data, order, start, entries, entry):
                found.append(page)
            (offset,) = struct.unpack_from(offset_format, data, start + entries * entry)
            page += 1
    except struct.error:  # the file is cut short: the pages so far
        pass
    return found


def _is_copy(data: bytes | memoryview, order: str, start: int, entries: int, size: int) -> bool:
    for position in range(start, start + min(entries, MAX_ENTRIES) * size, size):
        tag, kind = struct.unpack_from(order + "HH", data, position)
        if tag == NEW_SUBFILE_TYPE:
            (value,) = struct.unpack_from(
                order + ("I" if kind == 4 else "H"), data, position + size - (8 if size == 20 else 4)
            )
            return bool(value & (REDUCED | TRANSPARENCY))
        if tag > NEW_SUBFILE_TYPE:  # tags ascend
            return False
    return False


def _apng_frames(head: bytes) -> int:
    position = len(PNG_MAGIC)
    while position + 12 <= len(head):
        size, kind = struct.unpack_from(">I4s", head, position)
        if kind == b"acTL":
            return int.from_bytes(head[position + 8 : position + 12], "big")
        if kind == b"IDAT":
            return 1
        position += 12 + size
    return 1


# --- Arrays ----------------------------------------------------------------------------------------------


def map_npy(path: Path) -> NDArray[np.generic]:
    """Memory-map a .npy file; raise a ValueError that names it if it is not readable."""
    try:
        if not path.is_file():  # opening a pipe would block
            raise FileNotFoundError(path)
        with warnings.catch_warnings(action="ignore"):  # headers that Python 2 wrote are read with a warning
            # not np.load, which also opens archives
            return np.lib.format.open_memmap(path, mode="r")
    except (OSError, *HEADER_ERRORS) as error:
        raise ValueError(f"{path}: not a readable .npy array; restore the file or remove it") from error


def read_masks(path: Path, shape: tuple[int, int, int]) -> Pixels:
    """Memory-map class ids, unchecked, from a .npy file: uint8 of `shape` (T, H, W).

    Raises:
        ValueError: if it is not readable, or has another type or shape; names the file.
    """
    masks = map_npy(path)
    if masks.dtype != np.uint8 or masks.shape != shape:
        raise ValueError(
            f"{path}: expected uint8 masks of shape {shape} (a mask for each picture), "
            f"got {masks.dtype} {masks.shape}"
        )
    return masks.view(np.uint8)
