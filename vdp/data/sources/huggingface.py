"""A source that is a data set of the Hugging Face `datasets` library; one row is one video.

The files are read as they lie: nothing is copied to the library's cache, nothing asks the network, and no
worker spends a second on importing `datasets`, which only the hub needs.
"""

import errno
import json
import re
import sys
import tempfile
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, takewhile
from pathlib import Path
from typing import ClassVar, Self

from pydantic import JsonValue

from vdp.data.sources.protocols import Frame, Pace
from vdp.data.sources.table_cells import (
    Cell,
    Columns,
    Stack,
    choose_columns,
    read_masks,
    read_pictures,
    stored_file,
)
from vdp.data.sources.table_files import UNREADABLE, open_table
from vdp.data.sources.walk import walk
from vdp.data.stores.clips import Pixels
from vdp.data.video.decode import decode_frames

# the names by which `datasets` knows the split of a file: a shard of it, or a known word among others
SHARD = re.compile(r"(.+)-[0-9]{5}-of-[0-9]{5}.*")
SPLIT = re.compile(
    r"(?:^|[-._ 0-9])(train|training|validation|valid|val|dev|test|testing|evaluation|eval)(?=$|[-._ 0-9])"
)
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
PROBE_SECONDS = 10.0


class HuggingFaceSource:
    """The rows of a saved `Dataset` or `DatasetDict`, of a folder of parquet files, or of a set of the hub.

    The videos are in the one column that is a Video, a list of Images (or of their bytes), or integers 0..255
    of shape (T, H, W, 3); of several, in the one named video, frames or images. A column mask or masks holds
    class ids, a list of gray Images or integers (T, H, W); it is null or empty for a video without. An item
    is named after its row, below its split where there are splits: row_000012, train/row_000012.

    Args:
        folder: what `save_to_disk` wrote, a folder with parquet files at any depth, or one parquet file.
            Parquet files are split by their names (train-00000-of-00002.parquet) or their folders' names.
    """

    expects: ClassVar[str] = "a Hugging Face data set (saved by save_to_disk, or parquet files)"
    precut: ClassVar[bool] = False

    def __init__(self, folder: Path) -> None:
        self.place = str(folder)
        self._hub: _Hub | None = None
        self._found: dict[str, _Split] | None = None  # looked for once; a worker is sent what was found

    @classmethod
    def from_hub(cls, name: str, config: str | None = None, revision: str | None = None) -> Self:
        """A data set of the hub; the first look at its items downloads it to the library's cache.

        Args:
            name: as the hub has it, user/name.
            config: one of its configurations, for a set that has several.
            revision: commit, tag or branch; None for the newest.
        """
        source = cls(Path(name))
        source._hub = _Hub(name, config, revision)
        return source

    def items(self) -> list[str]:
        """Names of the rows; none where the folder is no such data set.

        Raises:
            ValueError: if it is one and cannot be used as a whole; names it.
        """
        return [_item(name, row) for name, split in self._splits().items() for row in range(len(split))]

    def label(self, item: str) -> str:
        name, row = _parsed(item)
        return f"{self.place}, row {row}" + (f" of {name}" if name else "")

    def files(self, item: str) -> list[Path]:
        """The file that holds the row, and others; none for a set of the hub."""
        return [] if self._hub else [self._locate(item)[1]]

    def count(self, item: str) -> int:
        split, path, index = self._locate(item)
        if split.columns.kind == "video":
            return 0
        try:
            return open_table(path).list_length(index, split.columns.frames)
        except UNREADABLE:  # told when it is read
            return 0

    def frames(self, item: str, pace: Pace) -> Iterator[Frame]:
        """As `Source`. What is stored as arrays is checked as a whole before the first frame."""
        columns, label = self._locate(item)[0].columns, self.label(item)
        cells = self._cells(item, [columns.frames] + ([columns.masks] if columns.masks else []))
        if cells[0].is_null():
            raise ValueError(f"{cells[0].label}: is null, expected a video; remove the row")
        masks = read_masks(cells[1]) if columns.masks else None
        if columns.kind == "video":
            taken = _decoded(cells[0], item, pace)
        else:
            pictures = read_pictures(cells[0], columns.kind)
            if masks and masks.count != pictures.count:
                raise ValueError(
                    f"{label}: expected a mask for each picture, got {pictures.count} pictures and "
                    f"{masks.count} masks; remove the row"
                )
            numbers = takewhile(lambda n: n < pictures.count, pace.numbers(None, label))
            taken = ((number, pictures.read(number)) for number in numbers)
        yield from _matched(taken, masks, label)

    def _cells(self, item: str, columns: list[str]) -> list[Cell]:
        _, path, index = self._locate(item)
        label = self.label(item)
        try:
            arrays = open_table(path).row(index, columns)
        except UNREADABLE as error:
            raise ValueError(
                f"{label}: cannot be read from {path} ({_line(error)}); save the data set again"
            ) from error
        return [Cell(arrays[name], f"{label}, {name}", path.parent) for name in columns]

    def _splits(self) -> dict[str, "_Split"]:
        """Each split by its name; '' is the only one of a set without splits."""
        if self._found is None:
            files = _hub_files(self._hub) if self._hub else _local_files(Path(self.place))
            self._found = {
                name: _split(paths, f"{self.place}, {name}" if name else self.place)
                for name, paths in files.items()
                if paths  # a split without rows has no files
            }
        return self._found

    def _locate(self, item: str) -> tuple["_Split", Path, int]:
        """The split of a row, the file that holds it, and its place there."""
        name, row = _parsed(item)
        split = self._splits()[name]
        number = bisect_right(split.ends, row)
        return split, split.paths[number], row - (split.ends[number - 1] if number else 0)


