"""What the commands for a user's own videos share: what is read, what is written and where, what is said.

A whole video is resized to the networks' size as it is read and back as it is written: no more is held of it
than the networks see.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from tqdm import tqdm

from vdp.core.errors import UserError, printable
from vdp.core.spacing import spread
from vdp.data.sources.input_clips import PICTURES_RATE, InputClip
from vdp.data.stores.clips import Pixels
from vdp.data.video.letterbox import MOST_PIXELS, Letterbox, exceeds
from vdp.data.video.write import MOVING, check_places, in_place, write_frames, write_masks, write_picture
from vdp.tracking.figures import LEGEND, TILE_WIDTH, class_colors, mask_tile, sheet, tile

LONGEST = 10_000  # frames of a video that is worked on whole: all are held at the networks' size
MOST_BYTES = 2**30  # of frames that are held at the user's size
COLUMNS = 6  # frames of one video in a row of a strip
GIVEN_COLUMNS = 3  # of those beside what was made to follow them
TALLEST = 3  # times as high as wide, of a strip's pictures; a narrower one gets paper beside it
BAR_AFTER = 2.0  # seconds
AT_ONCE = 48  # frames between two steps of a bar
NAMED = 3  # outputs in a line

Shown = list[tuple[str, Pixels]]  # captions and pictures of a row of a strip


class Sized(Protocol):
    """Networks that work at one size in pixels."""

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...


@dataclass(frozen=True)
class Size:
    """A size in pixels that is worked at in place of the networks' own."""

    height: int
    width: int


@dataclass(frozen=True)
class Job:
    """One piece of work: the clips that are read for it, the places of what is made, and of its strip."""

    clips: tuple[InputClip, ...]
    outs: tuple[Path, ...]
    strip: Path


@dataclass(frozen=True)
class Given:
    """What was read of a clip.

    Attributes:
        frames: (T, H, W, 3) uint8, at the networks' size or, where detail is kept of them, at the user's.
        shown: some of them for the strip, small, by their place in `frames`.
        numbers: 1-based place in the video of each frame.
        box: between the user's size and the networks'.
        rate: frames per second.
    """

    frames: Pixels
    shown: dict[int, Pixels]
    numbers: list[int]
    box: Letterbox
    rate: float

    def back(self, picture: Pixels) -> Pixels:
        """A frame (H, W, 3) or mask (H, W) that was made, at the user's size if it is not yet."""
        if picture.shape[:2] == (self.box.rows, self.box.columns):
            return picture
        return self.box.take(picture) if picture.ndim == 3 else self.box.take_masks(picture)

    def small(self, place: int) -> Pixels:
        """One of the frames at the networks' size."""
        frame = self.frames[place]
        return self.box.put(frame) if frame.shape[:2] == (self.box.rows, self.box.columns) else frame

    def row(self) -> Shown:
        """A strip's row of what is shown, in order."""
        return [(f"given {self.numbers[place]}", picture) for place, picture in self.shown.items()]


# --- Planning --------------------------------------------------------------------------------------------


def plan_jobs(
    groups: Sequence[tuple[InputClip, ...]],
    out: str,
    copies: int,
    force: bool,
    suffixes: Sequence[str] = MOVING,
) -> list[Job]:
    """Where everything goes: `out`, or out_1, out_2, ... of several, with out_strip.png of each job.

    Args:
        groups: the clips of each job.
        out: as the user has named it.
        copies: results of each job.
        force: whether what is there may be replaced.
        suffixes: those that can be written; '' is a folder of pictures.

    Raises:
        UserError: if the suffix is none of these, or something would be lost.
    """
    path = Path(out).expanduser()
    if path.suffix.lower() not in suffixes or not path.name:
        known = ", ".join(suffix or "no suffix (a folder of PNGs)" for suffix in suffixes)
        raise UserError(f"-o {out!r}: cannot be written; expected a name that ends in one of: {known}")
    jobs = []
    for number, group in enumerate(groups, start=1):
        stem = path.stem + (f"_{number}" if len(groups) > 1 else "")
        stems = [f"{stem}_{copy}" for copy in range(1, copies + 1)] if copies > 1 else [stem]
        outs = tuple(path.with_name(name + path.suffix) for name in stems)
        jobs.append(Job(group, outs, path.with_name(f"{stem}_strip.png")))
    places = [place for job in jobs for place in (*job.outs, job.strip)]
    check_places(places, [clip.files for group in groups for clip in group], force)
    return jobs


