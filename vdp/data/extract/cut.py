"""Cut a source's videos into clips of one length and size."""

import hashlib
from collections import Counter, deque
from collections.abc import Generator
from dataclasses import replace

import numpy as np

from vdp.core.classes import NUM_CLASSES
from vdp.data.sources.protocols import ClipRule, Frame, LeftOut, Pace, Source
from vdp.data.stores.clips import Clip, Pixels
from vdp.data.video.discover import strip_suffix
from vdp.data.video.resize import resize_frame, resize_mask

# why frames are in no clip
NOT_SELECTED = "not selected by interval, fps and offset"
BETWEEN = "between two clips"
REST = "fill no clip"
FLAW = "without a valid mask"
UNKNOWN_CLASS = f"in clips, with class ids over {NUM_CLASSES - 1} taken as background"
REASONS = (NOT_SELECTED, BETWEEN, REST, FLAW, UNKNOWN_CLASS)
REPAIR = "set extract_frames.on_bad_masks to repair"
MAX_STEM = 100  # bytes of a clip's name before its frame number: it becomes part of file names


def cut_clips(source: Source, item: str, rule: ClipRule) -> Generator[Clip, None, list[LeftOut]]:
    """Cut one video into clips that start `rule.stride` selected frames apart; holds one clip in memory.

    A clip is named after its video and the 0-based number of its first frame, or after the video alone where
    the source is precut; `r1`, `r2`, ... follow where a repeated frame starts several clips. A new row of
    clips starts after each frame with a flaw, and at each scene cut.

    Returns:
        Frames that are in no clip, by reason, and those with replaced class ids.

    Raises:
        ValueError: if the video cannot be used or is too short; names the file.
        OSError: if a file cannot be opened.
    """
    label, stem = source.label(item), clip_stem(item)
    window: deque[Frame] = deque(maxlen=rule.frames)
    counts = Counter[str]()
    clips = repeats = 0
    # selected frames since the last flaw or cut, and those up to the end of the last clip
    taken = covered = 0
    last, first, flaw, cuts = -1, -1, "", 0
    for frame in source.frames(item, Pace() if source.precut else rule.pace):
        counts[NOT_SELECTED] += max(frame.number - last - 1, 0)  # a repeated frame has the same number
        last = frame.number
        if frame.flaw is not None:
            if not rule.repair_masks:
                raise ValueError(f"{frame.flaw}; or {REPAIR}")
            flaw = flaw or frame.flaw
            counts[FLAW] += 1
            counts[REST] += taken - covered
            taken = covered = 0
            continue
        frame = _resize(_known_classes(frame, label, rule.repair_masks, counts), rule)
        if taken and not source.precut and _is_cut(window[-1].pixels, frame.pixels, rule.scene_cut):
            counts[REST] += taken - covered
            taken, covered, cuts = 0, 0, cuts + 1
        window.append(frame)
        taken += 1
        start = taken - rule.frames
        if start >= 0 and start % rule.stride == 0:
            counts[BETWEEN] += max(start - covered, 0) if covered else 0
            covered, clips = taken, clips + 1
            repeats = repeats + 1 if window[0].number == first else 0
            first = window[0].number
            yield _make_clip(window, rule.frames, stem, source.precut, repeats)
            if source.precut:
                counts[REST] += max(source.count(item) - taken, 0)
                return _left_out(item, counts)
    if not clips:
        if taken < rule.min_frames and flaw:
            raise ValueError(f"{flaw}; and too few frames without such a flaw follow each other")
        if taken < rule.min_frames and cuts:
            raise ValueError(
                f"{label}: no {rule.min_frames} frames in a row without a scene cut ({cuts} cuts); remove "
                "it, lower clip.frames, or set extract_frames.scene_cut to null"
            )
        covered = rule.length(taken, label)
        for _ in range(len(window) - taken):  # frames before a flaw
            window.popleft()
        yield _make_clip(window, covered, stem, source.precut)
    counts[REST] += taken - covered
    return _left_out(item, counts)


def _is_cut(before: Pixels, after: Pixels, scene_cut: float | None) -> bool:
    """Whether the root mean square change between frames (H, W, 3) exceeds a share of the levels' range."""
    if scene_cut is None:
        return False
    change = after.astype(np.float32) - before
    return bool(np.square(change).mean() > (255 * scene_cut) ** 2)


def _known_classes(frame: Frame, label: str, repair: bool, counts: Counter[str]) -> Frame:
    """Check the class ids of a frame, or take unknown ones as background and count the frame."""
    if frame.mask is None or not frame.mask.size or frame.mask.max() < NUM_CLASSES:
        return frame
    if not repair:
        raise ValueError(
            f"{label}: mask of frame {frame.number}: class id {frame.mask.max()} is over {NUM_CLASSES - 1}; "
            f"expected 0 (background) to {NUM_CLASSES - 1}, or {REPAIR}"
        )
    counts[UNKNOWN_CLASS] += 1
    return replace(frame, mask=np.where(frame.mask < NUM_CLASSES, frame.mask, np.uint8(0)))


def _left_out(item: str, counts: Counter[str]) -> list[LeftOut]:
    return [LeftOut(item, reason, counts[reason]) for reason in REASONS if counts[reason] > 0]


def clip_stem(item: str) -> str:
    """Prefix of the names of a video's clips: one path component, valid UTF-8, at most MAX_STEM bytes."""
    name = strip_suffix(item.replace("/", "_").encode("utf-8", "replace").decode())
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
