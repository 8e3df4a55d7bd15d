"""Cut a source's videos into clips of one length and size."""

import hashlib
from collections import deque
from collections.abc import Iterator

import numpy as np

from vdp.data.sources.protocols import ClipRule, Frame, Pace, Source
from vdp.data.stores.clips import Clip, Pixels
from vdp.data.video.decode import SUFFIXES
from vdp.data.video.resize import resize_frame, resize_mask

MAX_STEM = 100  # bytes of a clip's name before its frame number: it becomes part of file names


def cut_clips(source: Source, item: str, rule: ClipRule) -> Iterator[Clip]:
    """Cut one video into clips that start `rule.stride` selected frames apart; holds one clip in memory.

    A clip is named after its video and the 0-based number of its first frame, or after the video alone where
    the source is precut; `r1`, `r2`, ... follow where a repeated frame starts several clips. Frames left over
    at the end are dropped.

    Raises:
        ValueError: if the video cannot be used or is too short; names the file.
        OSError: if a file cannot be opened.
    """
    label, stem = source.label(item), clip_stem(item)
    window: deque[Frame] = deque(maxlen=rule.frames)
    taken = repeats = 0
    first = -1
    for frame in source.frames(item, Pace() if source.precut else rule.pace):
        window.append(_resize(frame, rule))
        taken += 1
        start = taken - rule.frames
        if start >= 0 and start % rule.stride == 0:
            repeats = repeats + 1 if window[0].number == first else 0
            first = window[0].number
            yield _make_clip(window, rule.frames, stem, source.precut, repeats)
            if source.precut:
                return
    length = rule.length(taken, label)
    if length < rule.frames:
        yield _make_clip(window, length, stem, source.precut)


def clip_stem(item: str) -> str:
    """Prefix of the names of a video's clips: one path component, valid UTF-8, at most MAX_STEM bytes."""
    name = item.replace("/", "_").encode("utf-8", "replace").decode()
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            name = name[: -len(suffix)]
            break
    data = name.encode()
    if len(data) <= MAX_STEM:
        return name
    digest = hashlib.sha256(item.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return data[: MAX_STEM - 9].decode("utf-8", "ignore") + "~" + digest


def _resize(frame: Frame, rule: ClipRule) -> Frame:
    size = (rule.height, rule.width, rule.fit)
    if frame.pixels.shape[:2] == size[:2]:
        return frame
    return Frame(
        frame.number,
        resize_frame(frame.pixels, *size),
        None if frame.mask is None else resize_mask(frame.mask, *size),
        None if frame.condition is None else resize_frame(frame.condition, *size),
    )


def _make_clip(window: deque[Frame], length: int, stem: str, precut: bool, repeats: int = 0) -> Clip:
    frames = list(window)[:length]
    name = stem if precut else f"{stem}_{frames[0].number:06d}" + (f"r{repeats}" if repeats else "")
    return Clip(
        name,
        np.stack([frame.pixels for frame in frames]),
        _stack([frame.mask for frame in frames]),
        _stack([frame.condition for frame in frames]),
    )


def _stack(arrays: list[Pixels | None]) -> Pixels | None:
    present = [array for array in arrays if array is not None]
    assert len(present) in (0, len(arrays)), "a source gives all frames of a video a mask, or none"
    return np.stack(present) if present else None
