"""The clip store: clips of one split as a few large uint8 arrays on disk, and a manifest.

A folder holds `manifest.json`, `frames_000.npy` (n, T, H, W, 3) and, for labelled shards, `masks_000.npy`
(n, T, H, W). All clips of a shard have the same number of frames and are all labelled or all not; labelled
shards come first, longer clips before shorter. Arrays are memory-mapped, so a set may be larger than memory.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from vdp.classes import NUM_CLASSES
from vdp.files import replacing

MANIFEST = "manifest.json"
FORMAT = 1

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Clip:
    """One clip: a name unique in its split, frames (T, H, W, 3) RGB, and class ids (T, H, W) or None."""

    name: str
    frames: Pixels
    masks: Pixels | None


class ClipStore:
    """The clips of one split, read from a folder that `write_clips` wrote.

    Index order is the manifest's: labelled clips first, each group in the order it was written.

    Raises:
        FileNotFoundError: if the folder holds no clip store.
        ValueError: if its format is not the one this version reads.
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
        shards = manifest["shards"]
        self.names: list[str] = [name for shard in shards for name in shard["names"]]
        self._lengths: list[int] = [shard["frames"] for shard in shards]
        self._labelled: list[bool] = [shard["labelled"] for shard in shards]
        self._place = [(s, row) for s, shard in enumerate(shards) for row in range(len(shard["names"]))]
        self._open: dict[str, Pixels] = {}

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, object]:
        """A worker opens its own maps: only the manifest travels to it."""
        return {**self.__dict__, "_open": {}}

    @property
    def labelled(self) -> NDArray[np.int64]:
        """Indices of the clips that have masks, ascending."""
        return np.array([i for i, (s, _) in enumerate(self._place) if self._labelled[s]], dtype=np.int64)

    def num_frames(self, index: int) -> int:
        """Number of frames of clip `index`."""
        return self._lengths[self._place[index][0]]

    def frames(self, index: int) -> Pixels:
        """Frames of clip `index`, (T, H, W, 3) uint8 RGB: a read-only view into the memory map."""
        shard, row = self._place[index]
        return self._map(frames_file(shard))[row]

    def masks(self, index: int) -> Pixels:
        """Class ids of clip `index`, (T, H, W) uint8: a read-only view into the memory map.

        Raises:
            ValueError: if the clip is not labelled.
        """
        shard, row = self._place[index]
        if not self._labelled[shard]:
            raise ValueError(
                f"{self.folder}: clip {self.names[index]} has no masks; take indices from ClipStore.labelled"
            )
        return self._map(masks_file(shard))[row]

    def clip(self, index: int) -> Clip:
        """Clip `index` as it was written."""
        masks = self.masks(index) if self._labelled[self._place[index][0]] else None
        return Clip(self.names[index], self.frames(index), masks)

    def _map(self, name: str) -> Pixels:
        if name not in self._open:
            self._open[name] = np.load(self.folder / name, mmap_mode="r")
        return self._open[name]