@dataclass(frozen=True)
class _Hub:
    name: str
    config: str | None
    revision: str | None


@dataclass(frozen=True)
class _Split:
    """Rows that lie one file after another; `ends` are the rows up to and with each file."""

    paths: list[Path]
    ends: list[int]
    columns: Columns

    def __len__(self) -> int:
        return self.ends[-1]


def _item(split: str, row: int) -> str:
    return f"{split}/row_{row:06d}" if split else f"row_{row:06d}"


def _parsed(item: str) -> tuple[str, int]:
    split, _, row = item.rpartition("/")
    return split, int(row.removeprefix("row_"))


# --- The frames of a row ---------------------------------------------------------------------------------


def _decoded(cell: Cell, item: str, pace: Pace) -> Iterator[tuple[int, Pixels]]:
    """Frames of a video file, which lies beside the table or in it."""
    stored = stored_file(cell.array[0], cell.label, cell.folder)
    if isinstance(stored, Path):
        yield from _renamed(stored, pace, f"{cell.label}: {stored}")
        return
    # the item is in its name: a complaint on stderr gives no other
    with tempfile.NamedTemporaryFile(prefix=item.replace("/", "_") + "_", suffix=".mp4") as file:
        file.write(stored)
        file.flush()
        yield from _renamed(Path(file.name), pace, cell.label)


def _renamed(path: Path, pace: Pace, label: str) -> Iterator[tuple[int, Pixels]]:
    try:
        yield from decode_frames(path, pace)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), label)) from error


def _matched(taken: Iterator[tuple[int, Pixels]], masks: Stack | None, label: str) -> Iterator[Frame]:
    """Frames with their masks; all are of one size."""
    size: tuple[int, ...] | None = None
    for number, pixels in taken:
        size = size or pixels.shape
        if pixels.shape != size:
            raise ValueError(
                f"{label}: expected pictures of one size, {size[1]}x{size[0]}, got {pixels.shape[1]}x"
                f"{pixels.shape[0]} at {number}; resize it or remove the row"
            )
        mask = None
        if masks is not None:
            if number >= masks.count:
                raise ValueError(
                    f"{label}: expected a mask for each frame, got {masks.count} masks; remove the row"
                )
            mask = masks.read(number)
            if mask.shape != size[:2]:
                raise ValueError(
                    f"{label}: expected masks of the frames' size, {size[1]}x{size[0]}, got {mask.shape[1]}x"
                    f"{mask.shape[0]} at {number}; resize it or remove the row"
                )
        yield Frame(number, pixels, mask)


# --- The files of a set ----------------------------------------------------------------------------------


def _split(paths: list[Path], name: str) -> _Split:
    """Opens each file once, for its number of rows and its columns."""
    counts: list[int] = []
    columns: Columns | None = None
    for path in paths:
        rows, found = _looked_into(path, name)
        columns = columns or found
        if found != columns:
            raise ValueError(
                f"{path}: expected the videos in column {columns.frames}, as in {paths[0]}, found them in "
                f"{found.frames}; name a folder that holds one data set"
            )
        counts.append(rows)
    assert columns is not None, "a split has files"
    return _Split(paths, list(accumulate(counts)), columns)


