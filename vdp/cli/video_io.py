"""Input and output of the video commands: planning, reading, writing, console messages.

A clip is resized to the networks' size while it is read, and back while it is written.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from vdp.api.sampling import Sampling
from vdp.core.errors import UserError, printable
from vdp.data.sources.input_clips import PICTURES_RATE, InputClip
from vdp.data.stores.clips import Pixels
from vdp.data.video.letterbox import MAX_PIXELS, Letterbox
from vdp.data.video.write import (
    VIDEO_SUFFIXES,
    atomic_outputs,
    check_frame_size,
    check_outputs,
    write_frames,
    write_masks,
    write_picture,
)
from vdp.tracking.figures import LEGEND, TILE_WIDTH, class_colors, evenly_spaced, mask_tile, sheet, tile

MAX_FRAMES = 10_000  # of a clip that is processed whole
MAX_BYTES = 2**30  # of frames held at the clip's own size
COLUMNS = 6  # frames in a row of a strip
CONTEXT_COLUMNS = 3  # context frames beside them
MAX_ASPECT = 3  # height over width of a strip's pictures; narrower ones are padded
BAR_DELAY = 2.0  # seconds before a progress bar appears
BATCH_FRAMES = 48  # frames between two updates of a bar
MAX_NAMES = 3  # outputs named in a line

T = TypeVar("T")
Reader = Callable[[], Pixels]
StripRow = list[tuple[str, Pixels]]  # captions and pictures
Size = tuple[int, int]  # height and width in pixels


@dataclass(frozen=True)
class Job:
    """A job: its input clips, output paths and strip path."""

    clips: tuple[InputClip, ...]
    outputs: tuple[Path, ...]
    strip: Path


@dataclass(frozen=True)
class Input:
    """Frames read from a clip.

    Attributes:
        frames: (T, H, W, 3) uint8, at the working size, or at the clip's own size to keep their detail.
        thumbnails: pictures for the strip, by index into `frames`.
        numbers: 1-based frame number in the clip of each frame.
        box: between the clip's size and the working size.
        rate: frames per second.
    """

    frames: Pixels
    thumbnails: dict[int, Pixels]
    numbers: list[int]
    box: Letterbox
    rate: float

    def to_clip_size(self, picture: Pixels) -> Pixels:
        """Resize a frame (H, W, 3) or mask (H, W) to the clip's size."""
        if picture.shape[:2] == (self.box.rows, self.box.columns):
            return picture
        return self.box.restore(picture) if picture.ndim == 3 else self.box.restore_masks(picture)

    def to_working_size(self, index: int) -> Pixels:
        """Return one frame at the working size."""
        frame = self.frames[index]
        return self.box.fit(frame) if frame.shape[:2] == (self.box.rows, self.box.columns) else frame

    def row(self) -> StripRow:
        """Return the strip row of the input."""
        return [(f"given {self.numbers[index]}", picture) for index, picture in self.thumbnails.items()]


# --- Planning --------------------------------------------------------------------------------------------


def plan_jobs(
    groups: Sequence[tuple[InputClip, ...]],
    out: str,
    samples: int,
    force: bool,
    suffixes: Sequence[str] = VIDEO_SUFFIXES,
) -> list[Job]:
    """Name the outputs of each job: `out`, numbered if there are several, and <out>_strip.png."""
    path = Path(out).expanduser()
    if path.suffix.lower() not in suffixes or not path.name:
        choices = ", ".join(suffix or "no suffix (a folder of PNGs)" for suffix in suffixes)
        raise UserError(f"--out={out!r}: expected a name that ends in one of: {choices}")
    jobs = []
    for number, group in enumerate(groups, start=1):
        stem = path.stem + (f"_{number}" if len(groups) > 1 else "")
        stems = [f"{stem}_{sample}" for sample in range(1, samples + 1)] if samples > 1 else [stem]
        outputs = tuple(path.with_name(name + path.suffix) for name in stems)
        jobs.append(Job(group, outputs, path.with_name(f"{stem}_strip.png")))
    written = [path for job in jobs for path in (*job.outputs, job.strip)]
    check_outputs(written, [clip.files for group in groups for clip in group], force)
    return jobs


def check_clips(jobs: Sequence[Job], known: int | None, interval: int, whole: bool = False) -> None:
    """Decode the first frame of each clip, and check its length and that its size can be written.

    `whole` if every frame is processed, not the context frames alone.
    """
    for job in jobs:
        for clip in job.clips:
            clip.size()
            if known and not clip.is_video:  # what a video holds is known when it is decoded
                _check_known(clip, clip.count(interval), known)
            if whole and clip.count(interval) > MAX_FRAMES:
                raise _too_long(clip)
        check_frame_size(job.outputs[0], *job.clips[0].size())


def check_full_size(clips: Sequence[InputClip], interval: int) -> None:
    """Check the frame sizes and, by their headers, the lengths of clips for --full-size."""
    for clip in clips:
        rows, columns = clip.size()
        if rows * columns > MAX_PIXELS:
            raise UserError(
                f"{clip.name}: frames of {columns}x{rows}: expected at most {MAX_PIXELS} pixels with "
                "--full-size; resize them, or leave it out"
            )
        _check_memory(clip, clip.count(interval), (rows, columns))


