"""From the params' sources to the videos of each split."""

import os
import sys
from dataclasses import dataclass
from functools import partial

from vdp.core.errors import UserError, one_line, printable
from vdp.data.params import ExtractParams, SourceParams, key_of
from vdp.data.sources.detect import open_source
from vdp.data.sources.huggingface import HuggingFaceSource
from vdp.data.sources.protocols import Source
from vdp.data.sources.split import in_no_role, train_and_val, videos_of


@dataclass(frozen=True)
class Selection:
    """The videos of one split.

    Attributes:
        source: what they are read from.
        videos: those of its items that belong to the split.
        params: the source's own settings, complete.
        key: the key of params.yaml that names it, for messages.
        role: train, val, unlabeled or test.
    """

    source: Source
    videos: list[str]
    params: SourceParams
    key: str
    role: str


def select_videos(params: ExtractParams) -> dict[str, Selection]:
    """The videos of every split that the params give a source, by split; of all sources, only names are read.

    Raises:
        FileNotFoundError: if a source is not there or holds no usable videos.
        ValueError: if its videos cannot be told apart or parted; one line that names the key.
    """
    found: dict[str, Selection] = {}
    for split, named in params.splits().items():
        key, role = key_of(split), split.partition("/")[0]
        source = _open(named, key)
        _pace_applies(named, params, source, key)
        try:
            items = source.items()
        except ValueError as error:
            raise UserError(f"{key}: {one_line(error)}") from None
        try:
            if split == "train" and params.val is None and params.val_share > 0:
                train, val = train_and_val(items, params.val_share, partial(_identity, source))
                found["train"] = Selection(source, train, named, key, "train")
                found["val"] = Selection(source, val, named, key, "val")
            else:
                found[split] = Selection(source, videos_of(items, role), named, key, role)
        except ValueError as error:
            raise UserError(f"{key}: {named.place} {error}") from None
        left_out = in_no_role(items)
        if left_out:
            print(
                f"{key}: {len(left_out)} videos lie in folders that are named after no split and are left "
                f"out, such as {printable(source.label(left_out[0]))}",
                file=sys.stderr,
            )
    _no_leak(found)
    return found


def _open(named: SourceParams, key: str) -> Source:
    try:
        if named.folder is not None:
            return open_source(named.folder, named.kind, key)
    except OSError as error:
        if not error.strerror:  # one of ours, which names the key
            raise
        # reading from a bad disk gives no file name
        where = f"{key}: " if error.filename else f"{key}: {named.place}: "
        raise UserError(where + one_line(error)) from error
    assert named.hub is not None
    return HuggingFaceSource.from_hub(named.hub, named.config, named.revision)


def _pace_applies(named: SourceParams, params: ExtractParams, source: Source, key: str) -> None:
    """Settings of a source's own must not be passed over."""
    own = (named.interval, named.fps, named.offset, named.stride)
    if source.precut and own != (params.interval, params.fps, params.offset, params.stride):
        raise UserError(
            f"{key}: {named.place} has clips that are cut already (folders video_<digits>), to which "
            "interval, fps, offset and stride do not apply; leave them out, or add kind: images to cut its "
            "pictures anew"
        )


def _no_leak(found: dict[str, Selection]) -> None:
    """A video that is learnt from must not validate; one that is tested is told.

    Raises:
        UserError: naming a video that is in both.
    """
    learnt: dict[str, str] = {}
    for split in ("train", "unlabeled"):
        if split in found:
            learnt |= {_identity(found[split].source, item): split for item in found[split].videos}
    for split, chosen in found.items():
        if chosen.role not in ("val", "test"):
            continue
        both = [item for item in chosen.videos if _identity(chosen.source, item) in learnt]
        if not both:
            continue
        name, other = chosen.source.label(both[0]), learnt[_identity(chosen.source, both[0])]
        message = f"{key_of(split)}: {len(both)} of its videos are also in {other}, such as {printable(name)}"
        if chosen.role == "val":
            raise UserError(
                f"{message}; a video that is learnt from must not validate: name other folders, or set val "
                "to null, so that val_share of train's videos validate"
            )
        print(f"warning: {message}: its score says nothing of new videos", file=sys.stderr)


def _identity(source: Source, item: str) -> str:
    """One name for a video by whatever path it is reached."""
    return os.path.realpath(source.label(item))
