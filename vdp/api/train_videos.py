"""The videos of a training: files and folders, or arrays, split by video into training and validation."""

import glob
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TypeAlias

from pydantic import JsonValue
from tqdm import tqdm

from vdp.config.messages import validate
from vdp.config.recipes import merged
from vdp.config.schema import ClipParams
from vdp.core.errors import UserError, one_line, printable
from vdp.data.extract.plan import UNUSABLE, ExtractJob, estimate_clips, files_hash
from vdp.data.params import ExtractParams
from vdp.data.sources.arrays import Video
from vdp.data.sources.detect import open_source
from vdp.data.sources.joined import JoinedSource, SpanSource
from vdp.data.sources.left_out import describe_left_out, unused_files
from vdp.data.sources.protocols import ClipRule, LeftOut, Pace, Source
from vdp.data.sources.select import NO_SPLIT
from vdp.data.sources.split import train_and_val, videos_of
from vdp.data.sources.walk import in_order
from vdp.data.video.decode import quiet_decoder

Videos: TypeAlias = str | Path | Sequence[str | Path] | Iterable[Video]

END_SHARE = 0.2  # of a single video: its end, to validate on
VAL_SHARE = 0.1  # where params name none
MANY_CLIPS = 200  # training clips below which those of the same videos start closer together
SAMPLED_SIZES = 64  # videos of which a frame is decoded to choose the frame size


@dataclass(frozen=True)
class Split:
    """The source and the names of the videos of a split."""

    source: Source
    videos: list[str]


@dataclass(frozen=True)
class Splits:
    """Training and validation videos, and in words how they were chosen."""

    train: Split
    val: Split
    rule: str


def paths_of(videos: Videos) -> list[Path] | None:
    """Return the paths that videos name; None for arrays."""
    if isinstance(videos, str | Path):
        return [Path(videos).expanduser()]
    if isinstance(videos, list | tuple) and videos and all(isinstance(video, str | Path) for video in videos):
        return [Path(str(video)).expanduser() for video in videos]
    return None


def open_videos(paths: Sequence[Path], name: str) -> Source:
    """Open video files, folders of videos and globs as one source; `name` names them in messages.

    Raises:
        FileNotFoundError: if a path does not exist or holds no videos.
        UserError: if they cannot be joined.
    """
    quiet_decoder()
    found = dict.fromkeys(match for path in paths for match in _matches(path))
    sources = {path: open_source(path, "auto", name) for path in found}
    if len(sources) == 1:
        return next(iter(sources.values()))
    try:
        return JoinedSource([(_prefix(path, list(sources)), source) for path, source in sources.items()])
    except ValueError as error:
        raise UserError(f"{name}: {one_line(error)}") from None


def list_left_out(paths: Sequence[Path], splits: Splits) -> list[str]:
    """Describe the files of folders of videos that are in no split, one line per folder."""
    used = {
        os.path.realpath(part.source.label(item))
        for part in (splits.train, splits.val)
        for item in part.videos
    }
    lines = []
    for folder in dict.fromkeys(match for path in paths for match in _matches(path) if match.is_dir()):
        source = open_source(folder, "auto", str(folder))
        unnamed = [item for item in source.items() if os.path.realpath(source.label(item)) not in used]
        left_out = [*(LeftOut(item, NO_SPLIT) for item in unnamed), *unused_files([source], folder)]
        if left_out:
            lines.append(f"{printable(str(folder))}: left out: {describe_left_out(left_out)}")
    return lines


def split_videos(
    train: Source, val: Source | None, share: float, pace: Pace, frames: int, group: str | None = None
) -> Splits:
    """Hold out videos to validate on; of a single video its end.

    Args:
        val: source of the validation videos; None takes a share of `train`, or its folders val*.
        share: of the videos, by a hash of their names.
        pace: which frames of a video are selected.
        frames: of a clip.
        group: regular expression of takes whose videos stay on one side, as `train_and_val`.

    Raises:
        UserError: if there are too few videos, or a single one is too short to be split.
    """
    items = train.items()
    try:
        if val is not None:
            parts = Split(train, videos_of(items, "train")), Split(val, val.items())
            _check_disjoint(*parts)
            return Splits(*parts, "the videos of val")
        if len(items) == 1 and not train.precut:
            return _split_span(train, pace, frames)
        chosen = train_and_val(
            items, share or VAL_SHARE, lambda item: os.path.realpath(train.label(item)), group
        )
    except ValueError as error:
        raise UserError(f"videos: {one_line(error)}") from None
    return Splits(Split(train, chosen[0]), Split(train, chosen[1]), "a share of the videos")


def _check_disjoint(train: Split, val: Split) -> None:
    trained = {
        os.path.realpath(train.source.label(item)) for item in train.videos if train.source.files(item)
    }
    both = [label for label in map(val.source.label, val.videos) if os.path.realpath(label) in trained]
    if both:
        raise UserError(
            f"val: {len(both)} of its videos are also trained on, such as {printable(both[0])}; name another "
            "folder, or leave val out"
        )


