"""Source of folders of pictures: each folder that holds pictures, at any depth, is one video.

Frames are in the natural order of their names (frame2 before frame10). `mask.npy` beside the pictures holds
class ids 0..48, uint8 (T, H, W), one mask per picture.
"""

import os
from collections.abc import Iterator
from itertools import pairwise, takewhile
from pathlib import Path
from typing import ClassVar

import numpy as np

from vdp.data.sources.messages import check_size
from vdp.data.sources.protocols import Frame, Pace
from vdp.data.sources.walk import list_folder, natural, walk
from vdp.data.stores.clips import Pixels
from vdp.data.video.picture import SUFFIXES, picture_reader, read_masks

MASK = "mask.npy"


class ImageFolderSource:
    """The folders with pictures at or below a folder; the folder itself is an item with its name."""

    layout: ClassVar[str] = "folders of pictures (png, jpg, ...), one for each video"
    precut: ClassVar[bool] = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def items(self) -> list[str]:
        return [
            self._root_item() if path == "." else path
            for path, _, files in walk(self.folder)
            if any(map(is_picture, files))
        ]

    def label(self, item: str) -> str:
        return str(self._path(item))

    def files(self, item: str) -> list[Path]:
        folder = self._path(item)
        return list_pictures(folder) + mask_files(folder)

    def count(self, item: str) -> int:
        return len(list_pictures(self._path(item)))

    def frames(self, item: str, pace: Pace) -> Iterator[Frame]:
        return picture_frames(self._path(item), pace)

    def _path(self, item: str) -> Path:
        return self.folder if item == self._root_item() else self.folder / item

    def _root_item(self) -> str:
        name = os.path.basename(os.path.abspath(self.folder)) or "pictures"
        while (self.folder / name).exists():  # a subfolder may have the name: v/v
            name += "_"
        return name


def picture_frames(folder: Path, pace: Pace) -> Iterator[Frame]:
    """Yield the frames of one folder of pictures; see `check_order` and `read_frames`."""
    pictures = list_pictures(folder)
    check_order(pictures)
    yield from read_frames(folder, pictures, pace)


def list_pictures(folder: Path) -> list[Path]:
    """Return the picture files of a folder in natural order of their stems."""
    _, files = list_folder(folder)
    return [
        folder / name for name in sorted(filter(is_picture, files), key=lambda name: natural(Path(name).stem))
    ]


def check_order(pictures: list[Path]) -> None:
    """Raise a ValueError if two pictures have the same position in natural order (a_1.png and a_01.png)."""
    for one, other in pairwise(pictures):
        if natural(one.stem) == natural(other.stem):
            raise ValueError(f"{one} and {other.name}: two pictures at the same position; leave one out")


def mask_files(folder: Path) -> list[Path]:
    """Return the mask file of a folder: one or none."""
    # also a broken link: its video is not unlabelled
    return [folder / MASK] if os.path.lexists(folder / MASK) else []


def read_frames(folder: Path, pictures: list[Path], pace: Pace) -> Iterator[Frame]:
    """Yield the selected frames of a list of pictures, decoded one at a time, with the masks of `folder`.

    Masks are checked before the first frame.
    """
    size: tuple[int, ...] = ()
    masks: Pixels | None = None
    read = picture_reader(pictures, str(folder))
    for number in takewhile(lambda n: n < len(pictures), pace.numbers(str(folder))):
        pixels = read(number)
        if not size:
            size = pixels.shape
            found = mask_files(folder)
            masks = read_masks(found[0], (len(pictures), size[0], size[1])) if found else None
        check_size(str(pictures[number]), pixels.shape, size)
        yield Frame(number, pixels, None if masks is None else np.array(masks[number]))


def is_picture(name: str) -> bool:
    """Whether a file is a picture by its suffix."""
    return Path(name).suffix.lower() in SUFFIXES
