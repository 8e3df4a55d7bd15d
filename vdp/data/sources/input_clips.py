"""Find and read the clips that a user names on the command line: video files, folders of pictures, globs."""

import difflib
import glob
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vdp.data.sources.images import ImageFolderSource, check_order, is_picture, list_pictures
from vdp.data.sources.messages import check_size
from vdp.data.sources.protocols import Pace
from vdp.data.sources.videos import VideoSource
from vdp.data.sources.walk import in_order, list_folder, natural
from vdp.data.stores.clips import Pixels
from vdp.data.video.decode import clip_frames, count_frames, frame_rate
from vdp.data.video.picture import holds_clip, picture_reader

PICTURES_RATE = 10.0  # frames per second of pictures, which have no rate
EXPECTED = "a video file, a folder of pictures, or a glob in quotes"


@dataclass(frozen=True)
class InputClip:
    """One input clip."""

    name: str  # in messages
    files: tuple[Path, ...]  # the file, or the pictures in order
    is_video: bool  # one file holds all frames: a video, an animation, a stack of pages or an array

    def frames(self, interval: int = 1, offset: int = 0) -> Iterator[Pixels]:
        """Yield every `interval`-th frame from `offset` on, (H, W, 3) uint8 RGB, decoded one at a time.

        Raises:
            ValueError, OSError: if nothing decodes, or a frame has not the size of the first; names the file.
        """
        for read in self.readers(interval, offset):
            yield read()

    def readers(self, interval: int = 1, offset: int = 0) -> Iterator[Callable[[], Pixels]]:
        """Yield a function for each frame of `frames` that converts it; one that is not called costs less."""
        first = self.size()

        def read_checked(name: str, read: Callable[[], Pixels]) -> Pixels:
            frame = read()
            check_size(name, frame.shape, first)
            return frame

        for name, read in self._decode(Pace(interval, offset=offset)):
            yield partial(read_checked, name, read)

    def size(self) -> tuple[int, int]:
        """Decode the first frame and return its height and width; raises as `frames`."""
        with closing(self._decode(Pace())) as frames:
            height, width, _ = next(frames)[1]().shape
        return height, width

    def count(self, interval: int = 1) -> int:
        """Return the number of frames: of a long video an estimate, 0 if unknown."""
        frames = count_frames(self.files[0]) if self.is_video else len(self.files)
        return -(-frames // interval)

    def rate(self, interval: int = 1) -> float:
        """Return the frame rate of `frames`."""
        measured = frame_rate(self.files[0]) if self.is_video else 0.0
        return (measured or PICTURES_RATE) / interval

    def _decode(self, pace: Pace) -> Generator[tuple[str, Callable[[], Pixels]], None, None]:
        if self.is_video:
            with closing(clip_frames(self.files[0])) as frames:
                for frame in pace.select(frames, lambda frame: frame.time):
                    yield f"{self.files[0]}: frame {frame.number + 1}", frame.read
        else:
            read = picture_reader(self.files, self.name)
            for index in range(pace.offset, len(self.files), pace.interval):
                yield str(self.files[index]), partial(read, index)


def find_clips(words: Sequence[str]) -> list[InputClip]:
    """Find the clips that words of a command line name, in their order, each once; only names are read.

    A clip is a video file, or a folder with pictures, or a folder with one of these below it. Pictures named
    one by one, as by a glob, form one clip per folder, in natural order. A glob that the shell has not
    expanded may contain `**`.

    Raises:
        FileNotFoundError: if a word matches nothing, or is a folder without a clip.
        ValueError: if a folder holds several clips, or two pictures have the same position in natural order.
    """
    paths = dict.fromkeys(path for word in words for path in _expand(word))
    folders = {path for path in paths if path.is_dir()}
    beside: dict[Path, list[Path]] = {}
    for path in paths:
        if path not in folders and is_picture(path.name):
            beside.setdefault(path.parent, []).append(path)
    clips: dict[Path, InputClip] = {}
    for path in paths:
        pictures = beside.get(path.parent, [])
        if path in folders:
            clips[path] = _clip_in_folder(path)
        # of many pictures only the first is opened; a later one that is no picture is refused when it is read
        elif not is_picture(path.name) or holds_clip(pictures[0]):
            clips[path] = InputClip(str(path), (path,), True)
        elif path.parent / "*" not in clips:  # another key than the folder, which may be named as well
            name = str(path if len(pictures) == 1 else path.parent)
            clips[path.parent / "*"] = _clip_of_pictures(name, pictures)
    return list(clips.values())


def find_clip(word: str) -> InputClip:
    """Find the one clip that a word names; as `find_clips`, but several are a ValueError."""
    clips = find_clips([word])
    if len(clips) > 1:
        raise ValueError(f"{word}: {len(clips)} clips, expected one: {_some([c.name for c in clips])}")
    return clips[0]


def _expand(word: str) -> list[Path]:
    path = Path(word).expanduser()
    if not word:
        raise FileNotFoundError(f"'': an empty name; expected {EXPECTED}")
    if path.exists():  # not a glob: a name may have brackets
        return [path]
    if glob.has_magic(word):
        found = in_order(glob.glob(str(path), recursive=True))
        if not found:
            raise FileNotFoundError(f"{word}: matches nothing; expected {EXPECTED}")
        return [Path(name) for name in found]
    names = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1)
    hint = f" (did you mean {path.with_name(near[0])}?)" if near else ""
    raise FileNotFoundError(f"{word}: no such file or folder{hint}; expected {EXPECTED}")


def _clip_in_folder(folder: Path) -> InputClip:
    pictures = list_pictures(folder)
    videos = VideoSource(folder).items()
    if pictures and any("/" not in name for name in videos):
        raise ValueError(
            f"{folder}: holds both pictures and video files; name one of them: {folder / videos[0]}, "
            f"or the pictures as '{folder}/*{pictures[0].suffix}'"
        )
    if pictures:
        return _clip_of_pictures(str(folder), pictures)
    below = ImageFolderSource(folder).items() if list_folder(folder)[0] else []
    found = [folder / name for name in [*below, *videos]]
    if not found:
        raise FileNotFoundError(f"{folder}: no pictures and no video in this folder; expected {EXPECTED}")
    if len(found) > 1:
        raise ValueError(f"{folder}: holds {len(found)} clips; name one of them: {_some(map(str, found))}")
    if videos:
        return InputClip(str(found[0]), (found[0],), True)
    return _clip_of_pictures(str(found[0]), list_pictures(found[0]))


def _clip_of_pictures(name: str, pictures: Sequence[Path]) -> InputClip:
    if len(pictures) == 1 and holds_clip(pictures[0]):
        return InputClip(str(pictures[0]), (pictures[0],), True)
    ordered = sorted(pictures, key=lambda path: (natural(path.stem), path.name))
    check_order(ordered)
    return InputClip(name, tuple(ordered), False)


def _some(names: Iterable[str]) -> str:
    first = list(names)
    return ", ".join(first[:3]) + (", ..." if len(first) > 3 else "")
