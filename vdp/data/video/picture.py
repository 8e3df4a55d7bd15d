"""Read one picture or one array of masks of a user's, or say in one line why not."""

import warnings
from pathlib import Path
from tokenize import TokenError

import cv2
import numpy as np

from vdp.core.classes import NUM_CLASSES
from vdp.data.stores.clips import Pixels

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
# numpy parses the header of an array as Python, and most of what Python can raise there comes through
UNPARSED = (
    ValueError,
    TypeError,
    IndexError,
    OverflowError,
    SyntaxError,
    TokenError,
    MemoryError,
    RecursionError,
)


def read_picture(path: Path) -> Pixels:
    """One picture, (H, W, 3) uint8 RGB; gray is repeated, transparency dropped, 16 bits become 8.

    It is turned as its EXIF entry says.

    Raises:
        ValueError: if it is not a picture, or breaks off; names the file.
    """
    # decoding from bytes: imread prints a warning of its own for a file it cannot read
    return decode_picture(path.read_bytes(), str(path))


def decode_picture(data: bytes, name: str) -> Pixels:
    """As `read_picture`, from the bytes of a file; `name` is for messages."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    except cv2.error:  # more pixels than OpenCV's own limit
        image = None
    if image is None:
        raise ValueError(f"{name}: not a readable picture; restore the file or remove its video")
    return image.astype(np.uint8, copy=False)


def read_masks(path: Path, shape: tuple[int, int, int]) -> Pixels:
    """Class ids from a .npy file, memory-mapped: uint8 of `shape` (T, H, W), 0..48.

    Raises:
        ValueError: if it is not readable, has another type or shape, or holds other numbers; names the file.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            raise FileNotFoundError(path)
        with warnings.catch_warnings(action="ignore"):  # Python 2 wrote other headers, which are read
            # not np.load: it opens archives too, and has more ways to fail
            masks = np.lib.format.open_memmap(path, mode="r")
    except (OSError, *UNPARSED) as error:
        raise ValueError(f"{path}: not a readable .npy array; restore the file or remove it") from error
    if masks.dtype != np.uint8 or masks.shape != shape:
        raise ValueError(
            f"{path}: expected uint8 masks of shape {shape} (a mask for each picture), "
            f"got {masks.dtype} {masks.shape}"
        )
    return check_classes(masks, str(path))


def check_classes(masks: Pixels, name: str) -> Pixels:
    """The masks, if all class ids are in range.

    Raises:
        ValueError: if one is not; names `name`.
    """
    if masks.size and masks.max() >= NUM_CLASSES:
        raise ValueError(
            f"{name}: class id {masks.max()} is over {NUM_CLASSES - 1}; "
            f"expected 0 (background) to {NUM_CLASSES - 1}"
        )
    return masks
