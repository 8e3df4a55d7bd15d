"""Source of a data set of the Hugging Face `datasets` library; each row is one video.

Files are read in place: nothing is copied to the library's cache, and only the hub needs the network and
imports `datasets`.
"""

import errno
import json
import re
import sys
import tempfile
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, takewhile
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

from pydantic import JsonValue

from vdp.data.sources.messages import check_size, joined
from vdp.data.sources.pairs import fit_to_target, paired_frames
from vdp.data.sources.protocols import Frame, Pace
from vdp.data.sources.table_cells import Cell, Columns, Stack, choose_columns, read_masks, read_pictures
from vdp.data.sources.table_files import UNREADABLE, open_table
from vdp.data.sources.walk import list_folder, walk
from vdp.data.video.decode import decode_frames

# how `datasets` finds the split of a file: a shard of it, or a known word among others
SHARD = re.compile(r"(.+)-[0-9]{5}-of-[0-9]{5}.*")
SPLIT = re.compile(
    r"(?:^|[-._ 0-9])(train|training|validation|valid|val|dev|test|testing|evaluation|eval)(?=$|[-._ 0-9])"
)
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
PROBE_SECONDS = 10.0


class HuggingFaceSource:
    """The rows of a saved `Dataset` or `DatasetDict`, of a folder of parquet files, or of a set of the hub.

    Videos are in the one column of Video, lists of Images (or of their bytes), or integers 0..255 of shape
    (T, H, W, 3); of several such columns, in the one named video, frames or images. A column mask or masks
    holds class ids, a list of gray Images or integers (T, H, W), null or empty for a video without. Two such
    columns input and target are pairs, whatever else there is: degraded videos, which become
    `Frame.condition`, resized, and clean ones. Items are row_000012, or train/row_000012 if there are splits.

    `folder` is written by `save_to_disk`, or holds parquet files at any depth, or is one parquet file. The
    split of a parquet file is in its name (train-00000-of-00002.parquet) or the name of its folder.
    """

    layout: ClassVar[str] = "a Hugging Face data set (saved by save_to_disk, or parquet files)"
    precut: ClassVar[bool] = False

    def __init__(self, folder: Path) -> None:
        self.place = str(folder)
        self._hub: _Hub | None = None
        self._found: dict[str, _Split] | None = None  # by name, '' without splits; searched once, pickled

    @classmethod
    def from_hub(cls, name: str, config: str | None = None, revision: str | None = None) -> Self:
        """Build a data set of the hub (user/name), downloaded to the library's cache by the first `items`.

        `config` is one of several configurations, `revision` a commit, tag or branch (None: the newest).
        """
        source = cls(Path(name))
        source._hub = _Hub(name, config, revision)
        return source

    def items(self) -> list[str]:
        """Names of the rows; empty if the folder is no such data set."""
        rows = ((f"{name}/" if name else "", split.ends[-1]) for name, split in self._splits().items())
        return [f"{prefix}row_{row:06d}" for prefix, count in rows for row in range(count)]

    def label(self, item: str) -> str:
        name, row = _parse(item)
        return f"{self.place}, row {row}" + (f" of {name}" if name else "")

    def files(self, item: str) -> list[Path]:
        """The file that holds the row; none for a set of the hub."""
        return [] if self._hub else [self._locate(item)[1]]

    def count(self, item: str) -> int:
        split, path, index = self._locate(item)
        if split.columns.kind == "video":
            return 0
        try:
            return open_table(path).list_length(index, split.columns.frames)
        except UNREADABLE:  # reported when it is read
            return 0

    def frames(self, item: str, pace: Pace) -> Iterator[Frame]:
        """As `Source`. Arrays are checked before the first frame."""
        label = self.label(item)
        split, path, index = self._locate(item)
        columns = split.columns
        try:
            row = open_table(path).row(index, columns.names)
        except UNREADABLE as error:
            raise ValueError(
                f"{label}: cannot be read from {path} ({joined(error)}); save the data set again"
            ) from error
        cells = {name: Cell(row[name], f"{label}, {name}", path.parent) for name in columns.names}
        clean = cells[columns.frames]
        before = cells[columns.degraded] if columns.degraded else None
        for cell in (before, clean):
            if cell and cell.array.null_count:
                raise ValueError(f"{cell.label}: is null, expected a video; remove the row")
        masks = read_masks(cells[columns.masks]) if columns.masks else None
        if columns.kind == "video":
            decoded = _decode_pair(before, clean, item, pace) if before else _decode_video(clean, item, pace)
            yield from _match(decoded, masks, label)
            return
        pictures = read_pictures(clean, columns.kind)
        degraded = read_pictures(before, columns.kind) if before else None
        for other, name in ((masks, "mask"), (degraded, "input")):
            if other and other.count != pictures.count:
                raise ValueError(
                    f"{label}: expected one {name} per picture, got {pictures.count} pictures and "
                    f"{other.count} {name}s; remove the row"
                )
        numbers = takewhile(lambda n: n < pictures.count, pace.numbers(label))
        yield from _match((_read_frame(pictures, degraded, number) for number in numbers), masks, label)

    def _splits(self) -> "dict[str, _Split]":
        if self._found is None:
            files = _hub_files(self._hub) if self._hub else _local_files(Path(self.place))
            self._found = {
                name: _open_split(paths, f"{self.place}, {name}" if name else self.place)
                for name, paths in files.items()
                if paths  # a split without rows has no files
            }
        return self._found

    def _locate(self, item: str) -> "tuple[_Split, Path, int]":
        name, row = _parse(item)
        split = self._splits()[name]
        number = bisect_right(split.ends, row)
        return split, split.paths[number], row - (split.ends[number - 1] if number else 0)


