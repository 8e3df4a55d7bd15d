"""Source of pairs of videos for restoration: a degraded input and its clean target.

Pairs are given by a folder with `input/` and `target/` that hold the same names, or by a list: YAML

    - {input: noisy/a.mp4, target: clean/a.mp4}
    - {input: noisy/b, target: clean/b, mask: masks/b.npy}

or CSV with the header `input,target` or `input,target,mask`; paths are relative to the list. Each video is a
file or a folder of pictures. A mask is a .npy file of the target's class ids, uint8 (T, H, W).
"""

import csv
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import ClassVar

import yaml

from vdp.data.sources.images import is_picture, list_pictures, mask_files, picture_frames
from vdp.data.sources.messages import shown
from vdp.data.sources.protocols import Frame, Pace
from vdp.data.sources.walk import walk
from vdp.data.stores.clips import Pixels
from vdp.data.video.clip_frames import ClipFrame
from vdp.data.video.decode import clip_frames, estimate_frames, frame_rate
from vdp.data.video.discover import SHOWN, is_clip_file
from vdp.data.video.picture import read_masks
from vdp.data.video.resize import resize_frame

INPUT, TARGET, MASK = "input", "target", "mask"
LISTS = (".yaml", ".yml", ".csv")
HEADERS = ([INPUT, TARGET], [INPUT, MASK, TARGET])  # sorted
# raised by PyYAML itself and by its conversions of text to other types: a month 13, `!!bool x`
UNREADABLE = (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError, ArithmeticError)


@dataclass(frozen=True)
class Pair:
    """Paths of the two videos and of the target's masks, relative to the source's folder or absolute."""

    input: str
    target: str
    mask: str | None


class PairSource:
    """Pairs of a folder with `input/` and `target/`, or of a list; `Frame.condition` is the input's frame.

    An item is named after the pair in the two folders, without suffix, or after its input in the list. Inputs
    are resized to their targets.
    """

    layout: ClassVar[str] = (
        "pairs of videos: folders input and target that hold the same names, "
        "or a list of pairs (yaml or csv: input, target)"
    )
    precut: ClassVar[bool] = False

    def __init__(self, path: Path) -> None:
        self.folder = path if path.is_dir() else path.parent
        # read here, to find a mistake before decoding
        self._pairs: dict[str, Pair] = {}
        if path.is_dir() or _has_suffix(path, LISTS):
            self._pairs = _match_folders(path) if path.is_dir() else _read_list(path)

    def items(self) -> list[str]:
        """Names of the pairs, in the order of the list if there is one."""
        return list(self._pairs)

    def label(self, item: str) -> str:
        return str(self.folder / self._pairs[item].target)

    def files(self, item: str) -> list[Path]:
        pair = self._pairs[item]
        files = [] if pair.mask is None else [self.folder / pair.mask]
        for path in (self.folder / pair.target, self.folder / pair.input):
            files = (list_pictures(path) + mask_files(path) if path.is_dir() else [path]) + files
        return files

    def count(self, item: str) -> int:
        path = self.folder / self._pairs[item].target
        return len(list_pictures(path)) if path.is_dir() else estimate_frames(path)

    def frames(self, item: str, pace: Pace) -> Iterator[Frame]:
        """As `Source`, at the target's frame rate, or the input's if the target is a folder of pictures.

        Both videos are decoded to their ends, since they must have the same length.
        """
        pair = self._pairs[item]
        clean = self.folder / pair.target
        masks: Pixels | None = None
        for before, target in paired_frames(self.folder / pair.input, clean, pace):
            height, width = target.pixels.shape[:2]
            if pair.mask is not None and masks is None:
                # headers may be wrong: a video is decoded for its length
                length = len(list_pictures(clean)) if clean.is_dir() else sum(1 for _ in _frames(clean))
                masks = read_masks(self.folder / pair.mask, (length, height, width))
            mask = target.mask if masks is None else masks[target.number].copy()
            yield Frame(target.number, target.pixels, mask, fit_to_target(before.pixels, target.pixels))


def paired_frames(degraded: Path, clean: Path, pace: Pace) -> Iterator[tuple[Frame, Frame]]:
    """Yield the selected frames of two videos of one length, those of `degraded` first in each pair.

    Raises:
        ValueError: for videos that cannot be read or differ in length.
    """
    if pace.fps is not None:
        pace = pace.within(_rate(clean) or _rate(degraded), str(clean))
    timed = degraded if clean.is_dir() else clean
    for before, after in pace.select(_both(degraded, clean), lambda both: both[timed == clean].time):
        target = after.read()
        yield before.read(), target


def fit_to_target(condition: Pixels, target: Pixels) -> Pixels:
    """Resize a degraded frame to its target."""
    height, width = target.shape[:2]
    return resize_frame(condition, height, width, "stretch")


@dataclass(frozen=True)
class _Timed:
    """A frame of one side, decoded by `read`."""

    time: float  # seconds; of pictures, which have none, their number
    read: Callable[[], Frame]


def _both(degraded: Path, clean: Path) -> Iterator[tuple[_Timed, _Timed]]:
    """Yield the frames of two videos together; raise a ValueError at the end if one is longer."""
    inputs = targets = 0
    for before, after in zip_longest(_frames(degraded), _frames(clean)):
        inputs, targets = inputs + (before is not None), targets + (after is not None)
        if before is not None and after is not None:  # else to the end: the message gives both lengths
            yield before, after
    if inputs != targets:
        raise ValueError(
            f"{degraded}: has {inputs} frames, its target {clean} has {targets}; "
            "expected equal lengths: cut one of them or remove the pair"
        )