def check_clips(clips: Sequence[InputClip], known: int | None, interval: int) -> None:
    """See that the first frame of each clip decodes, and that its pictures are as many as asked for.

    Raises:
        ValueError: if not; names the file.
        OSError: if one cannot be opened.
    """
    for clip in clips:
        clip.size()
        if known and not clip.is_video:  # the header of a video may be wrong
            _check_known(clip, clip.count(interval), known)


def check_full_size(clips: Sequence[InputClip], interval: int) -> None:
    """See that clips can be worked on at their own size, as far as their headers tell how long they are.

    Args:
        clips: what is named.
        interval: every n-th frame is taken.

    Raises:
        UserError: if a clip's frames are too large or too many.
        ValueError: if one does not decode; names the file.
    """
    for clip in clips:
        rows, columns = clip.size()
        if rows * columns > MOST_PIXELS:
            raise UserError(
                f"{clip.name}: frames of {columns}x{rows} are too large for --full-size, at most "
                f"{MOST_PIXELS} pixels: make them smaller, or leave it out"
            )
        _check_held(clip, clip.count(interval), (rows, columns))


def _check_held(clip: InputClip, count: int, size: tuple[int, int]) -> None:
    if count * size[0] * size[1] * 3 > MOST_BYTES:
        raise UserError(
            f"{clip.name}: {count} frames of {size[1]}x{size[0]} are more than are held; take fewer with "
            "--interval, cut the video, or leave out --full-size"
        )


def _check_known(clip: InputClip, count: int, known: int) -> None:
    if count < known:
        raise UserError(f"{clip.name}: gives {of(count, 'frame')}, fewer than --known={known}; lower it")


# --- Reading ---------------------------------------------------------------------------------------------


def read_end(
    clip: InputClip, interval: int, known: int | None, useful: int, last: bool, size: Sized, making: int
) -> Given:
    """The last frames of a clip, or the first ones: `known` of them, or as many of `useful` as there are.

    They keep their size, so that what is made can keep their detail, unless that would fill the memory with
    the `making` frames that are to be made.

    Raises:
        UserError: if there are fewer than `known`.
        ValueError: if the clip does not decode; names the file.
    """
    offset = _offset_to_the_end(clip, interval) if last else 0
    read = _with_bar(clip.frames(interval, offset), clip.count(interval), f"reading {clip.name}")
    numbered = ((offset + place * interval + 1, frame) for place, frame in enumerate(read))
    kept = list(deque(numbered, known or useful) if last else islice(numbered, known or useful))
    if known:
        _check_known(clip, len(kept), known)
    frames = np.stack([frame for _, frame in kept])
    box = Letterbox(frames.shape[1], frames.shape[2], size.height, size.width)
    shown = {place: thumbnail(frames[place]) for place in spread(len(kept), GIVEN_COLUMNS)}
    numbers = [number for number, _ in kept]
    if max(making, len(kept)) * frames[0].nbytes > MOST_BYTES:
        print(f"{printable(clip.name)}: too many frames to keep their detail; worked small", file=sys.stderr)
        frames = box.put(frames)
    return Given(frames, shown, numbers, box, clip.rate(interval))


def _offset_to_the_end(clip: InputClip, interval: int) -> int:
    """Frames to leave out before, so that the last frame is among every `interval`-th."""
    if interval == 1:
        return 0
    # a header's count may be wrong: the frames are counted
    total = sum(1 for _ in clip.frames()) if clip.is_video else clip.count()
    return (total - 1) % interval