def write_clips(folder: Path, clips: Iterable[Clip], shard_mb: int) -> ClipStore:
    """Write clips to a new store at `folder`, one clip in memory at a time; equal clips give equal bytes.

    Args:
        folder: replaced as a whole when, and only when, every clip has been written.
        clips: any mix of labelled and unlabelled clips of one height and width.
        shard_mb: size at which a shard is closed, in MiB of frames; a shard holds one clip at least.

    Raises:
        ValueError: if there are no clips, two have one name, or an array has the wrong shape or type.
    """
    folder = Path(folder)
    with replacing(folder) as part:
        shards: dict[tuple[bool, int], list[_Shard]] = {}
        names: set[str] = set()
        size: tuple[int, int] | None = None
        try:
            for clip in clips:
                size = size or (clip.frames.shape[1], clip.frames.shape[2])
                _check(clip, names, size)
                names.add(clip.name)
                group = shards.setdefault((clip.masks is not None, len(clip.frames)), [])
                if not group or group[-1].nbytes + clip.frames.nbytes > shard_mb * 2**20:
                    if group:
                        group[-1].close()
                    group.append(_Shard(part, f"{len(clip.frames)}_{len(group)}", clip))
                group[-1].append(clip)
        finally:
            for group in shards.values():
                group[-1].close()
        if size is None:
            raise ValueError(f"{folder}: no clips to write; check the source folder in params.yaml")

        ordered = [shard for key in sorted(shards, key=_labelled_and_long_first) for shard in shards[key]]
        for number, shard in enumerate(ordered):
            shard.rename(number)
        manifest = {
            "format": FORMAT,
            "height": size[0],
            "width": size[1],
            "shards": [{"labelled": s.labelled, "frames": s.frames, "names": s.names} for s in ordered],
        }
        (part / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return ClipStore(folder)


def existing_stores(root: Path, splits: Sequence[str]) -> list[ClipStore]:
    """Stores of those splits under `root` (data/clips) that the params give a source for."""
    return [ClipStore(root / split) for split in splits if (root / split / MANIFEST).is_file()]


def test_sets(root: Path) -> dict[str, Path]:
    """Name and folder of each test set under `root` (data/clips), in the order of their names."""
    folder = Path(root) / "test"
    if not folder.is_dir():
        return {}
    return {path.name: path for path in sorted(folder.iterdir()) if (path / MANIFEST).is_file()}


# pytest takes a function by its prefix: this one is no test wherever it is imported
test_sets.__test__ = False  # type: ignore[attr-defined]


def frames_file(shard: int) -> str:
    """File name of the frames of a shard."""
    return f"frames_{shard:03d}.npy"


def masks_file(shard: int) -> str:
    """File name of the masks of a shard."""
    return f"masks_{shard:03d}.npy"


class _Shard:
    """A .npy pair that grows clip by clip."""

    def __init__(self, folder: Path, name: str, first: Clip) -> None:
        self.folder, self.frames, self.labelled = folder, len(first.frames), first.masks is not None
        self.names: list[str] = []
        self.nbytes = 0
        self._frames = _GrowingArray(folder / f"part_frames_{self.labelled:d}_{name}", first.frames.shape)
        self._masks = (
            _GrowingArray(folder / f"part_masks_{name}", first.masks.shape)
            if first.masks is not None
            else None
        )

    def append(self, clip: Clip) -> None:
        self.names.append(clip.name)
        self.nbytes += clip.frames.nbytes
        self._frames.append(clip.frames)
        if self._masks and clip.masks is not None:
            self._masks.append(clip.masks)

    def close(self) -> None:
        self._frames.close()
        if self._masks:
            self._masks.close()

    def rename(self, number: int) -> None:
        self._frames.path.rename(self.folder / frames_file(number))
        if self._masks:
            self._masks.path.rename(self.folder / masks_file(number))


class _GrowingArray:
    """A uint8 .npy file whose first axis is known only at the end: the header is written again on closing."""

    def __init__(self, path: Path, item: tuple[int, ...]) -> None:
        self.path, self.item, self.length = path, item, 0
        self.file: BinaryIO = path.open("wb")
        self._header()

    def append(self, array: Pixels) -> None:
        self.file.write(np.ascontiguousarray(array).data)
        self.length += 1

    def close(self) -> None:
        if not self.file.closed:
            self.file.seek(0)
            self._header()
            self.file.close()

    def _header(self) -> None:
        """numpy pads the header for a first axis of up to 21 digits, so its size does not change."""
        shape = (self.length, *self.item)
        np.lib.format.write_array_header_1_0(
            self.file, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )


def _labelled_and_long_first(key: tuple[bool, int]) -> tuple[bool, int]:
    labelled, frames = key
    return not labelled, -frames


def _check(clip: Clip, names: set[str], size: tuple[int, int]) -> None:
    expected = (len(clip.frames), *size, 3)
    if clip.frames.dtype != np.uint8 or clip.frames.shape != expected or not len(clip.frames):
        raise ValueError(
            f"clip {clip.name}: expected uint8 frames of shape (T, {size[0]}, {size[1]}, 3), "
            f"got {clip.frames.dtype} {clip.frames.shape}"
        )
    if clip.name in names:
        raise ValueError(f"clip {clip.name}: two clips have this name; rename one of their files")
    if clip.masks is None:
        return
    if clip.masks.dtype != np.uint8 or clip.masks.shape != expected[:3]:
        raise ValueError(
            f"clip {clip.name}: expected uint8 masks of shape {expected[:3]}, "
            f"got {clip.masks.dtype} {clip.masks.shape}"
        )
    if clip.masks.max() >= NUM_CLASSES:
        raise ValueError(f"clip {clip.name}: expected class ids 0..{NUM_CLASSES - 1}, got {clip.masks.max()}")