def _split_span(source: Source, pace: Pace, frames: int) -> Splits:
    """Hold out the end of a single video, which is decoded to count its frames."""
    (item,) = source.items()
    label = source.label(item)
    try:
        bar = tqdm(source.frames(item, pace), "counting", unit="frame", file=sys.stderr, delay=2, leave=False)
        count = sum(1 for _ in bar)
    except UNUSABLE as error:
        raise UserError(_unusable(label, error)) from None
    held = max(frames, round(END_SHARE * count))
    if count - held < frames:
        raise UserError(
            f"{label}: a single video of {count} frames at this interval or fps: expected at least "
            f"{2 * frames}, to train on its start and validate on its end; add videos, raise fps, or lower "
            "interval or clip.frames"
        )
    spans = SpanSource(source, 0, count - held), SpanSource(source, count - held, None)
    train, val = (Split(span, [item]) for span in spans)
    return Splits(train, val, f"the last {held} of {count} frames")


def aspect_ratio(split: Split) -> float:
    """Return the median of width / height of the videos, of at most `SAMPLED_SIZES` of them.

    Raises:
        UserError: if no frame decodes in any of these.
    """
    step = -(-len(split.videos) // SAMPLED_SIZES)
    ratios, reason = [], ""
    for item in split.videos[::step]:
        try:
            height, width, _ = next(iter(split.source.frames(item, Pace()))).pixels.shape
        except (*UNUSABLE, StopIteration) as error:
            reason = reason or _unusable(split.source.label(item), error)
            continue
        ratios.append(width / height)
    if not ratios:
        raise UserError(f"videos: none of {len(split.videos[::step])} can be used: {reason}")
    return median(ratios)


def clip_jobs(splits: Splits, params: Mapping[str, JsonValue]) -> dict[str, ExtractJob]:
    """Build the extraction jobs from sections `clip` and `extract_frames`."""
    clip, cut = clip_params(params), extract_params(params)
    rule = ClipRule(
        clip.frames, clip.frames, clip.height, clip.width, cut.fit, pace_of(cut), cut.stride, cut.scene_cut,
        cut.on_bad_masks == "repair",
    )  # fmt: skip
    # the end of a single video is short
    val_rule = (
        replace(rule, stride=-(-rule.stride // 2)) if isinstance(splits.val.source, SpanSource) else rule
    )
    return {
        "train": ExtractJob(splits.train.source, splits.train.videos, rule, "train"),
        "val": ExtractJob(splits.val.source, splits.val.videos, val_rule, "val"),
    }


def with_closer_clips(params: Mapping[str, JsonValue], splits: Splits) -> dict[str, JsonValue]:
    """Lower the stride where the videos would give fewer than `MANY_CLIPS` training clips.

    Clips that overlap teach less than others, but more than none: every frame is then a last context frame.
    The stride stays where the lengths of the videos are unknown. A change is printed as a line.
    """
    job = clip_jobs(splits, params)["train"]
    clips = None if job.source.precut else estimate_clips(job)
    if not clips:
        return dict(params)
    before = job.rule.stride
    stride = max(1, int(before * min(1.0, clips / MANY_CLIPS)))
    if stride < before:
        count = estimate_clips(replace(job, rule=replace(job.rule, stride=stride))) or 0.0
        print(
            f"extract_frames.stride: {before} -> {stride}, as few videos give few clips: about {count:.0f} "
            f"to train on, {clips:.0f} without; --set extract_frames.stride=N sets it",
            file=sys.stderr,
        )
    return merged(params, {"extract_frames": {"stride": stride}})


def sources_hash(splits: Splits) -> str:
    """Hash the names and sizes of the files of both splits."""
    return "-".join(files_hash(part.source, part.videos)[:16] for part in (splits.train, splits.val))


def clip_params(params: Mapping[str, JsonValue]) -> ClipParams:
    return validate(ClipParams, params["clip"], "clip")


def extract_params(params: Mapping[str, JsonValue]) -> ExtractParams:
    return validate(ExtractParams, params["extract_frames"], "extract_frames")


def pace_of(cut: ExtractParams) -> Pace:
    """Return which frames of a video are selected."""
    return Pace(cut.interval if cut.fps is None else 1, cut.fps, cut.offset)


def first_of(videos: Iterable[Video], name: str) -> tuple[Video, Iterator[Video]]:
    """Return the first video, and all of them; a UserError if there is none."""
    try:
        iterator = iter(videos)
        first = next(iterator)
    except TypeError:
        raise UserError(f"{name}: expected videos, such as a list of arrays or of paths") from None
    except StopIteration:
        raise UserError(f"{name}: expected at least one video, got none") from None
    return first, itertools.chain([first], iterator)


def _matches(path: Path) -> list[Path]:
    """Expand a glob that the shell has not expanded."""
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    return [Path(name) for name in in_order(glob.glob(str(path), recursive=True))] or [path]


def _prefix(path: Path, paths: Sequence[Path]) -> str:
    """Prefix of the names of a path's videos: the folder's name; of a file none where its name is unique."""
    if path.is_dir():
        return path.name
    if sum(other.name == path.name for other in paths) == 1:
        return ""
    top = os.path.commonpath([other.absolute().parent for other in paths])
    return os.path.relpath(path.absolute().parent, top)


def _unusable(label: str, error: BaseException) -> str:
    text = one_line(error) if isinstance(error, ValueError | OSError) else "no frame can be decoded"
    return text if label in text else f"{label}: {text}"