def read_whole(clip: InputClip, interval: int, most: int | None, size: Sized) -> Given:
    """All frames of a clip, or the first `most`.

    Raises:
        UserError: if there are more than can be worked on, or than memory is meant to hold of this size.
        ValueError: if the clip does not decode; names the file.
    """
    total = clip.count(interval)
    kept, shown, every, box = [], {}, 1, Letterbox(*clip.size(), size.height, size.width)
    for place, frame in enumerate(islice(_with_bar(clip.frames(interval), total, "reading"), most)):
        if place == LONGEST:
            raise UserError(
                f"{clip.name}: has more than {LONGEST} frames; take fewer with --interval, or cut the video"
            )
        kept.append(box.put(frame))
        if isinstance(size, Size):
            _check_held(clip, len(kept), (box.height, box.width))
        if place % every == 0:
            shown[place] = thumbnail(frame)
        if len(shown) > 2 * COLUMNS:  # how long the video is is known at its end: thin them out on the way
            every *= 2
            shown = {place: picture for place, picture in shown.items() if place % every == 0}
    chosen = [list(shown)[index] for index in spread(len(shown), COLUMNS)]
    numbers = [place * interval + 1 for place in range(len(kept))]
    pictures = {place: shown[place] for place in chosen}
    return Given(np.stack(kept), pictures, numbers, box, clip.rate(interval))


def work_size(clip: InputClip, size: Sized, full: bool) -> Sized:
    """The size that a clip is worked at: its own if that is asked for and larger than the networks'.

    Raises:
        ValueError: if the clip does not decode; names the file.
    """
    own = clip.size()
    return Size(*own) if full and exceeds(own, (size.height, size.width)) else size


def read_nothing(size: Sized) -> Given:
    """What there is to read where clips are made from nothing: their size."""
    box = Letterbox(size.height, size.width, size.height, size.width)
    return Given(np.zeros((0, size.height, size.width, 3), np.uint8), {}, [], box, PICTURES_RATE)


def _with_bar(frames: Iterable[Pixels], total: int, label: str) -> Iterator[Pixels]:
    """The frames, with a bar where they take long."""
    return iter(
        tqdm(
            frames,
            desc=label,
            total=total or None,
            unit="frame",
            file=sys.stderr,
            delay=BAR_AFTER,
            leave=False,
        )
    )


# --- Writing ---------------------------------------------------------------------------------------------


def write_job(
    job: Job, made: Pixels, given: Given, rows: Sequence[Shown], fps: float | None, force: bool
) -> None:
    """Write what was made at the user's size, and its strip: all of it or nothing.

    Args:
        job: says where; an output for each result.
        made: frames (S, T, H, W, 3), or class ids (S, T, H, W), at the networks' size or the user's.
        given: what it was made of.
        rows: of the strip.
        fps: frames per second; None for those of what was given.
        force: whether what is there may be replaced.

    Raises:
        UserError: if it does not fit into such a file, or something has appeared in its place.
        OSError: if it cannot be written.
    """
    rate, box, colors = fps or given.rate, given.box, class_colors()
    with in_place([*job.outs, job.strip], force) as parts:
        for part, result in zip(parts, made, strict=False):
            bar = _with_bar(result, len(result), f"writing {part.name}")
            if part.suffix.lower() == ".npy":
                masks = (given.back(mask) for mask in bar)
                write_masks(part, masks, (len(result), box.rows, box.columns))
            elif result.ndim == 3:
                write_frames(part, (colors[given.back(mask)] for mask in bar), rate)
            else:
                write_frames(part, (given.back(frame) for frame in bar), rate)
        write_picture(parts[-1], _strip(job, rows))


def _strip(job: Job, rows: Sequence[Shown]) -> Pixels:
    masks = any(picture.ndim == 2 for row in rows for _, picture in row)
    names = [printable(clip.name) for clip in job.clips]  # OpenCV crashes on a str that is not valid text
    title = "; ".join([*names, *[LEGEND] * masks])
    tiles = [[(tile if p.ndim == 3 else mask_tile)(p, caption) for caption, p in row] for row in rows]
    return sheet(title, tiles)