class _Hub(NamedTuple):
    name: str
    config: str | None
    revision: str | None


@dataclass(frozen=True)
class _Split:
    paths: list[Path]
    ends: list[int]  # cumulative rows of the files
    columns: Columns


def _parse(item: str) -> tuple[str, int]:
    split, _, row = item.rpartition("/")
    return split, int(row.removeprefix("row_"))


# --- The frames of a row ---------------------------------------------------------------------------------


def _read_frame(pictures: Stack, degraded: Stack | None, number: int) -> Frame:
    pixels = pictures.read(number)
    condition = None if degraded is None else fit_to_target(degraded.read(number), pixels)
    return Frame(number, pixels, condition=condition)


def _decode_video(cell: Cell, item: str, pace: Pace) -> Iterator[Frame]:
    """Decode a video file beside the table or in it."""
    with _video_file(cell, item) as file, _named(file):
        for number, pixels in decode_frames(file.path, pace):
            yield Frame(number, pixels)


def _decode_pair(degraded: Cell, clean: Cell, item: str, pace: Pace) -> Iterator[Frame]:
    """Decode two video files of one length."""
    with _video_file(degraded, item) as before, _video_file(clean, item) as after, _named(before, after):
        for shown, target in paired_frames(before.path, after.path, pace):
            yield Frame(target.number, target.pixels, condition=fit_to_target(shown.pixels, target.pixels))


class _VideoFile(NamedTuple):
    path: Path
    name: str  # in messages


@contextmanager
def _video_file(cell: Cell, item: str) -> Iterator[_VideoFile]:
    """Find a video file beside the table, or write one that is stored in it."""
    stored = cell.file(cell.array[0], cell.label)
    if isinstance(stored, Path):
        yield _VideoFile(stored, f"{cell.label}: {stored}")
        return
    # the item is in the name of the file, which the decoder prints on stderr
    with tempfile.NamedTemporaryFile(prefix=item.replace("/", "_") + "_", suffix=".mp4") as file:
        file.write(stored)
        file.flush()
        yield _VideoFile(Path(file.name), cell.label)