def _too_long(clip: InputClip) -> UserError:
    return UserError(f"{clip.name}: more than {MAX_FRAMES} frames; set --interval, or cut the video")


def _check_memory(clip: InputClip, count: int, size: Size) -> None:
    if count * size[0] * size[1] * 3 > MAX_BYTES:
        raise UserError(
            f"{clip.name}: {count} frames of {size[1]}x{size[0]} exceed {MAX_BYTES >> 20} MiB; set "
            "--interval, cut the video, or leave out --full-size"
        )


def _check_known(clip: InputClip, count: int, known: int) -> None:
    if count < known:
        raise UserError(f"--known={known}: {clip.name} has only {plural(count, 'frame')}; lower it")


# --- Reading ---------------------------------------------------------------------------------------------


def read_context(
    clip: InputClip, interval: int, known: int | None, limit: int, at_end: bool, size: Size, outputs: int
) -> Input:
    """Read the context frames at the end or the start of a clip: `known` of them, or up to `limit`.

    They keep the clip's size, and so their detail, unless they or the `outputs` predicted frames would exceed
    `MAX_BYTES` at that size.
    """
    offset = _offset_to_end(clip, interval) if at_end else 0
    box, count = Letterbox(*clip.size(), *size), known or limit
    frame_bytes = box.rows * box.columns * 3
    small = outputs * frame_bytes > MAX_BYTES
    readers = _with_bar(clip.readers(interval, offset), clip.count(interval), f"reading {clip.name}")
    kept: deque[Reader] = deque(maxlen=count)
    numbers = deque[int](maxlen=count)
    for index, read in enumerate(readers if at_end else islice(readers, count)):
        numbers.append(offset + index * interval + 1)
        kept.append(_resized(read, box) if small else read)
        if not small and len(kept) * frame_bytes > MAX_BYTES:
            small = True
            kept = deque((_resized(other, box) for other in kept), count)
    if known:
        _check_known(clip, len(kept), known)
    if small:
        name = printable(clip.name)
        print(
            f"{name}: too many frames to keep their detail; resized to {box.width}x{box.height}",
            file=sys.stderr,
        )
    frames = np.stack([read() for read in kept])
    source = Input(frames, {}, list(numbers), box, clip.rate(interval))
    for index in evenly_spaced(len(kept), CONTEXT_COLUMNS):
        source.thumbnails[index] = thumbnail(source.to_clip_size(frames[index]))
    return source


def _resized(read: Reader, box: Letterbox) -> Reader:
    frame = box.fit(read())
    return lambda: frame


def _offset_to_end(clip: InputClip, interval: int) -> int:
    """Frames to skip so that every `interval`-th frame includes the last one."""
    if interval == 1:
        return 0
    total = sum(1 for _ in clip.readers()) if clip.is_video else clip.count()  # a count may be an estimate
    return (total - 1) % interval


def read_clip(
    clip: InputClip, interval: int, limit: int | None, size: Size, check_memory: bool = False
) -> Input:
    """Read all frames of a clip, or the first `limit`, at a size."""
    decoded = _with_bar(clip.frames(interval), clip.count(interval), f"reading {clip.name}")
    kept, thumbnails, every, box = [], {}, 1, Letterbox(*clip.size(), *size)
    for index, frame in enumerate(islice(decoded, limit)):
        if index == MAX_FRAMES:
            raise _too_long(clip)
        kept.append(box.fit(frame))
        if check_memory:
            _check_memory(clip, len(kept), size)
        if index % every == 0:
            thumbnails[index] = thumbnail(frame)
        if len(thumbnails) > 2 * COLUMNS:  # keep every second one, as the length is unknown
            every *= 2
            thumbnails = {index: picture for index, picture in thumbnails.items() if index % every == 0}
    pictures = list(thumbnails.items())
    chosen = dict(pictures[position] for position in evenly_spaced(len(pictures), COLUMNS))
    numbers = [index * interval + 1 for index in range(len(kept))]
    return Input(np.stack(kept), chosen, numbers, box, clip.rate(interval))


def empty_input(size: Size) -> Input:
    """Return the input of `generate`: no frames, at the networks' size."""
    return Input(np.zeros((0, *size, 3), np.uint8), {}, [], Letterbox(*size, *size), PICTURES_RATE)


def _with_bar(frames: Iterable[T], total: int, label: str) -> Iterator[T]:
    bar = tqdm(
        frames, label, total=total or None, unit="frame", file=sys.stderr, delay=BAR_DELAY, leave=False
    )
    return iter(bar)


def map_batches(frames: Pixels, function: Callable[[Pixels], Pixels], label: str) -> Pixels:
    """Apply a function to batches of frames, with a progress bar."""
    starts = range(0, len(frames), BATCH_FRAMES)
    bar = tqdm(starts, label, unit=f"{BATCH_FRAMES} frames", file=sys.stderr, delay=BAR_DELAY, leave=False)
    return np.concatenate([function(frames[start : start + BATCH_FRAMES]) for start in bar])