def _frames(path: Path) -> Iterator[_Timed]:
    if path.is_dir():
        for picture in picture_frames(path, Pace()):
            yield _Timed(picture.number, partial(_same, picture))
    else:
        for frame in clip_frames(path):
            yield _Timed(frame.time, partial(_read, frame))


def _same(frame: Frame) -> Frame:
    return frame


def _read(frame: ClipFrame) -> Frame:
    return Frame(frame.number, frame.read())


def _rate(path: Path) -> float:
    return 0.0 if path.is_dir() else frame_rate(path)


def _has_suffix(path: str | Path, suffixes: tuple[str, ...]) -> bool:
    return Path(path).suffix.lower() in suffixes


# --- Two folders -----------------------------------------------------------------------------------------


def _match_folders(folder: Path) -> dict[str, Pair]:
    if not ((folder / INPUT).is_dir() and (folder / TARGET).is_dir()):
        return {}
    inputs, targets = _videos_by_name(folder, INPUT), _videos_by_name(folder, TARGET)
    for side, other, videos, partners in ((INPUT, TARGET, inputs, targets), (TARGET, INPUT, targets, inputs)):
        unmatched = [name for name in videos if name not in partners]
        if unmatched:
            more = f" ({len(unmatched)} such videos)" if len(unmatched) > 1 else ""
            raise ValueError(
                f"{folder / videos[unmatched[0]]}: no video of the same name in {folder / other}{more}; "
                f"add it, or remove this {side}"
            )
    return {name: Pair(inputs[name], targets[name], None) for name in inputs}


def _videos_by_name(folder: Path, side: str) -> dict[str, str]:
    """Path of each video of one side, by its name; pictures in `side` itself are named after `folder`."""
    found: dict[str, str] = {}
    for path, _, files in walk(folder / side):
        here = Path(path)  # '.' at the top
        found_here = [file for file in files if is_clip_file(folder / side / here / file)]
        videos = [(here / Path(file).stem, here / file) for file in found_here]
        if any(map(is_picture, files)):
            videos.append((here, here))
        for key, video in videos:
            name = folder.absolute().name if key == Path(".") else str(key)
            if name in found:
                raise ValueError(
                    f"{folder / found[name]} and {folder / side / video}: two videos of the same name; "
                    "rename or remove one of them"
                )
            found[name] = str(side / video)
    return found


# --- A list ----------------------------------------------------------------------------------------------


def _read_list(path: Path) -> dict[str, Pair]:
    rows = _read_csv(path) if _has_suffix(path, (".csv",)) else _read_yaml(path)
    if not rows:
        raise ValueError(f"{path}: no pairs; expected entries with {INPUT} and {TARGET}")
    pairs: dict[str, Pair] = {}
    seen: dict[str, str] = {}
    for where, row in rows:
        pair = _check_pair(path.parent, f"{path}: {where}", row)
        full = os.path.abspath(path.parent / pair.input)
        if full in seen:
            raise ValueError(f"{path}: {where}: has the same {INPUT} as {seen[full]}; remove one of them")
        seen[full] = where
        pairs[os.path.normpath(pair.input)] = pair
    return pairs


def _check_pair(folder: Path, where: str, row: object) -> Pair:
    if not isinstance(row, dict) or not {INPUT, TARGET} <= row.keys() <= {INPUT, TARGET, MASK}:
        raise ValueError(f"{where}: expected {INPUT}, {TARGET} and optionally {MASK}, got {shown(row)}")
    for key, value in row.items():
        if key == MASK and value is None:
            continue
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{where}: {key}={shown(value)}: expected a path; quote it if it is one")
        path = folder / value
        if not os.path.exists(path):
            raise ValueError(f"{where}: {key} {str(path)!r} not found; correct the path or remove the entry")
        if key != MASK and not path.is_dir() and not is_clip_file(path):
            raise ValueError(
                f"{where}: {key} {str(path)!r}: expected a video file ({SHOWN}) or a folder of pictures"
            )
    return Pair(row[INPUT], row[TARGET], row.get(MASK))


def _read_yaml(path: Path) -> list[tuple[str, object]]:
    try:
        rows = yaml.safe_load(path.read_bytes())
    except UNREADABLE as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f" (line {line + 1})"
        raise ValueError(
            f"{path}: not readable YAML{where}; expected a list of {{input: path, target: path}}"
        ) from error
    if not isinstance(rows, list):
        raise ValueError(f"{path}: expected a list of {{input: path, target: path}}, got {shown(rows)}")
    return [(f"entry {number}", row) for number, row in enumerate(rows, 1)]


def _read_csv(path: Path) -> list[tuple[str, object]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True, skipinitialspace=True)
            stripped = ([cell.strip() for cell in cells] for cells in reader)
            lines = [(reader.line_num, cells) for cells in stripped if any(cells)]
    except (csv.Error, ValueError) as error:  # ValueError: text that is not UTF-8
        raise ValueError(f"{path}: not readable CSV in UTF-8; expected the header input,target") from error
    header = lines[0][1] if lines else []
    if sorted(header) not in HEADERS:
        raise ValueError(
            f"{path}: expected the header input,target or input,target,mask, got {shown(','.join(header))}"
        )
    rows: list[tuple[str, object]] = []
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise ValueError(
                f"{path}: line {number}: expected {len(header)} values, as in the header, got {len(cells)}; "
                "quote a path that contains a comma"
            )
        row = dict(zip(header, cells, strict=True))
        rows.append((f"line {number}", {key: value for key, value in row.items() if key != MASK or value}))
    return rows
