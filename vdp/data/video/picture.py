"""Read one picture or one array of masks of the user."""

import warnings
from pathlib import Path
from tokenize import TokenError

import cv2
import numpy as np

from vdp.data.stores.clips import Pixels

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
# numpy parses the header of an array as Python; a broken one may raise almost any exception
HEADER_ERRORS = (
    ValueError, TypeError, IndexError, OverflowError, SyntaxError, TokenError, MemoryError, RecursionError,
)  # fmt: skip


def read_picture(path: Path) -> Pixels:
    """Read a picture as (H, W, 3) uint8 RGB: gray is repeated, transparency dropped, 16 bits become 8.

    EXIF rotation is applied.

    Raises:
        ValueError: if it is not a picture, or incomplete; names the file.
    """
    # decoding from bytes: imread prints a warning for a file it cannot read
    return decode_picture(path.read_bytes(), str(path))


def decode_picture(data: bytes, name: str) -> Pixels:
    """As `read_picture`, from the bytes of a file; `name` is for messages."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    except cv2.error:  # more pixels than OpenCV's limit
        image = None
    if image is None:
        raise ValueError(f"{name}: not a readable picture; restore the file or remove its video")
    return image.astype(np.uint8, copy=False)


def read_masks(path: Path, shape: tuple[int, int, int]) -> Pixels:
    """Memory-map class ids, unchecked, from a .npy file: uint8 of `shape` (T, H, W).

    Raises:
        ValueError: if it is not readable, or has another type or shape; names the file.
    """
    try:
        if not path.is_file():  # opening a pipe would block
            raise FileNotFoundError(path)
        with warnings.catch_warnings(action="ignore"):  # headers that Python 2 wrote are read with a warning
            # not np.load, which also opens archives
            masks = np.lib.format.open_memmap(path, mode="r")
    except (OSError, *HEADER_ERRORS) as error:
        raise ValueError(f"{path}: not a readable .npy array; restore the file or remove it") from error
    if masks.dtype != np.uint8 or masks.shape != shape:
        raise ValueError(
            f"{path}: expected uint8 masks of shape {shape} (a mask for each picture), "
            f"got {masks.dtype} {masks.shape}"
        )
    return masks
