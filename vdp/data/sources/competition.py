"""A source in the competition's layout: `video_<digits>/image_<k>.png`, with `mask.npy` where labelled.

Frames are taken in the order of their numbers (image_2 before image_10). `mask.npy` is uint8 (T, H, W) of
class ids 0..48, a mask for each picture. A folder with more pictures than a clip has gives its first frames.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

from vdp.data.sources.images import mask_files, read_frames
from vdp.data.sources.protocols import Frame, Pace
from vdp.data.sources.walk import list_folder, walk

FOLDER = re.compile(r"video_([0-9]+)")
PICTURE = re.compile(r"image_([0-9]+)\.png")
MAX_DIGITS = 10  # of a folder's number, for a second spelling of it: more zeros than anyone writes


class CompetitionSource:
    """The `video_<digits>` folders below a folder, at any depth (train/video_0); one item is one of these."""

    expects: ClassVar[str] = "folders video_<digits> of image_<k>.png"
    precut: ClassVar[bool] = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def items(self) -> list[str]:
        """Paths of the video folders, in the order of their numbers; these are not looked into."""
        found = []
        for path, folders, _ in walk(self.folder):
            videos = [name for name in folders if FOLDER.fullmatch(name)]
            folders[:] = [name for name in folders if not FOLDER.fullmatch(name)]
            found += videos if path == "." else [f"{path}/{name}" for name in videos]
        return found

    def label(self, item: str) -> str:
        return str(self.folder / item)

    def files(self, item: str) -> list[Path]:
        folder = self.folder / item
        return _pictures(folder) + mask_files(folder)

    def count(self, item: str) -> int:
        return len(_pictures(self.folder / item))

    def frames(self, item: str, pace: Pace) -> Iterator[Frame]:
        """As `Source`; the folder is checked as a whole before the first frame is given.

        Raises:
            ValueError: also if a picture is missing between two others, or if two folders or two pictures
                have one number; names both.
        """
        folder = self.folder / item
        _refuse_second_spelling(folder)
        pictures = _pictures(folder)
        _refuse_gaps(pictures)
        yield from read_frames(folder, pictures, pace)


def _pictures(folder: Path) -> list[Path]:
    _, files = list_folder(folder)  # natural order is the order of their numbers
    return [folder / name for name in files if PICTURE.fullmatch(name)]


def _refuse_gaps(pictures: list[Path]) -> None:
    for one, other in pairwise(pictures):
        before, after = _digits(PICTURE, one), _digits(PICTURE, other)
        step = int(after) - int(before)
        if step == 0:
            raise ValueError(f"{one} and {other.name}: two pictures of one number; remove one of them")
        if step > 1:
            missing = one.with_name(f"image_{int(before) + 1:0{len(before)}d}.png")
            raise ValueError(
                f"{missing}: missing, though {other.name} is there; restore it or remove the folder"
            )


def _refuse_second_spelling(folder: Path) -> None:
    number = int(_digits(FOLDER, folder))
    # not by listing the folder above: it may hold 15,000 videos, and each of them is read by this way
    for digits in range(1, MAX_DIGITS + 1):
        other = folder.with_name(f"video_{number:0{digits}d}")
        if other.name != folder.name and other.is_dir():
            raise ValueError(
                f"{folder} and {other.name}: two folders of one number; rename or remove one of them"
            )


def _digits(pattern: re.Pattern[str], path: Path) -> str:
    match = pattern.fullmatch(path.name)
    assert match is not None, f"{path} was found by this pattern"
    return match[1]
