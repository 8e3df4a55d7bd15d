"""Detect changes of the user's source files since clips were cut from them, which DVC does not track."""

from pathlib import Path

from vdp.data.extract.plan import files_hash
from vdp.data.params import ExtractParams
from vdp.data.sources.select import select_videos
from vdp.data.stores.clips import MANIFEST, ClipStore


def changed_sources(params: ExtractParams, clips: Path) -> list[str]:
    """Return the keys of params.yaml whose source files differ from those that the clips were cut from.

    Compares names and sizes of files, not content. Empty where clips are missing, and where a source is a
    data set of the Hugging Face hub, which would need a request.
    """
    splits = params.splits()
    if any(source.hub for source in splits.values()) or not all((clips / name).is_dir() for name in splits):
        return []
    selected = select_videos(params)
    if not all((clips / split / MANIFEST).is_file() for split in selected):
        return []
    keys = [
        chosen.key
        for split, chosen in selected.items()
        if ClipStore(clips / split).source != files_hash(chosen.source, chosen.videos)
    ]
    return list(dict.fromkeys(keys))
