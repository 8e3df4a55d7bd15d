"""Source in the competition's layout: `video_<digits>/image_<k>.png`, with `mask.npy` if labelled.

Frames are in the order of their numbers. `mask.npy` holds class ids 0..48, uint8 (T, H, W), one mask per
picture. Pictures beyond the length of a clip are ignored.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

from vdp.data.sources.images import mask_files, read_frames
from vdp.data.sources.protocols import Frame, Pace
from vdp.data.sources.walk import join, list_folder, walk

FOLDER = re.compile(r"video_([0-9]+)")
PICTURE = re.compile(r"image_([0-9]+)\.png")
MAX_DIGITS = 10  # of a folder's number, in the search for a folder of the same number


class CompetitionSource:
    """The `video_<digits>` folders below a folder, at any depth (train/video_0)."""

    layout: ClassVar[str] = "folders video_<digits> of image_<k>.png"
    precut: ClassVar[bool] = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def items(self) -> list[str]:
        """Paths of the video folders, which are not listed themselves."""
        found = []
        for path, folders, _ in walk(self.folder):
            found += [join(path, name) for name in folders if FOLDER.fullmatch(name)]
            folders[:] = [name for name in folders if not FOLDER.fullmatch(name)]
        return found

    def label(self, item: str) -> str:
        return str(self.folder / item)

    def files(self, item: str) -> list[Path]:
        folder = self.folder / item
        return _pictures(folder) + mask_files(folder)

    def count(self, item: str) -> int:
        return len(_pictures(self.folder / item))

    def frames(self, item: str, pace: Pace) -> Iterator[Frame]:
        """As `Source`; numbers of folders and pictures are checked before the first frame."""
        folder = self.folder / item
        _check_folder_number(folder)
        pictures = _pictures(folder)
        _check_picture_numbers(pictures)
        yield from read_frames(folder, pictures, pace)


def _pictures(folder: Path) -> list[Path]:
    _, files = list_folder(folder)  # the natural order is the order of their numbers
    return [folder / name for name in files if PICTURE.fullmatch(name)]


def _check_picture_numbers(pictures: list[Path]) -> None:
    for one, other in pairwise(pictures):
        digits = PICTURE.sub(r"\1", one.name)
        step = int(PICTURE.sub(r"\1", other.name)) - int(digits)
        if step == 0:
            raise ValueError(f"{one} and {other.name}: two pictures of the same number; remove one of them")
        if step > 1:
            missing = one.with_name(f"image_{int(digits) + 1:0{len(digits)}d}.png")
            raise ValueError(f"{missing}: missing before {other.name}; restore it or remove the folder")


def _check_folder_number(folder: Path) -> None:
    number = int(FOLDER.sub(r"\1", folder.name))
    # without listing the parent, which may hold 15,000 videos
    for digits in range(1, MAX_DIGITS + 1):
        other = folder.with_name(f"video_{number:0{digits}d}")
        if other.name != folder.name and other.is_dir():
            raise ValueError(f"{folder} and {other.name}: two folders of the same number; rename one of them")
