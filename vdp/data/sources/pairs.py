"""A source of pairs of videos for restoration: a degraded one, the input, and its clean one, the target.

Pairs are told by a folder with `input/` and `target/` that hold the same names, or by a list: YAML

    - {input: noisy/a.mp4, target: clean/a.mp4}
    - {input: noisy/b, target: clean/b, mask: masks/b.npy}

or CSV with the header `input,target` or `input,target,mask`; paths are relative to the list. Each of the two
is a video file or a folder of pictures. A mask is a .npy file, uint8 (T, H, W), of the target's class ids.
"""

import csv
import os
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import ClassVar

import yaml

from vdp.data.sources.images import list_pictures, mask_files, picture_frames
from vdp.data.sources.protocols import Frame, Pace
from vdp.data.sources.walk import walk
from vdp.data.stores.clips import Pixels
from vdp.data.video.decode import SUFFIXES as VIDEOS
from vdp.data.video.decode import count_frames, decode_frames, frame_rate
from vdp.data.video.picture import SUFFIXES as PICTURES
from vdp.data.video.picture import read_masks
from vdp.data.video.resize import resize_frame

INPUT, TARGET, MASK = "input", "target", "mask"
LISTS = (".yaml", ".yml", ".csv")
MAX_SHOWN = 60  # characters of a wrong value in a message
# what PyYAML raises, and what it lets through of turning text into other types: a month 13, `!!bool x`
UNREADABLE = (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError, ArithmeticError)


@dataclass(frozen=True)
class Pair:
    """Paths, relative to the source's folder or absolute, of the two videos and of the target's masks."""

    input: str
    target: str
    mask: str | None


class PairSource:
    """Pairs of a folder with `input/` and `target/`, or of a list; `Frame.condition` is the input's.

    One item is one pair: its name in the two folders, without a suffix, or the path of its input in the list.
    An input of another size is brought to its target's.

    Raises:
        ValueError: if a list or an entry of it cannot be used, or a video has no partner or two.
        OSError: if the list cannot be opened.
    """

    expects: ClassVar[str] = (
        "pairs of videos: folders input and target that hold the same names, "
        "or a list of pairs (yaml or csv: input, target)"
    )
    precut: ClassVar[bool] = False

    def __init__(self, path: Path) -> None:
        self.folder = path if path.is_dir() else path.parent
        # read once, and here: a mistake in a list should not wait until half of it is decoded
        if path.is_dir():
            self._pairs = _match_folders(path)
        else:
            self._pairs = _read_list(path) if path.suffix.lower() in LISTS else {}

    def items(self) -> list[str]:
        """Names of the pairs: of folders in natural order, of a list in its own."""
        return list(self._pairs)

    def label(self, item: str) -> str:
        return str(self._path(self._pairs[item].target))

    def files(self, item: str) -> list[Path]:
        pair = self._pairs[item]
        videos = [file for path in (pair.input, pair.target) for file in _files(self._path(path))]
        return videos + ([] if pair.mask is None else [self._path(pair.mask)])

    def count(self, item: str) -> int:
        path = self._path(self._pairs[item].target)
        return len(list_pictures(path)) if path.is_dir() else count_frames(path)

    def frames(self, item: str, pace: Pace) -> Iterator[Frame]:
        """As `Source`; both videos are read to their ends, whatever is taken.

        The frame rate is the target's; where that is a folder of pictures, the input's.

        Raises:
            ValueError: also if one video has more frames than the other.
        """
        pair = self._pairs[item]
        degraded, clean = self._path(pair.input), self._path(pair.target)
        rate = None if pace.fps is None else _rate(clean) or _rate(degraded)
        wanted = pace.numbers(rate, str(clean))
        number = next(wanted)
        masks: Pixels | None = None
        inputs = targets = 0
        for before, after in zip_longest(_frames(degraded), _frames(clean)):
            inputs, targets = inputs + (before is not None), targets + (after is not None)
            if before is None or after is None:
                continue  # to the end: the message has both numbers
            height, width = after.pixels.shape[:2]
            if pair.mask is not None and masks is None:
                masks = read_masks(self._path(pair.mask), (_length(clean), height, width))
            if after.number == number:
                yield Frame(
                    number,
                    after.pixels,
                    after.mask if masks is None else masks[number].copy(),
                    resize_frame(before.pixels, height, width, "stretch"),
                )
                number = next(wanted)
        if inputs != targets:
            raise ValueError(
                f"{degraded}: has {inputs} frames, its target {clean} has {targets}; "
                "expected the same number: cut one of them or remove the pair"
            )

    def _path(self, path: str) -> Path:
        return self.folder / path


# --- One video of a pair: a file, or a folder of pictures ------------------------------------------------


def _frames(path: Path) -> Iterator[Frame]:
    if path.is_dir():
        return picture_frames(path, Pace())
    return (Frame(number, pixels) for number, pixels in decode_frames(path, Pace()))


def _length(path: Path) -> int:
    """Frames that there are, not those that a header promises: a video is decoded for it."""
    return len(list_pictures(path)) if path.is_dir() else sum(1 for _ in decode_frames(path, Pace()))


def _rate(path: Path) -> float:
    return 0.0 if path.is_dir() else frame_rate(path)


def _files(path: Path) -> list[Path]:
    return list_pictures(path) + mask_files(path) if path.is_dir() else [path]


