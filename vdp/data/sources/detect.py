"""Find out what a user's folder, file or list holds."""

from pathlib import Path

from vdp.data.sources.clevrer import ClevrerSource
from vdp.data.sources.competition import CompetitionSource
from vdp.data.sources.huggingface import HuggingFaceSource
from vdp.data.sources.images import ImageFolderSource
from vdp.data.sources.pairs import LISTS, PairSource
from vdp.data.sources.protocols import Source
from vdp.data.sources.videos import VideoSource
from vdp.data.video.decode import SUFFIXES

# in the order in which they are looked for: what is told by its layout before what is told by file names
KINDS: dict[str, type[Source]] = {
    "competition": CompetitionSource,
    "huggingface": HuggingFaceSource,
    "pairs": PairSource,
    "clevrer": ClevrerSource,
    "videos": VideoSource,
    "images": ImageFolderSource,
}


def open_source(path: Path, kind: str, key: str) -> Source:
    """The source that a path is.

    Args:
        path: the user's folder, video file, or list of pairs.
        kind: a key of `KINDS`, or 'auto' to look.
        key: the key of params.yaml that names it, for messages.

    Raises:
        FileNotFoundError: if the path is not there, or holds no usable videos.
        ValueError: if it could be of several kinds, or is broken as a whole.
    """
    path = path.expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{key}: {path} is not there{_hint(_folders(path.parent))}")
    if path.is_file():
        kind = _kind_of_file(path, kind, key)
    if kind != "auto":
        source = _build(kind, path)
        if not source.items():
            raise FileNotFoundError(
                f"{key}: no usable videos in {path}: expected {source.expects}, as kind={kind} says"
                f"{_hint(_folders(path))}"
            )
        return source
    for name in ("competition", "huggingface", "pairs", "clevrer"):
        source = _build(name, path)
        # folders of the competition's names may hold pictures of other names: those are folders of pictures
        if source.items() and (name != "competition" or any(map(source.count, source.items()[:8]))):
            return source
    videos, images = _build("videos", path), _build("images", path)
    found = [source for source in (videos, images) if source.items()]
    if len(found) == 2:
        raise ValueError(
            f"{key}: {path} holds both video files ({len(videos.items())}) and folders of pictures "
            f"({len(images.items())}); say which are meant: {{folder: {path}, kind: videos}}, or kind: images"
        )
    if not found:
        expected = "; or ".join(source.expects for source in KINDS.values())
        raise FileNotFoundError(
            f"{key}: no usable videos in {path}: expected {expected}{_hint(_folders(path))}"
        )
    return found[0]


def _kind_of_file(path: Path, kind: str, key: str) -> str:
    """A file is a video, a list of pairs, or rows of videos."""
    suffixes = {"videos": SUFFIXES, "pairs": LISTS, "huggingface": (".parquet",)}
    for name, known in suffixes.items():
        if path.suffix.lower() in known and kind in ("auto", name):
            return name
    raise ValueError(
        f"{key}: {path}: expected a folder, a video file ({', '.join(SUFFIXES)}), a list of pairs "
        f"({', '.join(LISTS)}) or a .parquet file"
    )


def _build(kind: str, path: Path) -> Source:
    return KINDS[kind](path)  # type: ignore[call-arg]  # each is built from a path; arrays are not


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def _hint(folders: list[Path]) -> str:
    if not folders:
        return ""
    shown = ", ".join(map(str, folders[:6])) + (", ..." if len(folders) > 6 else "")
    return f"; did you mean one of {shown}?"
