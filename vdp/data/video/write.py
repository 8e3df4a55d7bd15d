"""Write frames atomically as an mp4, a GIF or a folder of PNGs."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter
from av.video.stream import VideoStream

from vdp.core.errors import UserError, printable
from vdp.data.stores.clips import Pixels

VIDEO_SUFFIXES = (".mp4", ".gif", "")  # formats of `write_frames`; '' is a folder of PNGs
FILE_SUFFIXES = (".mp4", ".gif", ".npy", ".png")
FRAME_FILE = re.compile(r"frame_[0-9]{5,}\.png")
MIN_RATE, MAX_RATE = 1.0, 240.0  # frames per second that players support
MAX_DENOMINATOR = 1001  # of a rate in an mp4: 30000/1001 is the smallest fraction in use
MP4_QUALITY = "18"  # constant rate factor: near lossless to the eye
MAX_MP4_SIDE, MAX_MP4_PIXELS = 16384, 139264 * 256  # of x264, and of the highest level of H.264
MAX_GIF_SIDE = 65535  # 16 bits
MIN_GIF_DELAY = 20  # milliseconds per frame; browsers show shorter ones at 100
GIF_DITHER = 3  # OpenCV's other levels lose 4 to 20 dB


def write_frames(path: Path, frames: Iterable[Pixels], rate: float) -> None:
    """Write frames in the format of the suffix of `path`; holds one in memory at a time, of a GIF all.

    An mp4 is H.264 with even sides: an odd one repeats its last row or column. A GIF loops and has at most
    256 colours per frame.

    Args:
        path: ends in .mp4 or .gif; without a suffix it is a folder of frame_00000.png, ...
        frames: at least one, (H, W, 3) uint8 RGB of one size.
        rate: frames per second; rounded to a fraction that the format holds, 1 to 240.

    Raises:
        UserError: if the format does not support the frames (see `check_frame_size`), or an mp4 cannot be
            written to its end (a full disk).
        OSError: if it cannot be written.
    """
    rate = min(max(rate, MIN_RATE), MAX_RATE)
    frames = _checked(path, frames)
    if path.suffix.lower() == ".mp4":
        _write_mp4(path, frames, rate)
    elif path.suffix.lower() == ".gif":
        path.write_bytes(_encode_gif(frames, rate))
    else:
        path.mkdir()
        for number, frame in enumerate(frames):
            write_picture(path / f"frame_{number:05d}.png", frame)


def _checked(path: Path, frames: Iterable[Pixels]) -> Iterator[Pixels]:
    for frame in frames:
        check_frame_size(path, *frame.shape[:2])
        yield frame


def write_picture(path: Path, picture: Pixels) -> None:
    """Write a picture (H, W, 3) uint8 RGB as a PNG."""
    _, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    path.write_bytes(data.tobytes())


def write_masks(path: Path, masks: Iterable[Pixels], shape: tuple[int, int, int]) -> None:
    """Write class ids (H, W) uint8 as one .npy array of `shape` (T, H, W); holds one in memory at a time."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    for number, mask in enumerate(masks):
        array[number] = mask
    array.flush()


def _encode_gif(frames: Iterator[Pixels], rate: float) -> bytes:
    animation = cv2.Animation()
    animation.frames = [cv2.cvtColor(frame, cv2.COLOR_RGB2BGR) for frame in frames]
    animation.durations = [max(round(1000 / rate), MIN_GIF_DELAY)] * len(animation.frames)  # milliseconds
    animation.loop_count = 0  # endless
    _, data = cv2.imencodeanimation(".gif", animation, [cv2.IMWRITE_GIF_DITHER, GIF_DITHER])
    return data.tobytes()


def check_frame_size(path: Path, rows: int, columns: int) -> None:
    """Raise a UserError if frames of a size cannot be written in the format of the suffix of `path`."""
    longest = {".mp4": MAX_MP4_SIDE, ".gif": MAX_GIF_SIDE}.get(path.suffix.lower())
    large = path.suffix.lower() == ".mp4" and rows * columns > MAX_MP4_PIXELS
    if longest is not None and (large or max(rows, columns) > longest):
        limit = f"{MAX_MP4_PIXELS} pixels" if large else f"{longest} pixels a side"
        raise UserError(
            f"{path}: frames of {columns}x{rows} pixels do not fit into {path.suffix[1:].lower()}, at most "
            f"{limit}; write a folder of pictures: a name without a suffix"
        )


