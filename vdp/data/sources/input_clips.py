"""What a user names on the command line, found and read: video files, folders of pictures, globs."""

import difflib
import glob
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vdp.data.sources.images import ImageFolderSource, list_pictures
from vdp.data.sources.protocols import Pace
from vdp.data.sources.videos import VideoSource
from vdp.data.sources.walk import in_order, list_folder, natural
from vdp.data.stores.clips import Pixels
from vdp.data.video import decode as video_file
from vdp.data.video.picture import SUFFIXES as PICTURES
from vdp.data.video.picture import read_picture

PICTURES_RATE = 10.0  # frames per second of pictures, which state none
EXPECTED = "a video file, a folder of pictures, or a glob in quotes"


@dataclass(frozen=True)
class InputClip:
    """One video of a user's: a video file, or pictures in their order.

    Attributes:
        name: how messages name it.
        files: the video file, or the pictures.
        is_video: whether it is a video file.
    """

    name: str
    files: tuple[Path, ...]
    is_video: bool

    def frames(self, interval: int = 1, offset: int = 0) -> Iterator[Pixels]:
        """Every `interval`-th frame, `offset` left out before, (H, W, 3) uint8 RGB, decoded one at a time.

        Raises:
            ValueError: if nothing decodes, or a frame has not the size of the first; names the file.
            OSError: if a file cannot be opened.
        """
        first: tuple[int, ...] = ()
        for name, frame in self._decoded(Pace(interval, offset=offset)):
            first = first or frame.shape
            if frame.shape != first:
                raise ValueError(
                    f"{name}: expected the size of the frames before it, {first[1]}x{first[0]}, "
                    f"got {frame.shape[1]}x{frame.shape[0]}; make them one size or leave it out"
                )
            yield frame

    def size(self) -> tuple[int, int]:
        """Rows and columns, by decoding the first frame.

        Raises:
            ValueError: if it does not decode; names the file.
            OSError: if it cannot be opened.
        """
        frames = self.frames()
        rows, columns, _ = next(frames).shape
        return rows, columns

    def count(self, interval: int = 1) -> int:
        """Frames that `frames` will give, as far as a header tells: 0 where it does not."""
        told = video_file.count_frames(self.files[0]) if self.is_video else len(self.files)
        return -(-told // interval)

    def rate(self, interval: int = 1) -> float:
        """Frames per second of what `frames` gives."""
        stated = video_file.frame_rate(self.files[0]) if self.is_video else 0.0
        return (stated or PICTURES_RATE) / interval

    def _decoded(self, pace: Pace) -> Iterator[tuple[str, Pixels]]:
        if self.is_video:
            for number, frame in video_file.decode_frames(self.files[0], pace):
                yield f"{self.files[0]}: frame {number + 1}", frame
        else:
            for path in self.files[pace.offset :: pace.interval]:
                yield str(path), read_picture(path)


def find_clips(words: Sequence[str]) -> list[InputClip]:
    """The clips that words of a command line name, in their order, each once.

    A video file is a clip and so is a folder of pictures, also one with all its pictures or one video in a
    folder below. Pictures that are named one by one, as by a glob, are one clip for each folder they lie in,
    in the natural order of their names. Only names are looked at; `InputClip.size` tells whether it decodes.

    Args:
        words: paths, or globs that a shell has not expanded (`**` enters folders).

    Raises:
        FileNotFoundError: if a word is not there, or matches nothing, or is a folder without a clip.
        ValueError: if a folder holds several clips, or two pictures have one place in the order.
    """
    paths = dict.fromkeys(path for word in words for path in _expand(word))
    clips: dict[Path, InputClip] = {}
    for path in paths:
        if path.is_dir():
            clips[path] = _of_folder(path)
        elif not _is_picture(path):
            clips[path] = InputClip(str(path), (path,), True)
        elif path.parent / "*" not in clips:  # a path of its own: the folder itself may be named as well
            beside = [other for other in paths if other.parent == path.parent and _is_picture(other)]
            name = str(path if len(beside) == 1 else path.parent)
            clips[path.parent / "*"] = _of_pictures(name, beside)
    return list(clips.values())


def find_clip(word: str) -> InputClip:
    """The one clip that a word names; as `find_clips`.

    Raises:
        FileNotFoundError: as `find_clips`.
        ValueError: also if it names several.
    """
    clips = find_clips([word])
    if len(clips) > 1:
        raise ValueError(f"{word}: names {len(clips)} clips, expected one: {_some(c.name for c in clips)}")
    return clips[0]


def _expand(word: str) -> list[Path]:
    path = Path(word).expanduser()
    if not word:
        raise FileNotFoundError(f"'': an empty name; expected {EXPECTED}")
    if path.exists():  # before it is taken for a glob: a name may have brackets
        return [path]
    if glob.has_magic(word):
        found = in_order(glob.glob(str(path), recursive=True))
        if not found:
            raise FileNotFoundError(f"{word}: matches nothing; expected {EXPECTED}")
        return [Path(name) for name in found]
    raise FileNotFoundError(f"{word}: no such file or folder{_near(path)}; expected {EXPECTED}")


def _near(path: Path) -> str:
    names = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1)
    return f" (did you mean {path.with_name(near[0])}?)" if near else ""


def _of_folder(folder: Path) -> InputClip:
    pictures = list_pictures(folder)
    videos = VideoSource(folder).items()
    if pictures and any("/" not in name for name in videos):
        raise ValueError(
            f"{folder}: holds both pictures and video files; name one of them: {folder / videos[0]}, "
            f"or the pictures as '{folder}/*{pictures[0].suffix}'"
        )
    if pictures:
        return _of_pictures(str(folder), pictures)
    below = [] if not list_folder(folder)[0] else ImageFolderSource(folder).items()
    found = [folder / name for name in [*below, *videos]]
    if not found:
        raise FileNotFoundError(f"{folder}: no pictures and no video in this folder; expected {EXPECTED}")
    if len(found) > 1:
        raise ValueError(f"{folder}: holds {len(found)} clips; name one of them: {_some(map(str, found))}")
    if videos:
        return InputClip(str(found[0]), (found[0],), True)
    return _of_pictures(str(found[0]), list_pictures(found[0]))


def _of_pictures(name: str, pictures: Sequence[Path]) -> InputClip:
    """Pictures of one folder as a clip."""
    named = sorted(pictures, key=lambda path: (natural(path.stem), path.name))
    for one, other in itertools.pairwise(named):
        if natural(one.stem) == natural(other.stem):
            raise ValueError(
                f"{one} and {other.name}: two pictures of one place in the order; leave one of them out"
            )
    return InputClip(name, tuple(named), False)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES


def _some(names: Iterator[str]) -> str:
    first = list(itertools.islice(names, 4))
    return ", ".join(first[:3]) + (", ..." if len(first) > 3 else "")
