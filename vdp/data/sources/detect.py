"""Detect the kind of a user's folder, file or list."""

from pathlib import Path
from typing import Protocol

from vdp.data.sources.clevrer import ClevrerSource
from vdp.data.sources.competition import CompetitionSource
from vdp.data.sources.huggingface import HuggingFaceSource
from vdp.data.sources.images import ImageFolderSource
from vdp.data.sources.pairs import LISTS, PairSource
from vdp.data.sources.protocols import Source
from vdp.data.sources.videos import VideoSource
from vdp.data.video.discover import SHOWN, is_clip_file
from vdp.data.video.picture import holds_clip


class Kind(Protocol):
    """A class of sources."""

    layout: str  # what a folder of this kind holds, for messages

    def __call__(self, path: Path, /) -> Source: ...


# in the order of detection: layouts before suffixes of files
KINDS: dict[str, Kind] = {
    "pairs": PairSource,  # the two sides may have any layout
    "competition": CompetitionSource,
    "huggingface": HuggingFaceSource,
    "clevrer": ClevrerSource,
    "videos": VideoSource,
    "images": ImageFolderSource,
}
FILES = {"pairs": LISTS, "huggingface": (".parquet",)}  # suffixes of a source of one file other than a video


def open_source(path: Path, kind: str, key: str) -> Source:
    """Open a user's folder, video file or list of pairs; `key` of params.yaml names it in messages.

    Raises:
        FileNotFoundError: if the path does not exist or holds no usable videos of `kind` ('auto': of any).
        ValueError: if several kinds are possible, or the source is broken as a whole.
    """
    path = path.expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{key}: {path} not found{_hint(path.parent)}")
    if path.is_file():
        kind = _kind_of_file(path, kind, key)
    if kind != "auto":
        source = _build(kind, path)
        if source.items():
            return source
        expected = f"{source.layout} (kind={kind})"
    else:
        for name in ("pairs", "competition", "huggingface", "clevrer"):
            source = _build(name, path)
            # video_<digits> folders without image_<k>.png are folders of pictures
            if source.items() and (name != "competition" or any(map(source.count, source.items()[:8]))):
                return source
        found = [source for source in (_build("videos", path), _build("images", path)) if source.items()]
        if len(found) == 2:
            raise ValueError(
                f"{key}: {path} holds both video files ({len(found[0].items())}) and folders of pictures "
                f"({len(found[1].items())}); set {{folder: {path}, kind: videos}}, or kind: images"
            )
        if found:
            return found[0]
        expected = "; or ".join(source.layout for source in KINDS.values())
    raise FileNotFoundError(f"{key}: no usable videos in {path}: expected {expected}{_hint(path)}")


def _kind_of_file(path: Path, kind: str, key: str) -> str:
    for name, suffixes in FILES.items():
        if path.suffix.lower() in suffixes and kind in ("auto", name):
            return name
    if kind in ("auto", "videos") and (is_clip_file(path) or holds_clip(path)):
        return "videos"
    raise ValueError(
        f"{key}: {path}: expected a folder, a video file ({SHOWN}), a list of pairs "
        f"({', '.join(LISTS)}) or a .parquet file"
    )


def _build(kind: str, path: Path) -> Source:
    return KINDS[kind](path)


def _hint(folder: Path) -> str:
    folders = sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    if not folders:
        return ""
    shown = ", ".join(map(str, folders[:6])) + (", ..." if len(folders) > 6 else "")
    return f"; did you mean one of {shown}?"