def _write_mp4(path: Path, frames: Iterable[Pixels], rate: float) -> None:
    """Encode H.264 in yuv420p, which browsers and phones play; in one thread: more of them change bytes."""
    try:
        with av.open(
            str(path.absolute()), "w", format="mp4", options={"movflags": "+faststart"}
        ) as container:
            stream = container.add_stream(
                "libx264", Fraction(rate).limit_denominator(MAX_DENOMINATOR), options={"crf": MP4_QUALITY}
            )
            converter = VideoReformatter()
            for number, frame in enumerate(frames):
                rows, columns = frame.shape[:2]
                even = np.pad(frame, ((0, rows % 2), (0, columns % 2), (0, 0)), mode="edge")
                if not number:
                    _set_format(stream, *even.shape[:2])
                picture = converter.reformat(
                    VideoFrame.from_ndarray(np.ascontiguousarray(even), "rgb24"),
                    format=stream.pix_fmt,
                    dst_colorspace=Colorspace.ITU709,
                    dst_color_range=ColorRange.MPEG,
                    threads=1,
                )
                picture.pts = number
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
    except av.FFmpegError as error:
        raise UserError(
            f"{path.name}: cannot be written ({printable(str(error))}); is the disk full?"
        ) from error


def _set_format(stream: VideoStream, rows: int, columns: int) -> None:
    stream.width, stream.height, stream.pix_fmt = columns, rows, "yuv420p"
    context = stream.codec_context
    context.thread_count = 1
    context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
    context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709


def check_outputs(outputs: Sequence[Path], inputs: Sequence[Sequence[Path]], force: bool) -> None:
    """Raise an error for an output that would replace or change a user's file.

    Args:
        outputs: all files and folders to write.
        inputs: files of each input clip. They are never replaced, and no picture is written beside those of a
            clip, where it would become a frame of it.
        force: whether an existing file, or a folder that holds nothing but written frames, may be replaced.

    Raises:
        UserError: for the first unusable output.
    """
    resolved = [[*_resolve(clip)] for clip in inputs]
    files = {path for clip in resolved for path in clip}
    folders = {folder for above in {path.parent for path in files} for folder in (above, *above.parents)}
    pictures = {path.parent for clip in resolved if len(clip) > 1 for path in clip}
    for output in outputs:
        real = output.resolve()
        if any("\ud800" <= letter <= "\udfff" for letter in str(real)):  # OpenCV would crash
            raise UserError(f"{output}: is not valid text; choose another path with -o")
        if real in files or real in folders:
            raise UserError(f"{output}: is an input; choose another path with -o")
        if output.suffix.lower() == ".png" and real.parent in pictures:
            raise UserError(f"{output}: would lie among the input pictures; choose a folder with -o")
        _check_existing(output, force)
        above = next(path for path in real.parents if path.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise UserError(f"{output}: cannot be written: {above} is not a writable folder")


def _resolve(files: Iterable[Path]) -> Iterator[Path]:
    """Resolve links, of each folder once: a clip may be 50,000 pictures."""
    folders: dict[Path, Path] = {}
    for file in files:
        if file.parent not in folders:
            folders[file.parent] = file.parent.resolve()
        path = folders[file.parent] / file.name
        yield path.resolve() if path.is_symlink() else path


def _check_existing(output: Path, force: bool) -> None:
    if not os.path.lexists(output):
        return
    if not force:
        raise UserError(f"{output}: already exists; choose another name with -o, or replace it with --force")
    if output.is_dir() != (output.suffix.lower() not in FILE_SUFFIXES):
        kind = "a folder" if output.is_dir() else "not a folder"
        raise UserError(f"{output}: is {kind}; choose another name with -o")
    if output.is_dir() and not all(FRAME_FILE.fullmatch(path.name) for path in output.iterdir()):
        raise UserError(
            f"{output}: holds other files than written frames, which --force would delete; "
            "choose another name with -o"
        )


@contextmanager
def atomic_outputs(outputs: Sequence[Path], force: bool) -> Iterator[list[Path]]:
    """Yield scratch paths that are renamed to `outputs` if the block succeeds and removed if not."""
    folder = outputs[0].parent
    folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".vdp-", dir=folder))  # on the same disk: a rename is atomic
    try:
        parts = [scratch / output.name for output in outputs]
        yield parts
        for output in outputs:
            _check_existing(output, force)
        for part, output in zip(parts, outputs, strict=True):
            if output.is_dir():
                output.rename(scratch / f"old {output.name}")
            part.replace(output)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