# --- Writing ---------------------------------------------------------------------------------------------


def write_job(
    job: Job,
    results: Pixels,
    source: Input,
    rows: Sequence[StripRow],
    fps: float | None,
    force: bool,
    started: float,
) -> None:
    """Write the results (S, T, ...), frames or masks, at the clip's size, and the strip; all or none."""
    rate, box, colors = fps or source.rate, source.box, class_colors()
    with atomic_outputs([*job.outputs, job.strip], force) as parts:
        for part, result in zip(parts, results, strict=False):
            bar = _with_bar(result, len(result), f"writing {part.name}")
            pictures = (source.to_clip_size(picture) for picture in bar)
            if part.suffix.lower() == ".npy":
                write_masks(part, pictures, (len(result), box.rows, box.columns))
            elif result.ndim == 3:
                write_frames(part, (colors[mask] for mask in pictures), rate)
            else:
                write_frames(part, pictures, rate)
        write_picture(parts[-1], _strip(job, rows))
    size = f"{plural(results.shape[1], 'frame')} of {box.columns}x{box.rows}"
    each = " each" if len(job.outputs) > 1 else ""
    print(f"wrote {_output_names(job)}: {size}{each}, in {format_duration(time.monotonic() - started)}")


def _strip(job: Job, rows: Sequence[StripRow]) -> Pixels:
    masks = any(picture.ndim == 2 for row in rows for _, picture in row)
    names = [printable(clip.name) for clip in job.clips]  # OpenCV crashes on a str that is not valid text
    title = "; ".join([*names, *[LEGEND] * masks])
    tiles = [[(tile if p.ndim == 3 else mask_tile)(p, caption) for caption, p in row] for row in rows]
    return sheet(title, tiles)


def result_row(result: Pixels, source: Input, label: str, numbers: Sequence[int] | None = None) -> StripRow:
    """Return a strip row of evenly spaced frames of a result (T, H, W, 3), by number; None: from 1 on."""
    return [
        (
            f"{label}{index + 1 if numbers is None else numbers[index]}",
            thumbnail(source.to_clip_size(result[index])),
        )
        for index in evenly_spaced(len(result), COLUMNS)
    ]


def matching_row(result: Pixels, source: Input, label: str) -> StripRow:
    """Return a strip row of the frames or masks that match the input's thumbnails."""
    return [
        (f"{label} {source.numbers[index]}", thumbnail(source.to_clip_size(result[index])))
        for index in source.thumbnails
    ]


def thumbnail(picture: Pixels) -> Pixels:
    """Shrink a frame (H, W, 3) or mask (H, W) to fit a tile of the strip."""
    rows, columns = picture.shape[:2]
    scale = min(1.0, TILE_WIDTH / columns, MAX_ASPECT * TILE_WIDTH / rows)
    if scale < 1:
        size = max(1, round(columns * scale)), max(1, round(rows * scale))
        interpolation = cv2.INTER_AREA if picture.ndim == 3 else cv2.INTER_NEAREST_EXACT
        picture = cv2.resize(picture, size, interpolation=interpolation).astype(np.uint8, copy=False)
    padding = max(0, -(-picture.shape[0] // MAX_ASPECT) - picture.shape[1])
    return np.pad(picture, ((0, 0), (0, padding), (0, 0))[: picture.ndim], mode="edge")


# --- Console ---------------------------------------------------------------------------------------------


def print_plan(job: Job, source: Input, task: str, seconds: float, sampling: Sampling | None = None) -> None:
    """Print the plan of a dry run."""
    box, (_, _, height, width) = source.box, source.box.inner
    for clip in job.clips:
        rows, columns = clip.size()
        count = clip.count()
        about = "about " if clip.is_video else ""
        frames = f"{about}{plural(count, 'frame')}" if count else "an unknown number of frames"
        print(f"input         {printable(clip.name)}: {frames} of {columns}x{rows}, {clip.rate():g} fps")
    padding = "" if (height, width) == (box.height, box.width) else f", {width}x{height} without padding"
    print(f"working size  {box.width}x{box.height} pixels{padding}")
    print(f"task          {task}")
    if sampling:
        print(f"sampling      {sampling}")
    print(f"output        {_output_names(job)}, {box.columns}x{box.rows} pixels")
    print(f"time          about {format_duration(seconds)}")


def print_start(job: Job, source: Input, task: str) -> None:
    """Print the task and its working size to stderr."""
    names = ", ".join(clip.name for clip in job.clips)
    line = f"{task}, at {source.box.width}x{source.box.height} pixels ..."
    print(printable(f"{names}: {line}" if names else line), file=sys.stderr)


def _output_names(job: Job) -> str:
    names = [str(output) for output in job.outputs]
    if len(names) > MAX_NAMES:
        names = [f"{names[0]} to {names[-1]}"]
    return printable(", ".join([*names, str(job.strip)]))


def plural(count: int, noun: str) -> str:
    """1 frame, 2 frames."""
    return f"{count} {noun}{'s' * (count != 1)}"


def format_duration(seconds: float) -> str:
    """4.0 s, 2 min 30 s, 1 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
