"""The clip store: clips of one split as a few large uint8 arrays on disk, and a manifest.

A folder holds `manifest.json` and, for each shard, `frames_000.npy` (n, T, H, W, 3), `names_000.npy` and,
where its clips have them, `masks_000.npy` (n, T, H, W) and `conditions_000.npy` (n, T, H, W, 3), the degraded
frames. All clips of a shard have the same length and parts; labelled shards come first, then those with
conditions, longer clips before shorter. Arrays are memory-mapped; memory does not grow with the number of
clips.
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from vdp.core.classes import NUM_CLASSES
from vdp.core.files import replacing
from vdp.data.stores.memory_map import MemoryMaps

MANIFEST = "manifest.json"
FORMAT = 2

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Clip:
    """One clip.

    Attributes:
        name: unique in its split.
        frames: (T, H, W, 3) uint8 RGB.
        masks: class ids (T, H, W) uint8, or None.
        conditions: (T, H, W, 3) uint8 RGB, the degraded frames that `frames` restore, or None.
    """

    name: str
    frames: Pixels
    masks: Pixels | None = None
    conditions: Pixels | None = None


@dataclass
class Shard:
    """Contents of a shard: whether its clips have masks and conditions, their length and their names."""

    labelled: bool
    paired: bool
    frames: int
    names: list[str]

    @property
    def kind(self) -> tuple[bool, bool, int]:
        """Properties that all clips of a shard share."""
        return self.labelled, self.paired, self.frames

    @property
    def parts(self) -> list[str]:
        """Names of the shard's arrays, which are prefixes of its files."""
        return ["frames"] + ["masks"] * self.labelled + ["conditions"] * self.paired


