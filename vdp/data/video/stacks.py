"""Read files that hold a clip without being a video: TIFF pages, animated WebP, arrays of NumPy."""

import math
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

import cv2
import numpy as np

from vdp.data.stores.clips import Pixels
from vdp.data.video.clip_frames import ClipFrame, ClipFrames, Measured
from vdp.data.video.levels import Levels, Picture
from vdp.data.video.picture import (
    HEADER_ERRORS,
    any_depth,
    map_npy,
    tiff_pages,
    webp_durations,
)

WEBP_CHUNK = 64  # frames decoded at a time; OpenCV decodes from the first frame for each chunk
NPZ_NAMES = ("frames", "video", "images", "arr_0")  # of several arrays of an archive, the first of these
EXPECTED = "expected frames (T, H, W, 3) or (T, H, W), uint8, uint16 or float"


# --- TIFF ------------------------------------------------------------------------------------------------


def tiff_frames(path: Path) -> ClipFrames:
    """Yield the pages of a TIFF file; a smaller copy of a page is none."""
    data = np.memmap(path, np.uint8, "r")
    pages = tiff_pages(data.data)
    levels = Levels(lambda: (_read_page(path, data, page) for page in pages), str(path))
    for number, page in enumerate(pages):
        yield ClipFrame(number, number, partial(_convert_page, levels, path, data, page))


def measure_tiff(path: Path) -> Measured:
    return Measured(len(tiff_pages(np.memmap(path, np.uint8, "r").data)), 0.0)


def _convert_page(levels: Levels, path: Path, data: Pixels, page: int) -> Pixels:
    return levels.convert(_read_page(path, data, page))


def _read_page(path: Path, data: Pixels, page: int) -> Picture:
    def decode(flags: int) -> Picture | None:
        _, found = cv2.imdecodemulti(data, flags, range=(page, page + 1))
        return found[0] if found else None

    picture = any_depth(decode)
    if picture is None:
        raise ValueError(f"{path}: page {page + 1} is not readable; restore the file or remove it")
    return picture


# --- WebP ------------------------------------------------------------------------------------------------


def webp_frames(path: Path) -> ClipFrames:
    """Yield the frames of an animated WebP file at their times."""
    data = np.frombuffer(path.read_bytes(), np.uint8)
    starts = np.cumsum([0, *webp_durations(data.tobytes())])
    for number, start in enumerate(starts[:-1].tolist()):
        if number % WEBP_CHUNK == 0:
            try:
                _, animation = cv2.imdecodeanimation(data, number, WEBP_CHUNK)
                frames = animation.frames
            except cv2.error:
                frames = ()
        if number % WEBP_CHUNK >= len(frames):
            raise ValueError(f"{path}: frame {number + 1} is not readable; restore the file or remove it")
        yield ClipFrame(number, start / 1000, partial(_from_bgr, frames[number % WEBP_CHUNK]))


def measure_webp(path: Path) -> Measured:
    durations = webp_durations(path.read_bytes())
    span = sum(durations[:-1])
    return Measured(len(durations), 1000 * (len(durations) - 1) / span if span else 0.0)


def _from_bgr(picture: Picture) -> Pixels:
    return np.ascontiguousarray(picture[..., 2::-1]).astype(np.uint8, copy=False)


# --- Arrays ----------------------------------------------------------------------------------------------


def array_frames(path: Path) -> ClipFrames:
    """Yield the frames of a .npy or .npz file; one is in memory at a time.

    Raises:
        ValueError: if it holds no array of frames; names the file.
    """
    read: Callable[[], Iterator[Picture]]
    if path.suffix.lower() == ".npz":
        read = partial(_read_npz, path)
    else:
        array = map_npy(path)
        _check_shape(path, array.dtype, array.shape)
        read = partial(iter, array)
    levels = Levels(read, str(path))
    for number, picture in enumerate(read()):
        yield ClipFrame(number, number, partial(_convert_copy, levels, picture))


def measure_array(path: Path) -> Measured:
    if path.suffix.lower() == ".npz":
        with _open_npz(path) as (_, shape, _):
            return Measured(shape[0], 0.0)
    array = map_npy(path)
    _check_shape(path, array.dtype, array.shape)
    return Measured(len(array), 0.0)


def _convert_copy(levels: Levels, picture: Picture) -> Pixels:
    return np.array(levels.convert(picture))


def _read_npz(path: Path) -> Iterator[Picture]:
    with _open_npz(path) as (file, shape, dtype):
        count, size = math.prod(shape[1:]), math.prod(shape[1:]) * dtype.itemsize
        for _ in range(shape[0]):
            data = file.read(size)
            if len(data) < size:
                raise ValueError(f"{path}: ends before its last frame; restore the file or remove it")
            yield np.frombuffer(data, dtype, count).reshape(shape[1:])


@contextmanager
def _open_npz(path: Path) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype[np.generic]]]:
    """Open the array of frames in an archive, behind its header."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: not a readable .npz archive; restore the file or remove it") from error
    with archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        chosen = names if len(names) == 1 else [name for name in NPZ_NAMES if name in names]
        if not chosen:
            raise ValueError(
                f"{path}: expected one array, or one called {', '.join(NPZ_NAMES)}, got "
                f"{', '.join(names[:5]) or 'none'}; save the frames as one of these"
            )
        try:
            with archive.open(chosen[0] + ".npy") as file:
                shape, fortran, dtype = _read_header(file)
                if fortran:
                    raise ValueError(
                        f"{path}: its axes are in Fortran's order; save np.ascontiguousarray of it"
                    )
                _check_shape(path, dtype, shape)
                yield file, shape, dtype
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise ValueError(f"{path}: not a readable .npz archive; restore the file or remove it") from error


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    try:
        with warnings.catch_warnings(action="ignore"):
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            return read(file)
    except HEADER_ERRORS as error:
        raise EOFError from error


def _check_shape(path: Path, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> None:
    # three axes with the last of length 3 or 4 are one picture, not a gray video of that width
    shaped = shape[3:] == (3,) or (len(shape) == 3 and shape[2] not in (3, 4))
    if not shaped or not math.prod(shape) or not (dtype in (np.uint8, np.uint16) or dtype.kind == "f"):
        raise ValueError(f"{path}: {EXPECTED}, got {dtype} of shape {shape}")