@contextmanager
def _named(*files: _VideoFile) -> Iterator[None]:
    """Replace the paths of files in the message of an error by their names."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        for file in files:
            text = text.replace(str(file.path), file.name)
        raise ValueError(text) from error


def _match(frames: Iterator[Frame], masks: Stack | None, label: str) -> Iterator[Frame]:
    """Add the masks of frames, and check that all have one size."""
    size: tuple[int, ...] = ()
    for frame in frames:
        number = frame.number
        size = size or frame.pixels.shape
        check_size(f"{label}, picture {number}", frame.pixels.shape, size)
        if masks is not None and number >= masks.count:
            raise ValueError(f"{label}: expected one mask per frame, got {masks.count} masks; remove the row")
        mask = None if masks is None else masks.read(number)
        if mask is not None:
            check_size(f"{label}, mask {number}", mask.shape, size)
        yield replace(frame, mask=mask)


# --- The files of a set ----------------------------------------------------------------------------------


def _open_split(paths: list[Path], name: str) -> _Split:
    """Open each file once, for its number of rows and its columns."""
    counts: list[int] = []
    found: list[Columns] = []
    names: list[list[str]] = []
    for path in paths:
        try:
            table = open_table(path)
        except UNREADABLE as error:
            kind = "parquet" if _is_parquet(path) else "Arrow"
            raise ValueError(
                f"{path}: not a readable {kind} file ({joined(error)}); save the data set again"
            ) from error
        try:
            found.append(choose_columns(table.schema, str(path) if found else name))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: the name of a column is not text; save the data set again") from error
        names.append(table.schema.names)
        if found[-1] != found[0]:
            raise ValueError(
                f"{path}: expected {found[0]}, as {paths[0]} with its columns {', '.join(names[0])}; got "
                f"{found[-1]}, with {', '.join(names[-1])}; name a folder that holds one data set"
            )
        counts.append(table.num_rows)
    return _Split(paths, list(accumulate(counts)), found[0])


def _local_files(folder: Path) -> dict[str, list[Path]]:
    """Ordered files of each split; empty for a folder of another kind."""
    if folder.is_file():
        return {"": [folder]} if _is_parquet(folder) else {}
    if (folder / "dataset_dict.json").is_file():
        names = _read_list(folder / "dataset_dict.json", "splits")
        if not all(isinstance(name, str) for name in names):
            raise ValueError(
                f"{folder / 'dataset_dict.json'}: expected names of splits; save it again with save_to_disk"
            )
        return {str(name): _saved_files(folder / str(name)) for name in names}
    saved = all((folder / name).is_file() for name in ("state.json", "dataset_info.json"))
    if saved or (folder.is_dir() and any(name.endswith(".arrow") for name in list_folder(folder)[1])):
        return {"": _saved_files(folder)}
    splits: dict[str, list[Path]] = {}
    for path, _, files in walk(folder):
        for name in filter(_is_parquet, map(Path, files)):
            splits.setdefault(_split_name(Path(path) / name), []).append(folder / path / name)
    if "" in splits and len(splits) > 1:
        named = next(paths[0] for name, paths in splits.items() if name)
        raise ValueError(
            f"{splits[''][0]}: no split in its name, unlike {named}; name each file after its split "
            "(train-00000-of-00001.parquet), or remove it"
        )
    return splits


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _split_name(path: Path) -> str:
    """Split in the path of a parquet file, '' for none."""
    shard = SHARD.fullmatch(path.stem)
    if shard and SPLIT.search(shard[1]):  # the whole of it: train_small-00000-of-00001 is not train
        return shard[1]
    for part in (path.stem, *reversed(path.parent.parts)):
        if word := SPLIT.search(part):
            return word[1]
    return shard[1] if shard else ""


def _saved_files(folder: Path) -> list[Path]:
    """Arrow files listed by `Dataset.save_to_disk`."""
    entries = _read_list(folder / "state.json", "_data_files")
    return [folder / str(entry.get("filename") if isinstance(entry, dict) else entry) for entry in entries]


def _read_list(path: Path, key: str) -> list[JsonValue]:
    """Read a list in a JSON file of `save_to_disk`."""
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "not a file")  # opening a pipe would block
        found = json.loads(path.read_bytes())[key]
    except OSError as error:
        raise ValueError(
            f"{path}: part of a saved data set, cannot be read ({error.strerror}); "
            "save it again with save_to_disk"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise ValueError(f"{path}: expected a list {key}; save the data set again with save_to_disk")
    return found


def _hub_files(hub: _Hub) -> dict[str, list[Path]]:
    """Files of each split in the library's cache, downloaded if missing."""
    if not HUB_NAME.fullmatch(hub.name):
        raise ValueError(f"{hub.name}: expected the name of a data set of the hub, user/name")
    try:
        import datasets
        from huggingface_hub import HfApi, constants
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise ValueError(f"{hub.name}: the hub requires a package; pip install datasets") from error
    quiet = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        if not constants.HF_HUB_OFFLINE:
            # one request with a timeout: the library retries for half a minute
            HfApi().dataset_info(hub.name, revision=hub.revision, timeout=PROBE_SECONDS)
            sys.stderr.write(f"{hub.name}: from the hub, cached in {datasets.config.HF_DATASETS_CACHE}\n")
        # hf:// is never a local folder of this name
        url = f"hf://datasets/{hub.name}"
        splits = datasets.load_dataset(url, hub.config, revision=hub.revision, keep_in_memory=False)
    # the bases of HfHubHTTPError: errors of the HTTP library, which differs between versions of the client
    except (
        OSError,
        ValueError,
        RuntimeError,
        datasets.exceptions.DatasetsError,
        *HfHubHTTPError.__bases__,
    ) as error:
        raise ValueError(
            f"{hub.name}: not loaded from the Hugging Face hub ({joined(error)}); check the name, network "
            "and access (hf auth login), or load it elsewhere, save_to_disk it and name that folder"
        ) from error
    finally:
        if not quiet:
            datasets.enable_progress_bars()
    return {name: [Path(file["filename"]) for file in split.cache_files] for name, split in splits.items()}
