"""Select the videos of each split from the sources in params.yaml."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from vdp.core.checkout import from_checkout
from vdp.core.errors import UserError, one_line, printable
from vdp.data.params import ExtractParams, SourceParams, key_of
from vdp.data.sources.detect import open_source
from vdp.data.sources.huggingface import HuggingFaceSource
from vdp.data.sources.left_out import unused_files
from vdp.data.sources.protocols import LeftOut, Source
from vdp.data.sources.split import train_and_val, videos_of

NO_SPLIT = "videos in folders that no split names"


@dataclass(frozen=True)
class Selection:
    """The videos of one split."""

    source: Source
    videos: list[str]  # items of the source that belong to the split
    params: SourceParams  # settings of the source, complete
    key: str  # key of params.yaml that names the source, for messages
    role: str  # train, val, unlabeled or test
    left_out: list[LeftOut]  # of the source's folder, with the first split that names it


def select_videos(params: ExtractParams, without: Sequence[str] = ()) -> dict[str, Selection]:
    """Select the videos of every split that has a source, and is not in `without`; errors name the key.

    Of files with the suffix of a video or picture only the names are read.
    """
    found: dict[str, Selection] = {}
    for split, settings in params.splits().items():
        if split in without:
            continue
        key, role = key_of(split), split.partition("/")[0]
        source = _open(settings, key)
        _check_pace(settings, params, source, key)
        try:
            items = source.items()
        except ValueError as error:
            raise UserError(f"{key}: {one_line(error)}") from None
        try:
            if split == "train" and params.val is None and params.val_share > 0:
                _check_group(params.group, items)
                same = partial(_identity, source)
                train, val = train_and_val(items, params.val_share, same, params.group)
                found["train"] = Selection(source, train, settings, key, "train", [])
                found["val"] = Selection(source, val, settings, key, "val", [])
            else:
                found[split] = Selection(source, videos_of(items, role), settings, key, role, [])
        except ValueError as error:
            raise UserError(f"{key}: {settings.place} {error}") from None
    _check_overlap(found)
    _list_left_out(found)
    return found


def _check_group(group: str | None, names: list[str]) -> None:
    """Raise if the expression matches no name; print how many it does not match."""
    if group is None:
        return
    others = [name for name in names if not re.search(group, name)]
    if len(others) == len(names):
        raise ValueError(
            f"has no video whose name matches extract_frames.group={group!r}: expected names such as "
            f"{printable(names[0])} to match; correct it, or set it to null"
        )
    if others:
        print(
            f"extract_frames.group: {len(others)} of {len(names)} names do not match and are takes of their "
            f"own, such as {printable(others[0])}",
            file=sys.stderr,
        )


def _list_left_out(found: Mapping[str, Selection]) -> None:
    """List the files and videos of each source that are in no split, with the first split that names it."""
    by_folder: dict[str, list[Selection]] = {}
    for chosen in found.values():
        if chosen.params.folder is not None:
            place = os.path.realpath(from_checkout(chosen.params.folder))
            by_folder.setdefault(place, []).append(chosen)
    for group in by_folder.values():
        first, used = group[0], {item for chosen in group for item in chosen.videos}
        rest = [LeftOut(item, NO_SPLIT) for item in first.source.items() if item not in used]
        assert first.params.folder is not None
        sources = [chosen.source for chosen in group]
        first.left_out.extend([*rest, *unused_files(sources, from_checkout(first.params.folder))])


def _open(settings: SourceParams, key: str) -> Source:
    if settings.folder is None:
        assert settings.hub is not None
        return HuggingFaceSource.from_hub(settings.hub, settings.config, settings.revision)
    try:
        return open_source(from_checkout(settings.folder), settings.kind, key)
    except OSError as error:
        if not error.strerror:  # raised by open_source, which names the key
            raise
        # a read error of a disk has no file name
        where = f"{key}: " if error.filename else f"{key}: {settings.place}: "
        raise UserError(where + one_line(error)) from error


def _check_pace(settings: SourceParams, params: ExtractParams, source: Source, key: str) -> None:
    """Raise if a precut source has its own pace or stride, which would be ignored."""
    own = (settings.interval, settings.fps, settings.offset, settings.stride)
    if source.precut and own != (params.interval, params.fps, params.offset, params.stride):
        raise UserError(
            f"{key}: interval, fps, offset and stride do not apply to {settings.place}, clips that are cut "
            "already (folders video_<digits>); remove these keys, or set kind: images to cut the pictures"
        )


def _check_overlap(found: dict[str, Selection]) -> None:
    """Raise if a video is in both a training split and val; print a warning for a test set."""
    trained = {
        _identity(found[split].source, item): split
        for split in ("train", "unlabeled")
        if split in found
        for item in found[split].videos
    }
    for split, chosen in found.items():
        if chosen.role not in ("val", "test"):
            continue
        both = [item for item in chosen.videos if _identity(chosen.source, item) in trained]
        if not both:
            continue
        name, other = chosen.source.label(both[0]), trained[_identity(chosen.source, both[0])]
        message = f"{key_of(split)}: {len(both)} of its videos are also in {other}, such as {printable(name)}"
        if chosen.role == "val":
            raise UserError(f"{message}; name another folder, or set val to null and use val_share")
        print(f"warning: {message}: its score is not of unseen videos", file=sys.stderr)


def _identity(source: Source, item: str) -> str:
    """Name of a video that is independent of links."""
    return os.path.realpath(source.label(item))