def _looked_into(path: Path, name: str) -> tuple[int, Columns]:
    """Number of rows of a file, and its columns."""
    try:
        table = open_table(path)
    except UNREADABLE as error:
        kind = "parquet" if _is_parquet(path) else "Arrow"
        raise ValueError(
            f"{path}: not a readable {kind} file ({_line(error)}); save the data set again"
        ) from error
    try:
        return table.num_rows, choose_columns(table.schema, name)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: a column's name is not text; save the data set again") from error


def _local_files(folder: Path) -> dict[str, list[Path]]:
    """Files of each split, in their order; empty for a folder of another kind."""
    if folder.is_file():
        return {"": [folder]} if _is_parquet(folder) else {}
    if (folder / "dataset_dict.json").is_file():
        names = _listed(folder / "dataset_dict.json", "splits")
        if not all(isinstance(name, str) for name in names):
            raise ValueError(
                f"{folder / 'dataset_dict.json'}: expected names of splits; save it again with save_to_disk"
            )
        return {str(name): _saved_files(folder / str(name)) for name in names}
    saved = all((folder / name).is_file() for name in ("state.json", "dataset_info.json"))
    if saved or next(folder.glob("*.arrow"), None):
        return {"": _saved_files(folder)}
    splits: dict[str, list[Path]] = {}
    for path, _, files in walk(folder):
        for name in filter(_is_parquet, map(Path, files)):
            splits.setdefault(_split_name(Path(path) / name), []).append(folder / path / name)
    if "" in splits and len(splits) > 1:
        named = next(paths[0] for name, paths in splits.items() if name)
        raise ValueError(
            f"{splits[''][0]}: belongs to no split, as {named} does; name each file after one "
            "(train-00000-of-00001.parquet), or remove it"
        )
    return splits


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _split_name(path: Path) -> str:
    """The split that the path of a parquet file tells of, '' for none."""
    shard = SHARD.fullmatch(path.stem)
    if shard and SPLIT.search(shard[1]):  # all of it: train_small-00000-of-00001 is not train
        return shard[1]
    for part in (path.stem, *reversed(path.parent.parts)):
        if word := SPLIT.search(part):
            return word[1]
    return shard[1] if shard else ""


def _saved_files(folder: Path) -> list[Path]:
    """The Arrow files that `Dataset.save_to_disk` lists."""
    entries = _listed(folder / "state.json", "_data_files")
    return [folder / str(entry.get("filename") if isinstance(entry, dict) else entry) for entry in entries]


def _listed(path: Path, key: str) -> list[JsonValue]:
    """A list in a JSON file that `save_to_disk` wrote."""
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "not a file")  # a pipe would be waited for
        found = json.loads(path.read_bytes())[key]
    except OSError as error:
        raise ValueError(
            f"{path}: expected in a saved data set, cannot be read ({error.strerror}); "
            "save it again with save_to_disk"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise ValueError(f"{path}: expected a list {key}; save the data set again with save_to_disk")
    return found


def _hub_files(hub: _Hub) -> dict[str, list[Path]]:
    """Files of each split in the library's cache, downloaded where they are not there yet."""
    if not HUB_NAME.fullmatch(hub.name):
        raise ValueError(f"{hub.name}: expected the name of a data set of the hub, user/name")
    try:
        import datasets
        from huggingface_hub import HfApi, constants
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise ValueError(f"{hub.name}: the hub needs a package; pip install datasets") from error
    quiet = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        if not constants.HF_HUB_OFFLINE:
            # asked once: the library itself goes on trying for half a minute
            HfApi().dataset_info(hub.name, revision=hub.revision, timeout=PROBE_SECONDS)
            sys.stderr.write(f"{hub.name}: from the hub, kept in {datasets.config.HF_DATASETS_CACHE}\n")
        # hf:// never means a folder that happens to have this name
        splits = datasets.load_dataset(
            f"hf://datasets/{hub.name}", hub.config, revision=hub.revision, keep_in_memory=False
        )
    # the bases: errors of the HTTP library below the hub's client, which has changed between its versions
    except (
        OSError,
        ValueError,
        RuntimeError,
        datasets.exceptions.DatasetsError,
        *HfHubHTTPError.__bases__,
    ) as error:
        raise ValueError(
            f"{hub.name}: not loaded from the Hugging Face hub ({_line(error)}); check the name, the network "
            "and your access (hf auth login), or load it elsewhere, save_to_disk it and name that folder"
        ) from error
    finally:
        if not quiet:
            datasets.enable_progress_bars()
    return {name: [Path(file["filename"]) for file in split.cache_files] for name, split in splits.items()}


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
