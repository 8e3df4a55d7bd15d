"""A source of CLEVRER as it is released: `video_00000-01000/video_00000.mp4`, masks from object proposals.

Proposals are the files `proposal_00000.json` of `derender_proposals/` or `sim_00000.json` of
`processed_proposals/`: for each frame the objects that a detector found, each with a mask, a score and its
colour, material and shape. They may miss an object, find one twice, and overlap.

Source: Yi et al. 2020 (arXiv:1910.01442) and the archives at clevrer.csail.mit.edu.
"""

import json
import math
import os
import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from vdp.core.classes import COLORS, MATERIALS, SHAPES, class_id
from vdp.data.sources.protocols import Frame, Pace
from vdp.data.sources.walk import walk
from vdp.data.stores.clips import Pixels
from vdp.data.video.decode import decode_frames

FRAMES = 128  # of every video of the release
FOLDER = re.compile(r"video_[0-9]+-[0-9]+")
VIDEO = re.compile(r"video_([0-9]+)\.mp4")
PROPOSALS = ("derender_proposals", "processed_proposals")  # the newer one first
PROPOSAL = re.compile(r"(?:proposal|sim)_([0-9]+)\.json")
LEVELS_UP = 3  # from a folder of a thousand videos to the root of the release, and one more
MAX_SHOWN = 60  # characters of a wrong value in a message

T = TypeVar("T")


class ClevrerSource:
    """The videos of CLEVRER's root (items then begin with `video_train/`...), or of any folder of it.

    A video is labelled if its proposals are there: in the folder, or in one of the three above it.

    Raises:
        ValueError: if two files of proposals have one number; names both.
    """

    expects: ClassVar[str] = "CLEVRER's folders video_<digits>-<digits> of video_<digits>.mp4"
    precut: ClassVar[bool] = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._proposals = _find_proposals(folder)  # looked for once: the release has 20,000

    def items(self) -> list[str]:
        """Paths of the videos below the folder."""
        if self.folder.is_file():  # one video alone is not told to be CLEVRER's
            return []
        found = []
        for path, folders, files in walk(self.folder):
            folders[:] = [name for name in folders if name not in PROPOSALS]
            if FOLDER.fullmatch((self.folder / path).absolute().name):
                videos = [name for name in files if VIDEO.fullmatch(name)]
                found += videos if path == "." else [f"{path}/{name}" for name in videos]
        return found

    def label(self, item: str) -> str:
        return str(self.folder / item)

    def files(self, item: str) -> list[Path]:
        proposal = self._proposal(item)
        return [self.folder / item] + ([] if proposal is None else [proposal])

    def count(self, item: str) -> int:
        return FRAMES

    def frames(self, item: str, pace: Pace) -> Iterator[Frame]:
        """As `Source`; where objects overlap, the pixel is the one's with the highest score.

        Raises:
            ValueError: also if the video has not 128 frames, or its proposals leave a taken frame out.
        """
        path, proposal = self.folder / item, self._proposal(item)
        objects = None if proposal is None else read_proposals(proposal)
        for number, pixels in decode_frames(path, pace, exactly=FRAMES):
            if objects is None:
                yield Frame(number, pixels)
                continue
            where = f"{proposal}: frame {number}"
            if number not in objects:
                raise _refusal(where, "an entry for each frame that is taken", "none")
            yield Frame(number, pixels, paint_mask(objects[number], pixels.shape[0], pixels.shape[1], where))

    def _proposal(self, item: str) -> Path | None:
        match = VIDEO.fullmatch(Path(item).name)
        path = self._proposals.get(int(match[1])) if match else None
        return None if path is None else Path(path)


def read_proposals(path: Path) -> dict[int, list[object]]:
    """The objects of each frame in a file of proposals, unchecked, by the frame's 0-based number.

    Raises:
        ValueError: if the file is not such a JSON file; names it.
        OSError: if it cannot be opened.
    """
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # ValueError: also text that is not Unicode
        raise _refusal(str(path), "JSON", "a file that breaks off or is another kind of file") from error
    frames: dict[int, list[object]] = {}
    for place, frame in enumerate(_field(data, "frames", str(path), list)):
        where = f"{path}: entry {place} of frames"
        objects = _field(frame, "objects", where, list)
        number = _field(frame, "frame_index", where, int) if "frame_index" in frame else place
        if number in frames:
            raise _refusal(where, "each frame once", f"frame {number} again")
        frames[number] = objects
    return frames