class ClipStore:
    """The clips of one split, read from a folder that `write_clips` or an extraction wrote.

    Labelled clips come first; within each group the order is that of writing.

    Raises:
        FileNotFoundError: if the folder holds no clip store.
        ValueError: if the store has another format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(
                f"{self.folder}: no clips here ({MANIFEST} is missing); run `dvc repro extract_frames`"
            )
        manifest = json.loads(path.read_text())
        if manifest.get("format") != FORMAT:
            raise ValueError(
                f"{path}: expected format {FORMAT}, got {manifest.get('format')}; "
                "run `dvc repro --force extract_frames`"
            )
        self.height: int = manifest["height"]
        self.width: int = manifest["width"]
        self.skipped: list[dict[str, str]] = manifest["skipped"]  # skipped videos: video, reason
        # files and frames that are in no clip: name, reason, frames (0: the whole file)
        self.left_out: list[dict[str, str | int]] = manifest.get("left_out", [])
        self.source: str = manifest["source"]  # hash of the source's files, '' if unknown
        shards = manifest["shards"]
        self._lengths: list[int] = [shard["frames"] for shard in shards]
        self._paired: list[bool] = [shard["paired"] for shard in shards]
        self._starts = np.cumsum([0, *(shard["clips"] for shard in shards)])
        self.num_labelled: int = sum(shard["clips"] for shard in shards if shard["labelled"])
        self._maps = MemoryMaps()

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def names(self) -> list[str]:
        """Names of all clips, read from disk."""
        return [self.name(index) for index in range(len(self))]

    @property
    def labelled(self) -> range:
        """Indices of the clips that have masks: the first ones."""
        return range(self.num_labelled)

    @property
    def paired(self) -> NDArray[np.int64]:
        """Indices of the clips that have conditions, ascending."""
        parts = [np.arange(*self._starts[s : s + 2]) for s, paired in enumerate(self._paired) if paired]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def name(self, index: int) -> str:
        shard, row = self._locate(index)
        return bytes(self._map("names", shard)[row]).decode()

    def num_frames(self, index: int) -> int:
        return self._lengths[self._locate(index)[0]]

    def lengths(self) -> list[int]:
        """Distinct numbers of frames of the clips, ascending."""
        return sorted(set(self._lengths))

    def frames(self, index: int) -> Pixels:
        """Frames of clip `index`, (T, H, W, 3) uint8 RGB: a read-only view into the memory map."""
        shard, row = self._locate(index)
        return self._map("frames", shard)[row]

    def masks(self, index: int) -> Pixels:
        """Class ids of clip `index`, (T, H, W) uint8, read-only; a ValueError if it is not labelled."""
        shard, row = self._locate(index)
        if index >= self.num_labelled:
            raise ValueError(
                f"{self.folder}: clip {self.name(index)} has no masks; take indices from ClipStore.labelled"
            )
        return self._map("masks", shard)[row]

    def conditions(self, index: int) -> Pixels:
        """Degraded frames of clip `index`, (T, H, W, 3) uint8 RGB, read-only; a ValueError if it has none."""
        shard, row = self._locate(index)
        if not self._paired[shard]:
            raise ValueError(
                f"{self.folder}: clip {self.name(index)} has no degraded frames; "
                "take indices from ClipStore.paired"
            )
        return self._map("conditions", shard)[row]

    def clip(self, index: int) -> Clip:
        """Clip `index` with all its parts."""
        shard, _ = self._locate(index)
        return Clip(
            self.name(index),
            self.frames(index),
            self.masks(index) if index < self.num_labelled else None,
            self.conditions(index) if self._paired[shard] else None,
        )

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.folder}: expected a clip of 0..{len(self) - 1}, got {index}")
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return shard, index - int(self._starts[shard])

    def _map(self, part: str, shard: int) -> Pixels:
        return self._maps[self.folder / shard_file(part, shard)]


def existing_stores(root: Path, splits: Sequence[str]) -> list[ClipStore]:
    """Stores under `root` (data/clips) of those splits that have one."""
    return [ClipStore(root / split) for split in splits if (root / split / MANIFEST).is_file()]


def list_test_sets(root: Path) -> dict[str, Path]:
    """Name and folder of each test set under `root` (data/clips), sorted by name."""
    folder = Path(root) / "test"
    if not folder.is_dir():
        return {}
    return {path.name: path for path in sorted(folder.iterdir()) if (path / MANIFEST).is_file()}


def shard_file(part: str, shard: int) -> str:
    """File name of one part of a shard: `frames`, `masks`, `conditions` or `names`."""
    return f"{part}_{shard:03d}.npy"


def write_clips(folder: Path, clips: Iterable[Clip], shard_mb: int) -> ClipStore:
    """Write clips to a new store at `folder`, one clip in memory at a time; equal clips give equal bytes.

    Args:
        folder: replaced as a whole when every clip has been written.
        clips: of one height and width; any mix of lengths, with and without masks and conditions.
        shard_mb: maximum size of a shard, in MiB of frames; a shard holds at least one clip.

    Raises:
        ValueError: if there are no clips, two have one name, or an array has the wrong shape or type.
    """
    folder = Path(folder)
    with replacing(folder) as part:
        parts = part / "parts"
        parts.mkdir()
        writer = ShardWriter(parts, shard_mb)
        try:
            for clip in clips:
                writer.append(clip)
        finally:
            writer.close()
        if writer.size is None:
            raise ValueError(f"{folder}: no clips to write; check the source folder in params.yaml")
        join_shards(part, [(parts, writer.shards)], writer.size, skipped=[], source="")
        parts.rmdir()
    return ClipStore(folder)


def join_shards(
    folder: Path,
    groups: Sequence[tuple[Path, Sequence[Shard]]],
    size: tuple[int, int],
    skipped: Sequence[Mapping[str, str]],
    source: str,
    left_out: Sequence[Mapping[str, str | int]] = (),
) -> None:
    """Build a clip store in `folder` from the shards of several writers; their files are moved.

    Args:
        folder: exists, without a store.
        groups: folder and shards of each writer; clips keep this order within each kind.
        size: height and width of the clips, in pixels.
        skipped: `video` and `reason` of each skipped video.
        source: hash of the source's files, or ''.
        left_out: `name`, `reason` and number of `frames` of what is in no clip.
    """
    found = [(where, number, shard) for where, shards in groups for number, shard in enumerate(shards)]
    found.sort(key=lambda entry: (not entry[2].labelled, not entry[2].paired, -entry[2].frames))
    for index, (where, number, shard) in enumerate(found):
        for part in shard.parts:
            # not renamed: the folder may be a link to another disk
            shutil.move(where / shard_file(part, number), folder / shard_file(part, index))
        np.save(folder / shard_file("names", index), np.array([name.encode() for name in shard.names]))
    manifest: dict[str, JsonValue] = {
        "format": FORMAT,
        "height": size[0],
        "width": size[1],
        "shards": [
            {"labelled": s.labelled, "paired": s.paired, "frames": s.frames, "clips": len(s.names)}
            for _, _, s in found
        ],
        "skipped": [dict(entry) for entry in skipped],
        "source": source,
    }
    if left_out:
        manifest["left_out"] = [dict(entry) for entry in left_out]
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


class ShardWriter:
    """Write clips to shards in a folder, with a rollback that also works after the process was killed.

    A writer can continue the `shards` of another one: it deletes clips beyond them, and raises a ValueError
    if the files hold fewer.
    """

    def __init__(self, folder: Path, shard_mb: int, shards: Iterable[Shard] = ()) -> None:
        self.folder = folder
        self.shard_bytes = shard_mb * 2**20
        self.shards = list(shards)
        self.size: tuple[int, int] | None = None
        self._arrays: dict[int, list[_GrowingArray]] = {}  # of the shards that are open
        self.rollback(self.mark())
        if self.shards:
            height, width = np.load(folder / shard_file("frames", 0), mmap_mode="r").shape[2:4]
            self.size = (height, width)

    def append(self, clip: Clip) -> bool:
        """Write a clip; return whether it begins a new shard."""
        self.size = self.size or (clip.frames.shape[1], clip.frames.shape[2])
        _check(clip, self._names, self.size)
        kind = (clip.masks is not None, clip.conditions is not None, len(clip.frames))
        # only the last shard of a kind may have room
        number = next((n for n, s in reversed([*enumerate(self.shards)]) if s.kind == kind), None)
        full = number is None or (len(self.shards[number].names) + 1) * clip.frames.nbytes > self.shard_bytes
        if number is None or full:
            if number is not None:
                self._close(number)
            number = len(self.shards)
            self.shards.append(Shard(*kind, names=[]))
        parts = [part for part in (clip.frames, clip.masks, clip.conditions) if part is not None]
        for array, part in zip(self._open(number), parts, strict=True):
            array.append(part)
        self.shards[number].names.append(clip.name)
        self._names.add(clip.name)
        return full

    def mark(self) -> list[int]:
        """Flush all files and return a position for `rollback`."""
        for arrays in self._arrays.values():
            for array in arrays:
                array.file.flush()
        return [len(shard.names) for shard in self.shards]

    def rollback(self, mark: Sequence[int]) -> None:
        """Remove every clip that was written since `mark`; raise a ValueError if fewer are on disk."""
        self.close()
        del self.shards[len(mark) :]
        for shard, kept in zip(self.shards, mark, strict=False):
            del shard.names[kept:]
        self._names = {name for shard in self.shards for name in shard.names}
        names = {shard_file(part, n) for n, shard in enumerate(self.shards) for part in shard.parts}
        for path in self.folder.glob("*.npy"):
            if path.name not in names:
                path.unlink()
        for number, shard in enumerate(self.shards):
            for part in shard.parts:
                _truncate(self.folder / shard_file(part, number), len(shard.names))

    def close(self) -> None:
        """Complete the files of all shards."""
        for number in list(self._arrays):
            self._close(number)

    def _open(self, number: int) -> list["_GrowingArray"]:
        if number not in self._arrays:
            shard = self.shards[number]
            assert self.size is not None
            items = {"frames": (*self.size, 3), "masks": self.size, "conditions": (*self.size, 3)}
            paths = {part: self.folder / shard_file(part, number) for part in shard.parts}
            self._arrays[number] = [
                _GrowingArray(path, (shard.frames, *items[part]), len(shard.names))
                for part, path in paths.items()
            ]
        return self._arrays[number]

    def _close(self, number: int) -> None:
        for array in self._arrays.pop(number, []):
            array.close()


class _GrowingArray:
    """A uint8 .npy file that grows along its first axis; closing rewrites the header."""

    def __init__(self, path: Path, item: tuple[int, ...], length: int) -> None:
        self.item, self.length = item, length
        self.file: BinaryIO = path.open("r+b" if length else "wb")
        _write_header(self.file, (length, *item))
        self.file.seek(0, 2)

    def append(self, array: Pixels) -> None:
        self.file.write(np.ascontiguousarray(array).data)
        self.length += 1

    def close(self) -> None:
        _write_header(self.file, (self.length, *self.item))
        self.file.close()


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """Write the header of a .npy file; its size is fixed, as numpy pads it for any first axis."""
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _truncate(path: Path, length: int) -> None:
    """Shorten a .npy file to `length` items; the header of a killed writer may count too few."""
    try:
        with path.open("r+b") as file:
            np.lib.format.read_magic(file)
            (_, *item), _, _ = np.lib.format.read_array_header_1_0(file)
            end = file.tell() + length * int(np.prod(item))
            if path.stat().st_size < end:
                raise ValueError(f"{path}: shorter than expected")
            file.truncate(end)
            _write_header(file, (length, *item))
    except FileNotFoundError:
        raise ValueError(f"{path}: missing") from None


def _check(clip: Clip, names: set[str], size: tuple[int, int]) -> None:
    expected = (len(clip.frames), *size, 3)
    if clip.frames.dtype != np.uint8 or clip.frames.shape != expected or not len(clip.frames):
        raise ValueError(
            f"clip {clip.name}: expected uint8 frames of shape (T, {size[0]}, {size[1]}, 3), "
            f"got {clip.frames.dtype} {clip.frames.shape}"
        )
    if clip.name in names:
        raise ValueError(f"clip {clip.name}: two clips have this name; rename one of their files")
    parts = (("conditions", clip.conditions, expected), ("masks", clip.masks, expected[:3]))
    for part, array, shape in parts:
        if array is not None and (array.dtype != np.uint8 or array.shape != shape):
            raise ValueError(
                f"clip {clip.name}: expected uint8 {part} of shape {shape}, got {array.dtype} {array.shape}"
            )
    if clip.masks is not None and clip.masks.max() >= NUM_CLASSES:
        raise ValueError(f"clip {clip.name}: expected class ids 0..{NUM_CLASSES - 1}, got {clip.masks.max()}")
