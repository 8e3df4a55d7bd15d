"""Write frames for people to watch: an mp4, a GIF or a folder of PNGs, whole or not at all, over nothing."""

import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from vdp.core.errors import UserError
from vdp.data.stores.clips import Pixels
from vdp.data.video.decode import count_frames

MOVING = (".mp4", ".gif", "")  # what `write_frames` writes; '' is a folder of PNGs
FILES = (".mp4", ".gif", ".npy", ".png")
FRAME_FILE = re.compile(r"frame_[0-9]{5,}\.png")
SLOWEST, FASTEST = 1.0, 240.0  # frames per second that players keep to
LEAST_DELAY = 20  # milliseconds of a GIF's frame: browsers show shorter ones at 100
GOOD_DITHER = 3  # the others of OpenCV lose 4 to 20 dB


def write_frames(path: Path, frames: Iterable[Pixels], rate: float) -> None:
    """Write frames, one in memory at a time (of a GIF: all), as the suffix of `path` says.

    An mp4 is MPEG-4, whose sides are even: an odd one gets its last row or column twice. A GIF repeats for
    ever and has at most 256 colours a frame.

    Args:
        path: ends in .mp4 or .gif; without a suffix it is a folder of frame_00000.png, ...
        frames: at least one, (H, W, 3) uint8 RGB of one size.
        rate: frames per second.

    Raises:
        UserError: if such frames do not fit into such a file, or it was not written whole (a full disk).
        OSError: if it cannot be written.
    """
    rate = min(max(rate, SLOWEST), FASTEST)
    first, frames = _peek(frames)
    if path.suffix.lower() == ".mp4":
        _write_mp4(path, first.shape, frames, rate)
    elif path.suffix.lower() == ".gif":
        path.write_bytes(_gif(frames, rate))
    else:
        path.mkdir()
        for number, frame in enumerate(frames):
            write_picture(path / f"frame_{number:05d}.png", frame)


def write_picture(path: Path, picture: Pixels) -> None:
    """Write a picture (H, W, 3) uint8 RGB as a PNG."""
    _, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    path.write_bytes(data.tobytes())


def write_masks(path: Path, masks: Iterable[Pixels], shape: tuple[int, int, int]) -> None:
    """Write class ids (H, W) uint8 as one .npy array of `shape` (T, H, W), one in memory at a time."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    for number, mask in enumerate(masks):
        array[number] = mask
    array.flush()


def _peek(frames: Iterable[Pixels]) -> tuple[Pixels, Iterator[Pixels]]:
    rest = iter(frames)
    first = next(rest)
    return first, itertools.chain([first], rest)


def _gif(frames: Iterator[Pixels], rate: float) -> bytes:
    film = cv2.Animation()
    film.frames = [cv2.cvtColor(frame, cv2.COLOR_RGB2BGR) for frame in frames]
    film.durations = [max(round(1000 / rate), LEAST_DELAY)] * len(film.frames)  # milliseconds
    film.loop_count = 0  # without end
    _, data = cv2.imencodeanimation(".gif", film, [cv2.IMWRITE_GIF_DITHER, GOOD_DITHER])
    return data.tobytes()


def _write_mp4(path: Path, shape: tuple[int, ...], frames: Iterator[Pixels], rate: float) -> None:
    rows, columns = shape[0] + shape[0] % 2, shape[1] + shape[1] % 2
    code = cv2.VideoWriter.fourcc(*"mp4v")
    # bytes and absolute: see vdp.data.video.decode
    name = os.fsencode(path.absolute())
    video = cv2.VideoWriter(name, cv2.CAP_FFMPEG, code, rate, (columns, rows))  # type: ignore[call-overload]
    count = 0
    try:
        if not video.isOpened():
            raise UserError(
                f"{path.name}: frames of {columns}x{rows} pixels do not fit into an mp4; write a folder of "
                "pictures: a name without a suffix"
            )
        for frame in frames:
            even = ((0, rows - shape[0]), (0, columns - shape[1]), (0, 0))
            video.write(cv2.cvtColor(np.pad(frame, even, mode="edge"), cv2.COLOR_RGB2BGR))
            count += 1
    finally:
        video.release()
    written = count_frames(path)  # OpenCV does not say whether it could write
    if written != count:
        raise UserError(f"{path.name}: {written} of {count} frames were written; is the disk full?")


# --- Where it goes ---------------------------------------------------------------------------------------


def check_places(places: Sequence[Path], read: Sequence[Sequence[Path]], force: bool) -> None:
    """Refuse to write where something of the user's would be lost or changed.

    Args:
        places: all files and folders that will be written.
        read: files of each clip that is read; they are never written, nor is a picture put among those of a
            clip of several, as it would be one of its frames the next time.
        force: whether what is there may be replaced: a file, or a folder of nothing but written frames.

    Raises:
        UserError: for the first place that will not do.
    """
    files = {path.resolve() for clip in read for path in clip}
    pictures = {path.resolve().parent for clip in read if len(clip) > 1 for path in clip}
    for place in places:
        real = place.resolve()
        if any("\ud800" <= letter <= "\udfff" for letter in str(real)):  # OpenCV would crash
            raise UserError(f"{place}: holds bytes that are no text; choose another place with -o")
        if real in files or any(real in path.parents for path in files):
            raise UserError(f"{place}: is what is read; choose another place with -o")
        if place.suffix.lower() == ".png" and real.parent in pictures:
            raise UserError(f"{place}: would lie among the pictures that are read; choose a folder with -o")
        _check_place(place, force)
        above = next(path for path in real.parents if path.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise UserError(f"{place}: cannot be written: {above} is no folder that may be written to")


def _check_place(place: Path, force: bool) -> None:
    if not os.path.lexists(place):
        return
    if not force:
        raise UserError(f"{place}: is there already; choose another name with -o, or replace it with --force")
    if place.is_dir() != (place.suffix.lower() not in FILES):
        kind = "a folder" if place.is_dir() else "not a folder"
        raise UserError(f"{place}: is {kind}; choose another name with -o")
    if place.is_dir() and not all(FRAME_FILE.fullmatch(path.name) for path in place.iterdir()):
        raise UserError(
            f"{place}: holds more than frames that were written here, which --force would lose; "
            "choose another name with -o"
        )


@contextmanager
def in_place(places: Sequence[Path], force: bool) -> Iterator[list[Path]]:
    """Scratch paths that take their places if the block ends well, and vanish if not.

    Raises:
        UserError: if something has appeared in a place since it was checked.
    """
    folder = places[0].parent
    folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".vdp-", dir=folder))  # beside them: a rename is one step
    try:
        made = [scratch / place.name for place in places]
        yield made
        for place in places:
            _check_place(place, force)
        for path, place in zip(made, places, strict=True):
            if place.is_dir():
                place.rename(scratch / f"old {place.name}")
            path.replace(place)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
