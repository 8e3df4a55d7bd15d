"""Tell whether a user's own files have changed since clips were cut from them: DVC does not watch them."""

from pathlib import Path

from vdp.data.extract.extract import files_hash
from vdp.data.params import ExtractParams
from vdp.data.sources.select import select_videos
from vdp.data.stores.clips import MANIFEST, ClipStore


def changed_sources(params: ExtractParams, clips: Path) -> list[str]:
    """Keys of params.yaml that name a source whose files are not those that its clips were cut from.

    Names and sizes of files are compared, not their content. Empty where clips are missing, as before the
    first run, and where a source is a data set of the hub, which would have to be asked.

    Raises:
        ValueError, OSError: if a source is not there or cannot be used: nothing can be compared.
    """
    splits = params.splits()
    if any(source.hub for source in splits.values()) or not all((clips / name).is_dir() for name in splits):
        return []
    chosen = select_videos(params)
    if not all((clips / split / MANIFEST).is_file() for split in chosen):
        return []
    stores = {split: ClipStore(clips / split) for split in chosen}
    keys = [
        chosen[split].key
        for split, store in stores.items()
        if store.source != files_hash(chosen[split].source, chosen[split].videos)
    ]
    return list(dict.fromkeys(keys))
