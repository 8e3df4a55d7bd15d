"""Find the files of a source that are in none of its videos, and describe what is left out in one line."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from vdp.core.errors import printable
from vdp.data.sources.clevrer import PROPOSALS, ClevrerSource
from vdp.data.sources.huggingface import HuggingFaceSource
from vdp.data.sources.images import is_picture
from vdp.data.sources.protocols import LeftOut, Source
from vdp.data.sources.walk import join, read_listing, walk
from vdp.data.video.discover import is_clip_file

HIDDEN = "hidden"
SPECIAL = "pipes or devices"
BROKEN_LINK = "broken links"
PICTURE = "pictures that are no frame of a video here"
VIDEO = "videos that do not belong to this layout"
OTHER = "neither videos nor pictures"
# files that `datasets` writes beside its tables, and what the other layouts keep beside the frames
DESCRIPTIONS = ("state.json", "dataset_info.json", "dataset_dict.json", "README.md")
EXAMPLES = 2  # names shown for each reason


def unused_files(sources: Sequence[Source], folder: Path) -> list[LeftOut]:
    """List what is in a folder and in no video of the sources over it: names relative to the folder, reasons.

    Hidden folders are one entry. Nothing is listed for a source of one file, whose list of pairs is complete.
    """
    if not folder.is_dir():
        return []
    used: set[str] = set()
    for source in sources:
        for item in source.items():
            with suppress(ValueError, OSError):  # reported when the video is read
                used.update(map(os.fspath, source.files(item)))
    kinds = {type(source) for source in sources}
    found = []
    for path, folders, files in walk(folder):
        if ClevrerSource in kinds:
            folders[:] = [name for name in folders if name not in PROPOSALS]
        listing = read_listing(folder / path)
        found += [LeftOut(join(path, name), HIDDEN) for name in listing.hidden]
        found += [LeftOut(join(path, name), SPECIAL) for name in listing.special]
        for name in files:
            if HuggingFaceSource in kinds and name in DESCRIPTIONS:
                continue
            file = folder / path / name
            if os.fspath(file) not in used:
                found.append(LeftOut(join(path, name), _reason(file)))
    return found


def _reason(file: Path) -> str:
    if not file.exists():
        return BROKEN_LINK
    if is_picture(file.name):
        return PICTURE
    return VIDEO if is_clip_file(file) else OTHER


def describe_left_out(left_out: Sequence[LeftOut]) -> str:
    """Describe files and frames that are left out, by reason, on one line; '' if there are none."""
    parts = []
    for reason in dict.fromkeys(entry.reason for entry in left_out):
        entries = [entry for entry in left_out if entry.reason == reason]
        frames = sum(entry.frames for entry in entries)
        if frames:
            videos = f" of {len(entries)} videos" if len(entries) > 1 else f" of {printable(entries[0].name)}"
            parts.append(f"{frames} frame{'s' * (frames > 1)}{videos} {reason}")
        else:
            more = ", ..." if len(entries) > EXAMPLES else ""
            names = ", ".join(printable(entry.name) for entry in entries[:EXAMPLES])
            parts.append(f"{len(entries)} {reason} ({names}{more})")
    return "; ".join(parts)