def paint_mask(objects: list[object], height: int, width: int, where: str) -> Pixels:
    """Class ids (height, width) uint8 of one frame; the highest score lies on top, of equals the first.

    Args:
        objects: as proposals list them.
        height: of the video's frame, in pixels; every mask has to have its size.
        width: the same.
        where: file and frame, for messages.

    Raises:
        ValueError: if an object is not as it should be; begins with `where`.
    """
    scored = []
    for place, item in enumerate(objects):
        name = f"{where}, object {place}"
        score = _field(item, "score", name, int, float)
        if not abs(score) < math.inf:
            raise _refusal(name, "a finite score", str(score))
        number = class_id(
            shape=_factor(item, "shape", SHAPES, name),
            material=_factor(item, "material", MATERIALS, name),
            color=_factor(item, "color", COLORS, name),
        )
        mask = _field(item, "mask", name, dict)
        size = _field(mask, "size", name, list)
        if size != [height, width]:
            raise _refusal(name, f"a mask of the video's size [{height}, {width}]", reprlib.repr(size))
        inside = decode_rle(_field(mask, "counts", name, str), height, width, name)
        scored.append((score, -place, number, inside))
    painted = np.zeros((height, width), np.uint8)
    for _, _, number, inside in sorted(scored, key=lambda entry: entry[:2]):
        painted[inside] = number
    return painted


def decode_rle(counts: str, height: int, width: int, where: str) -> NDArray[np.bool_]:
    """A mask (height, width) from COCO's compressed run lengths.

    The runs go down the columns, outside and inside in turn, the first one outside. From the fourth on a run
    is written as the change from the last but one. A number is written as characters of 6 bits, lowest first:
    5 of the number, and one that says that more follow; the fifth of the last one is the sign.

    Not by pycocotools (2.0.11): where runs are negative or too few it gives memory that nobody wrote, or the
    process ends. The runs would have to be read here anyway, to be checked.

    Raises:
        ValueError: if this is not such a text, or one of another size; begins with `where`.
    """
    runs: list[int] = []
    value = bits = 0
    for character in counts.encode("utf-8", "surrogatepass"):
        code = character - 48
        if not 0 <= code < 64 or bits > 30:  # 35 bits: more than any run that fits
            raise _refusal(where, "compressed run lengths", f"the text {reprlib.repr(counts)}")
        value |= (code & 31) << bits
        bits += 5
        if not code & 32:
            if code & 16:
                value -= 1 << bits
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = bits = 0
    if bits or min(runs, default=0) < 0 or sum(runs) != height * width:
        raise _refusal(where, f"run lengths of {height * width} pixels in all", f"{sum(runs)} in all")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _find_proposals(folder: Path) -> dict[int, str]:
    """Path of the proposals of each video, by its number; empty where there are none."""
    above = folder.absolute()
    for place in [above, *above.parents][: LEVELS_UP + 1]:
        for name in PROPOSALS:
            if os.path.isdir(place / name):
                return _by_number(place / name)
    return {}


def _by_number(folder: Path) -> dict[int, str]:
    found: dict[int, str] = {}
    for path, _, files in walk(folder):
        for name in files:
            match = PROPOSAL.fullmatch(name)
            if not match:
                continue
            number, full = int(match[1]), str(folder / path / name)
            if number in found:
                raise ValueError(f"{found[number]} and {full}: two files of one number; remove one of them")
            found[number] = full
    return found


def _factor(item: object, key: str, names: tuple[str, ...], where: str) -> int:
    name = _field(item, key, where, str)
    if name not in names:
        raise _refusal(where, f"{key} to be one of {', '.join(names)}", reprlib.repr(name))
    return names.index(name)


def _field(record: object, key: str, where: str, *kinds: type[T]) -> T:
    """The value of a key of a JSON object, if it is of one of these types."""
    if not isinstance(record, dict) or key not in record:
        raise _refusal(where, f"an object with {key!r}", reprlib.repr(record))
    value = record[key]
    if not isinstance(value, kinds) or isinstance(value, bool):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise _refusal(where, f"{key!r} of type {expected}", reprlib.repr(value))
    return value


def _refusal(where: str, expected: str, got: str) -> ValueError:
    got = got if len(got) <= MAX_SHOWN else got[:MAX_SHOWN] + "..."
    return ValueError(f"{where}: expected {expected}, got {got}; download the file again or remove it")