def made_row(made: Pixels, given: Given, label: str) -> Shown:
    """A strip's row of some frames of one result (T, H, W, 3), the last one among them."""
    return [
        (f"{label}{place + 1}", thumbnail(given.back(made[place]))) for place in spread(len(made), COLUMNS)
    ]


def beside_row(made: Pixels, given: Given, label: str) -> Shown:
    """A strip's row of what was made, frames or masks, of the frames that are shown as given."""
    return [(f"{label} {given.numbers[place]}", thumbnail(given.back(made[place]))) for place in given.shown]


def thumbnail(picture: Pixels) -> Pixels:
    """A frame (H, W, 3) or mask (H, W) no larger than a strip's tile."""
    rows, columns = picture.shape[:2]
    scale = min(1.0, TILE_WIDTH / columns, TALLEST * TILE_WIDTH / rows)
    if scale < 1:
        size = max(1, round(columns * scale)), max(1, round(rows * scale))
        how = cv2.INTER_AREA if picture.ndim == 3 else cv2.INTER_NEAREST_EXACT
        picture = cv2.resize(picture, size, interpolation=how).astype(np.uint8, copy=False)
    beside = max(0, -(-picture.shape[0] // TALLEST) - picture.shape[1])
    return np.pad(picture, ((0, 0), (0, beside), (0, 0))[: picture.ndim], mode="edge")


# --- Saying ----------------------------------------------------------------------------------------------


def say_plan(job: Job, given: Given, doing: str, seconds: float) -> None:
    """What a dry run says of a job."""
    box, (_, _, height, width) = given.box, given.box.inner
    for clip in job.clips:
        rows, columns = clip.size()
        count = clip.count()
        about = "" if not clip.is_video else "about "
        told = f"{about}{of(count, 'frame')}" if count else "frames that it does not count"
        print(f"would read     {printable(clip.name)}: {told} of {columns}x{rows}, {clip.rate():g} a second")
    bars = "" if (height, width) == (box.height, box.width) else f", the picture {width}x{height} of them"
    print(f"would work at  {box.width}x{box.height} pixels{bars}")
    print(f"would make     {doing}")
    print(f"would write    {_places(job)}, {box.columns}x{box.rows} pixels")
    print(f"would take     about {duration(seconds)}")


def say_begin(job: Job, given: Given, doing: str) -> None:
    """Say on stderr what begins, as it may take long, and at which size."""
    doing = f"{doing}, at {given.box.width}x{given.box.height} pixels ..."
    names = ", ".join(clip.name for clip in job.clips)
    print(printable(f"{names}: {doing}" if names else doing), file=sys.stderr)


def in_parts(frames: Pixels, make: Callable[[Pixels], Pixels], label: str) -> Pixels:
    """What `make` gives for each frame, some at a time, with a bar where it takes long."""
    starts = range(0, len(frames), AT_ONCE)
    bar = tqdm(starts, desc=label, unit=f"{AT_ONCE} frames", file=sys.stderr, delay=BAR_AFTER, leave=False)
    return np.concatenate([make(frames[start : start + AT_ONCE]) for start in bar])


def say_done(job: Job, made: Pixels, given: Given, started: float) -> None:
    """Sum up a job that is done."""
    size = f"{of(made.shape[1], 'frame')} of {given.box.columns}x{given.box.rows}"
    each, seconds = " each" * (len(job.outs) > 1), time.monotonic() - started
    print(f"wrote {_places(job)}: {size}{each}, in {duration(seconds)}")


def seconds_of(make: Callable[[], object]) -> float:
    """How long a call takes."""
    started = time.monotonic()
    make()
    return time.monotonic() - started


def _places(job: Job) -> str:
    names = [str(out) for out in job.outs]
    if len(names) > NAMED:
        names = [f"{names[0]} to {names[-1]}"]
    return printable(", ".join([*names, str(job.strip)]))


def of(count: int, what: str) -> str:
    """A number of things: 1 frame, 2 frames."""
    return f"{count} {what}{'s' * (count != 1)}"


def duration(seconds: float) -> str:
    """Seconds in words: 4 s, 2 min 30 s, 1 h 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
