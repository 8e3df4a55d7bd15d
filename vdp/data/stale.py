"""Tell whether a user's own files have changed since clips were cut from them: DVC does not watch them."""

from pathlib import Path

from vdp.data.clips import ClipStore
from vdp.data.extract import files_hash
from vdp.data.params import ExtractParams
from vdp.data.sources.select import select_videos


def changed_sources(params: ExtractParams, clips: Path) -> list[str]:
    """Keys of params.yaml that name a source whose files are not those that its clips were cut from.

    Names and sizes of files are compared, not their content. Empty where there are no clips yet, or where a
    source is not there or cannot be used: the stage tells that.
    """
    try:
        chosen = select_videos(params)
        stores = {split: ClipStore(clips / split) for split in chosen}
    except (ValueError, OSError):
        return []
    keys = [
        chosen[split].key
        for split, store in stores.items()
        if store.source != files_hash(chosen[split].source, chosen[split].videos)
    ]
    return list(dict.fromkeys(keys))
