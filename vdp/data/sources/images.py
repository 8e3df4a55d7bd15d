"""A source of folders of pictures: a folder that holds pictures, at any depth, is one video.

Frames are in the natural order of their names (frame2 before frame10). `mask.npy` beside the pictures is
uint8 (T, H, W) of class ids 0..48, a mask for each picture.
"""

import os
from collections.abc import Iterator
from itertools import pairwise, takewhile
from pathlib import Path
from typing import ClassVar

import numpy as np

from vdp.data.sources.protocols import Frame, Pace
from vdp.data.sources.walk import list_folder, natural, walk
from vdp.data.stores.clips import Pixels
from vdp.data.video.picture import SUFFIXES, read_masks, read_picture

MASK = "mask.npy"


class ImageFolderSource:
    """The folders below a folder, and itself, that hold pictures; one item is one of these.

    Pictures in the source's own folder are an item that is named as the folder is.
    """

    expects: ClassVar[str] = "folders of pictures (png, jpg, ...), one for each video"
    precut: ClassVar[bool] = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def items(self) -> list[str]:
        """Paths of the folders that hold pictures."""
        return [
            self._own_item() if path == "." else path
            for path, _, files in walk(self.folder)
            if any(map(_is_picture, files))
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
        return self.folder if item == self._own_item() else self.folder / item

    def _own_item(self) -> str:
        name = os.path.basename(os.path.abspath(self.folder)) or "pictures"
        while (self.folder / name).exists():  # a folder in it may have its name: v/v
            name += "_"
        return name


def picture_frames(folder: Path, pace: Pace) -> Iterator[Frame]:
    """The frames that `pace` takes of one folder of pictures, in natural order; see `read_frames`.

    Raises:
        ValueError: also if two pictures have one place in that order (a_1.png and a_01.png); names both.
    """
    pictures = list_pictures(folder)
    for one, other in pairwise(pictures):
        if _place(one.name) == _place(other.name):
            raise ValueError(
                f"{one} and {other.name}: two pictures of one place in the order; remove one of them"
            )
    yield from read_frames(folder, pictures, pace)


def list_pictures(folder: Path) -> list[Path]:
    """The picture files of a folder in natural order; the suffix does not count."""
    _, files = list_folder(folder)
    return [folder / name for name in sorted(filter(_is_picture, files), key=_place)]


def mask_files(folder: Path) -> list[Path]:
    """The mask file of a folder: one or none."""
    # a link that leads nowhere is there: the video must not pass for an unlabelled one
    return [folder / MASK] if os.path.lexists(folder / MASK) else []


def read_frames(folder: Path, pictures: list[Path], pace: Pace) -> Iterator[Frame]:
    """The frames that `pace` takes of a list of pictures, decoded one at a time, with `folder`'s masks.

    The masks are checked before the first frame is given. All pictures taken must have the size of the first.

    Raises:
        ValueError: if a picture or the masks cannot be used; names the file.
        OSError: if a picture cannot be opened.
    """
    first, size = None, (0, 0)
    masks: Pixels | None = None
    for number in takewhile(lambda n: n < len(pictures), pace.numbers(None, str(folder))):
        path = pictures[number]
        pixels = read_picture(path)
        height, width = pixels.shape[:2]
        if first is None:
            first, size = path, (height, width)
            found = mask_files(folder)
            masks = read_masks(found[0], (len(pictures), height, width)) if found else None
        elif (height, width) != size:
            raise ValueError(
                f"{path}: expected the size of {first.name}, {size[1]}x{size[0]}, got {width}x{height}; "
                "resize it or remove its video"
            )
        yield Frame(number, pixels, None if masks is None else np.array(masks[number]))


def _is_picture(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def _place(name: str) -> tuple[tuple[int, int, str], ...]:
    return natural(Path(name).stem)
