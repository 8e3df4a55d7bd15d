"""A source in the competition's layout: `video_<digits>/image_<k>.png`, with `mask.npy` where labelled.

Frames are taken in the order of their numbers (image_2 before image_10). `mask.npy` is uint8 (T, H, W) of
class ids 0..48, a mask for each picture. A folder with more pictures than a clip has gives its first frames.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from vdp.classes import NUM_CLASSES
from vdp.data.clips import Clip
from vdp.data.resize import resize_frame, resize_mask
from vdp.data.sources.rule import ClipRule

FOLDER = re.compile(r"video_(\d+)")
PICTURE = re.compile(r"image_(\d+)\.png")
MASK = "mask.npy"


class CompetitionSource:
    """Clips of a folder of `video_<digits>` folders; one item is one of these."""

    expects: ClassVar[str] = "folders video_<digits> of image_<k>.png"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def items(self) -> list[str]:
        """Names of the video folders, in the order of their numbers."""
        found = [p.name for p in self.folder.iterdir() if FOLDER.fullmatch(p.name) and p.is_dir()]
        return sorted(found, key=lambda name: (_number(FOLDER, name), name))

    def read(self, item: str, rule: ClipRule) -> Iterator[Clip]:
        """The one clip of a video folder.

        Raises:
            ValueError: if a picture or the mask cannot be used; names the file.
        """
        folder = self.folder / item
        pictures = _pictures(folder)
        length = rule.length(len(pictures), folder)
        frames = [_read_picture(path) for path in pictures[:length]]
        height, width = frames[0].shape[:2]
        for path, frame in zip(pictures, frames, strict=False):
            if frame.shape[:2] != (height, width):
                raise ValueError(
                    f"{path}: expected the size of {pictures[0].name}, {width}x{height}, "
                    f"got {frame.shape[1]}x{frame.shape[0]}"
                )
        masks = None
        if (folder / MASK).exists():
            full = _read_mask(folder / MASK, (len(pictures), height, width))
            masks = np.stack([resize_mask(mask, rule.height, rule.width, rule.fit) for mask in full[:length]])
        yield Clip(
            item, np.stack([resize_frame(f, rule.height, rule.width, rule.fit) for f in frames]), masks
        )


def _pictures(folder: Path) -> list[Path]:
    found = {_number(PICTURE, p.name): p for p in folder.iterdir() if PICTURE.fullmatch(p.name)}
    numbers = sorted(found)
    missing = sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers)) if numbers else []
    if missing:
        raise ValueError(
            f"{folder}/image_{missing[0]}.png: missing, though image_{numbers[-1]}.png is there; "
            "restore it or remove the folder"
        )
    return [found[number] for number in numbers]


def _number(pattern: re.Pattern[str], name: str) -> int:
    match = pattern.fullmatch(name)
    return int(match[1]) if match else -1


def _read_picture(path: Path) -> NDArray[np.uint8]:
    # decoding from bytes: imread prints a warning of its own for a file it cannot read
    data = np.fromfile(path, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise ValueError(f"{path}: not a readable picture; restore the file or remove its folder")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def _read_mask(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    try:
        mask = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a readable .npy array; restore the file or remove it") from error
    if not isinstance(mask, np.ndarray) or mask.dtype != np.uint8 or mask.shape != shape:
        got = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else "an archive"
        raise ValueError(
            f"{path}: expected uint8 masks of shape {shape} (a mask for each picture), got {got}"
        )
    if mask.max() >= NUM_CLASSES:
        raise ValueError(
            f"{path}: class id {mask.max()} is over {NUM_CLASSES - 1}; "
            f"expected 0 (background) to {NUM_CLASSES - 1}"
        )
    return mask