# --- Two folders -----------------------------------------------------------------------------------------


def _match_folders(folder: Path) -> dict[str, Pair]:
    if not ((folder / INPUT).is_dir() and (folder / TARGET).is_dir()):
        return {}
    inputs, targets = _videos_by_name(folder, INPUT), _videos_by_name(folder, TARGET)
    for side, other, videos, partners in ((INPUT, TARGET, inputs, targets), (TARGET, INPUT, targets, inputs)):
        alone = [name for name in videos if name not in partners]
        if alone:
            more = f" ({len(alone)} such videos)" if len(alone) > 1 else ""
            raise ValueError(
                f"{folder / videos[alone[0]]}: has no partner of its name in {folder / other}{more}; "
                f"add it, or remove this {side}"
            )
    return {name: Pair(inputs[name], targets[name], None) for name in inputs}


def _videos_by_name(folder: Path, side: str) -> dict[str, str]:
    """Path in `folder` of each video of one side, by its path there without the suffix of a video file.

    Pictures that lie in `input/` or `target/` itself are a video that is named as `folder` is.
    """
    found: dict[str, str] = {}
    for path, _, files in walk(folder / side):
        here = Path(path)  # '.' at the top
        videos = [(here / Path(file).stem, here / file) for file in files if _has_suffix(file, VIDEOS)]
        if any(_has_suffix(file, PICTURES) for file in files):
            videos.append((here, here))
        for key, video in videos:
            name = folder.absolute().name if key == Path(".") else str(key)
            if name in found:
                raise ValueError(
                    f"{folder / found[name]} and {folder / side / video}: two videos of one name; "
                    "rename or remove one of them"
                )
            found[name] = str(side / video)
    return found


# --- A list ----------------------------------------------------------------------------------------------


def _read_list(path: Path) -> dict[str, Pair]:
    rows = _read_csv(path) if path.suffix.lower() == ".csv" else _read_yaml(path)
    if not rows:
        raise ValueError(f"{path}: names no pairs; expected entries of {INPUT} and {TARGET}")
    pairs: dict[str, Pair] = {}
    places: dict[str, str] = {}
    for where, row in rows:
        pair = _pair(path.parent, f"{path}: {where}", row)
        full = os.path.abspath(path.parent / pair.input)
        if full in places:
            raise ValueError(f"{path}: {where}: has the same {INPUT} as {places[full]}; remove one of them")
        places[full] = where
        pairs[os.path.normpath(pair.input)] = pair
    return pairs


def _pair(folder: Path, where: str, row: object) -> Pair:
    if not isinstance(row, dict) or not {INPUT, TARGET} <= row.keys() <= {INPUT, TARGET, MASK}:
        raise ValueError(
            f"{where}: expected {INPUT}, {TARGET} and, if there is one, {MASK}, got {_shown(row)}"
        )
    for key, value in row.items():
        if key == MASK and value is None:
            continue
        if not isinstance(value, str) or not value.strip():
            raise ValueError(
                f"{where}: expected {key} to be a path, got {_shown(value)}; quote it if it is one"
            )
        there = folder / value
        if not os.path.exists(there):
            raise ValueError(
                f"{where}: {key} {str(there)!r} is not there; correct the path or remove the entry"
            )
        if key != MASK and not there.is_dir() and not _has_suffix(value, VIDEOS):
            raise ValueError(
                f"{where}: expected {key} to be a video file ({', '.join(VIDEOS)}) or a folder of pictures, "
                f"got {str(there)!r}"
            )
    return Pair(row[INPUT], row[TARGET], row.get(MASK))


def _read_yaml(path: Path) -> list[tuple[str, object]]:
    try:
        rows = yaml.safe_load(path.read_bytes())
    except UNREADABLE as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        place = "" if line is None else f" (line {line + 1})"
        raise ValueError(
            f"{path}: not readable YAML{place}; expected a list of {{input: path, target: path}}"
        ) from error
    if not isinstance(rows, list):
        raise ValueError(f"{path}: expected a list of {{input: path, target: path}}, got {_shown(rows)}")
    return [(f"entry {place + 1}", row) for place, row in enumerate(rows)]


def _read_csv(path: Path) -> list[tuple[str, object]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True, skipinitialspace=True)
            stripped = ([cell.strip() for cell in cells] for cells in reader)
            lines = [(reader.line_num, cells) for cells in stripped if any(cells)]
    except (csv.Error, ValueError) as error:  # ValueError: text that is not UTF-8
        raise ValueError(f"{path}: not readable CSV in UTF-8; expected the header input,target") from error
    header = lines[0][1] if lines else []
    if sorted(header) not in (sorted([INPUT, TARGET]), sorted([INPUT, TARGET, MASK])):
        raise ValueError(
            f"{path}: expected the header input,target or input,target,mask, got {_shown(','.join(header))}"
        )
    rows: list[tuple[str, object]] = []
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise ValueError(
                f"{path}: line {number}: expected {len(header)} values, as in the header, got {len(cells)}; "
                "quote a path that has a comma"
            )
        row = dict(zip(header, cells, strict=True))
        rows.append((f"line {number}", {key: value for key, value in row.items() if key != MASK or value}))
    return rows


def _has_suffix(name: str, suffixes: tuple[str, ...]) -> bool:
    return Path(name).suffix.lower() in suffixes


def _shown(value: object) -> str:
    text = reprlib.repr(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."
