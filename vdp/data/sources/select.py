"""From the params' sources to the videos of each split."""

from dataclasses import dataclass

from vdp.data.params import ExtractParams, SourceParams, key_of
from vdp.data.sources.contract import Source
from vdp.data.sources.detect import open_source
from vdp.data.sources.huggingface import HuggingFaceSource
from vdp.data.sources.split import train_and_val, videos_of
from vdp.params import UserError, one_line


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
        try:
            if split == "train" and params.val is None and params.val_share > 0:
                train, val = train_and_val(source.items(), params.val_share)
                found["train"] = Selection(source, train, named, key, "train")
                found["val"] = Selection(source, val, named, key, "val")
            else:
                found[split] = Selection(source, videos_of(source.items(), role), named, key, role)
        except ValueError as error:
            raise UserError(f"{key}: {named.place} {error}") from None
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
    return HuggingFaceSource.from_hub(named.hub)


def _no_leak(found: dict[str, Selection]) -> None:
    """A video that is learnt from must not validate."""
    if "train" not in found or "val" not in found:
        return
    train, val = found["train"], found["val"]
    if train.params.place == val.params.place and set(train.videos) & set(val.videos):
        raise UserError(
            f"{val.key}: {val.params.place} is also what is trained on; set it to null, so that "
            "extract_frames.val_share of its videos validate"
        )
