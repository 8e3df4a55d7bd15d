"""Source of CLEVRER as released: `video_00000-01000/video_00000.mp4`, masks from object proposals.

Proposals are the files `proposal_00000.json` of `derender_proposals/` or `sim_00000.json` of
`processed_proposals/`: for each frame the detected objects, each with a mask, a score and its color, material
and shape. Objects may be missing, detected twice, or overlap.

Source: Yi et al. 2020 (arXiv:1910.01442) and the archives at clevrer.csail.mit.edu.
"""

import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from vdp.core.classes import COLORS, MATERIALS, SHAPES, class_id
from vdp.data.sources.messages import shown
from vdp.data.sources.protocols import Frame, Pace
from vdp.data.sources.walk import join, walk
from vdp.data.stores.clips import Pixels
from vdp.data.video.decode import decode_frames

FRAMES = 128  # of every video of the release
FOLDER = re.compile(r"video_[0-9]+-[0-9]+")
VIDEO = re.compile(r"video_([0-9]+)\.mp4")
PROPOSALS = ("derender_proposals", "processed_proposals")  # the newer one first
PROPOSAL = re.compile(r"(?:proposal|sim)_([0-9]+)\.json")
LEVELS_UP = 3  # parents searched for proposals: from a folder of a thousand videos past the root

T = TypeVar("T")


class ClevrerSource:
    """The videos at or below a folder of CLEVRER; at its root, items begin with `video_train/`...

    A video is labelled if its proposals are in the folder or one of the three above it.
    """

    layout: ClassVar[str] = "CLEVRER's folders video_<digits>-<digits> of video_<digits>.mp4"
    precut: ClassVar[bool] = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._proposals = _find_proposals(folder)  # searched once: the release has 20,000

    def items(self) -> list[str]:
        """Paths of the videos below the folder; a single file is a `VideoSource`."""
        if self.folder.is_file():
            return []
        found = []
        for path, folders, files in walk(self.folder):
            folders[:] = [name for name in folders if name not in PROPOSALS]
            if FOLDER.fullmatch((self.folder / path).absolute().name):
                found += [join(path, name) for name in files if VIDEO.fullmatch(name)]
        return found

    def label(self, item: str) -> str:
        return str(self.folder / item)

    def files(self, item: str) -> list[Path]:
        proposal = self._proposal(item)
        return [self.folder / item] + ([] if proposal is None else [Path(proposal)])

    def count(self, item: str) -> int:
        return FRAMES

    def frames(self, item: str, pace: Pace) -> Iterator[Frame]:
        """As `Source`; a video must have 128 frames. A frame without valid proposals has a flaw."""
        proposal = self._proposal(item)
        objects = None if proposal is None else read_proposals(Path(proposal))
        for number, pixels in decode_frames(self.folder / item, pace, exactly=FRAMES):
            if objects is None:
                yield Frame(number, pixels)
                continue
            where = f"{proposal}: frame {number}"
            try:
                if number not in objects:
                    raise _error(where, "an entry for each selected frame", "none")
                mask = paint_mask(objects[number], pixels.shape[0], pixels.shape[1], where)
            except ValueError as error:
                yield Frame(number, pixels, flaw=str(error))
            else:
                yield Frame(number, pixels, mask)

    def _proposal(self, item: str) -> str | None:
        match = VIDEO.fullmatch(Path(item).name)
        return self._proposals.get(int(match[1])) if match else None


def read_proposals(path: Path) -> dict[int, list[object]]:
    """Return the objects of each frame, unchecked, by the frame's 0-based number."""
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # ValueError: also text that is not Unicode
        raise _error(str(path), "JSON", "an incomplete or another file") from error
    frames: dict[int, list[object]] = {}
    for position, frame in enumerate(_field(data, "frames", str(path), list)):
        where = f"{path}: entry {position} of frames"
        objects = _field(frame, "objects", where, list)
        number = _field(frame, "frame_index", where, int) if "frame_index" in frame else position
        if number in frames:
            raise _error(where, "each frame once", f"frame {number} again")
        frames[number] = objects
    return frames


def paint_mask(objects: list[object], height: int, width: int, where: str) -> Pixels:
    """Paint the class ids of one frame, uint8; the highest score is on top, of equal scores the first."""
    scored = []
    for position, item in enumerate(objects):
        name = f"{where}, object {position}"
        score = _field(item, "score", name, int, float)
        if not abs(score) < math.inf:
            raise _error(name, "a finite score", str(score))
        factors = {"shape": SHAPES, "material": MATERIALS, "color": COLORS}
        number = class_id(**{key: _factor(item, key, names, name) for key, names in factors.items()})
        mask = _field(item, "mask", name, dict)
        size = _field(mask, "size", name, list)
        if size != [height, width]:
            raise _error(name, f"a mask of the video's size [{height}, {width}]", shown(size))
        inside = decode_rle(_field(mask, "counts", name, str), height, width, name)
        scored.append((score, -position, number, inside))
    painted = np.zeros((height, width), np.uint8)
    for _, _, number, inside in sorted(scored, key=lambda entry: entry[:2]):
        painted[inside] = number
    return painted


def decode_rle(counts: str, height: int, width: int, where: str) -> NDArray[np.bool_]:
    """Decode a mask (height, width) from COCO's compressed run lengths.

    Runs are column-major and alternate, background first; from the fourth on a run is the difference to the
    last but one. A number is a sequence of characters of 6 bits, lowest first: 5 bits of the number and a
    continuation bit; the fifth bit of the last character is the sign.

    Not pycocotools (2.0.11): it returns uninitialised memory, or crashes, for negative or too few runs.
    """
    runs: list[int] = []
    value = bits = 0
    for character in counts.encode("utf-8", "surrogatepass"):
        code = character - 48
        if not 0 <= code < 64 or bits > 30:  # 35 bits: more than any valid run
            raise _error(where, "compressed run lengths", shown(counts))
        value |= (code & 31) << bits
        bits += 5
        if not code & 32:
            if code & 16:
                value -= 1 << bits
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = bits = 0
    if bits or min(runs, default=0) < 0 or sum(runs) != height * width:
        raise _error(where, f"run lengths of {height * width} pixels in total", f"{sum(runs)} in total")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _find_proposals(folder: Path) -> dict[int, str]:
    """Path of the proposals of each video, by its number; empty if there are none."""
    above = folder.absolute()
    candidates = [path / name for path in [above, *above.parents][: LEVELS_UP + 1] for name in PROPOSALS]
    root = next((path for path in candidates if os.path.isdir(path)), None)
    found: dict[int, str] = {}
    if root is None:
        return found
    for path, _, files in walk(root):
        for name in files:
            if match := PROPOSAL.fullmatch(name):
                number, full = int(match[1]), str(root / path / name)
                if number in found:
                    raise ValueError(f"{found[number]} and {full}: two files of the same number; remove one")
                found[number] = full
    return found


def _factor(item: object, key: str, names: tuple[str, ...], where: str) -> int:
    name = _field(item, key, where, str)
    if name not in names:
        raise _error(where, f"{key} to be one of {', '.join(names)}", shown(name))
    return names.index(name)


def _field(record: object, key: str, where: str, *kinds: type[T]) -> T:
    if not isinstance(record, dict) or key not in record:
        raise _error(where, f"an object with {key!r}", shown(record))
    value = record[key]
    if not isinstance(value, kinds) or isinstance(value, bool):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise _error(where, f"{key!r} of type {expected}", shown(value))
    return value


def _error(where: str, expected: str, got: str) -> ValueError:
    return ValueError(f"{where}: expected {expected}, got {got}; download the file again or remove it")
