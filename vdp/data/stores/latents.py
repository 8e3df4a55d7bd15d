"""Encoded clips: raw float16 latents on disk, normalised per channel when read, only in this module.

A split's folder holds `manifest.json` and `latents_000.npy` (n, V, T, C, h, w) with V views of each clip: the
clip itself and its augmented views. With degraded clips there is `conditions_000.npy` (n, D, T, C, h, w)
beside it: D degraded forms of each clip, form d of view d % V. `statistics.json` beside the splits has the
per-channel mean and standard deviation of the clean latents.
"""

import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, repeat
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vdp.core.files import replacing
from vdp.data.stores.memory_map import MemoryMaps

MANIFEST = "manifest.json"
STATISTICS = "statistics.json"

Half = NDArray[np.float16]


@dataclass(frozen=True)
class Normalisation:
    """Per-channel mean and standard deviation of raw latents."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, latents: Tensor) -> Tensor:
        """Normalise raw latents (B, C, T, h, w) to unit variance per channel."""
        return (latents - self._column(self.mean, latents)) / self._column(self.std, latents)

    def invert(self, latents: Tensor) -> Tensor:
        """Turn normalised latents (B, C, T, h, w) into raw ones, which the codec decodes."""
        return latents * self._column(self.std, latents) + self._column(self.mean, latents)

    @staticmethod
    def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=like.device)[:, None, None, None]


class Moments:
    """Running sums for the per-channel mean and standard deviation."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.total = np.zeros(channels)
        self.squares = np.zeros(channels)

    def add(self, latents: Half) -> None:
        wide = latents.astype(np.float64)
        self.count += wide.size // wide.shape[2]
        self.total += wide.sum(axis=(0, 1, 3, 4))
        self.squares += np.square(wide).sum(axis=(0, 1, 3, 4))

    def normalisation(self) -> Normalisation:
        """Return the statistics so far; raise a ValueError if a channel is constant."""
        mean = self.total / max(self.count, 1)
        variance = self.squares / max(self.count, 1) - mean**2
        if not (variance > 1e-12).all():
            raise ValueError("latents: a channel is constant over all clips; train the codec for longer")
        return Normalisation(tuple(map(float, mean)), tuple(map(float, np.sqrt(variance))))


def write_latents(
    folder: Path, clips: Iterable[Half], shard_mb: int, conditions: Iterable[Half] | None = None
) -> None:
    """Write one split's latents, under a temporary name first.

    Args:
        folder: of the split; replaced if it exists.
        clips: each (V, T, C, h, w).
        shard_mb: maximum size of a shard, in MiB of all its files; a shard holds at least one clip.
        conditions: degraded forms of each clip, (D, T, C, h, w); None for none.
    """
    counts: list[int] = []
    pending: list[tuple[Half, Half | None]] = []
    degraded = 0
    with replacing(folder) as part:

        def flush() -> None:
            number = len(counts)
            np.save(part / f"latents_{number:03d}.npy", np.stack([clip for clip, _ in pending]))
            forms = [condition for _, condition in pending if condition is not None]
            if forms:
                np.save(part / f"conditions_{number:03d}.npy", np.stack(forms))
            counts.append(len(pending))
            pending.clear()

        for clip, condition in zip(clips, repeat(None) if conditions is None else conditions, strict=False):
            size = clip.nbytes + (0 if condition is None else condition.nbytes)
            if pending and (len(pending) + 1) * size > shard_mb * 2**20:
                flush()
            pending.append((clip, condition))
            degraded = 0 if condition is None else len(condition)
        if pending:
            flush()
        manifest = {"shards": counts} | ({"degraded": degraded} if degraded else {})
        (part / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def write_statistics(root: Path, normalisation: Normalisation) -> None:
    """Write the normalisation beside the splits."""
    text = json.dumps({"mean": normalisation.mean, "std": normalisation.std}, indent=2) + "\n"
    (root / STATISTICS).write_text(text)


def read_statistics(root: Path) -> Normalisation:
    """Read the normalisation that `write_statistics` wrote."""
    values = json.loads((root / STATISTICS).read_text())
    return Normalisation(tuple(values["mean"]), tuple(values["std"]))


class LatentClips:
    """Normalised latents of some splits, memory-mapped; splits that were not encoded are skipped.

    Attributes:
        views: views of each clip, V.
        num_frames: frames of a clip, T.
        channels: channels of a latent, C.
        size: height and width of a latent, h and w.
        degraded: degraded forms of each clip, D.

    Raises:
        FileNotFoundError: if none of the splits was encoded, or a file of one is missing.
        ValueError: if the splits are of different runs, or a file is incomplete.
    """

    def __init__(self, root: Path, splits: Sequence[str]) -> None:
        self.normalisation = read_statistics(root)
        self._paths: list[Path] = []
        counts: list[int] = []
        degraded: set[int] = set()
        for split in splits:
            path = root / split / MANIFEST
            if path.is_file():
                manifest = json.loads(path.read_text())
                shards = manifest["shards"]
                self._paths += [root / split / f"latents_{i:03d}.npy" for i in range(len(shards))]
                counts += shards
                degraded |= {manifest.get("degraded", 0)} if shards else set()
        if not self._paths:
            raise FileNotFoundError(
                f"{root}: no latents of {', '.join(splits)}; run `dvc repro encode_latents`"
            )
        if len(degraded) > 1:
            raise ValueError(
                f"{root}: {' and '.join(splits)} have different numbers of degraded forms; "
                "run `dvc repro --force encode_latents`"
            )
        self.degraded: int = next(iter(degraded), 0)
        self._conditions = [
            path.with_name(path.name.replace("latents", "conditions"))
            for path in (self._paths if self.degraded else [])
        ]
        for path in [*self._paths, *self._conditions]:
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such file; run `dvc repro --force encode_latents`")
        self._starts = list(accumulate(counts, initial=0))
        self._maps = MemoryMaps()
        _, self.views, self.num_frames, self.channels, height, width = self._map(self._paths[0]).shape
        self.size = (height, width)

    def __len__(self) -> int:
        return self._starts[-1]

    def name(self, clip: int) -> str:
        """Name of a clip: its split and its number there, such as 'train clip 12'."""
        split = self._paths[self._locate(clip)[0]].parent
        first = next(number for number, path in enumerate(self._paths) if path.parent == split)
        return f"{split.name} clip {clip - self._starts[first]}"

    def read(self, clips: Sequence[int], views: Sequence[int], frames: Sequence[Sequence[int]]) -> Tensor:
        """Read normalised latents (B, C, T, h, w) of B clips, a view of each, and B x T frame numbers."""
        return self._read(self._paths, clips, views, frames)

    def read_conditions(
        self, clips: Sequence[int], forms: Sequence[int], frames: Sequence[Sequence[int]]
    ) -> Tensor:
        """As `read`, of degraded clips: B clips, a form of each, B x T frame numbers."""
        if not self.degraded:
            raise ValueError(
                "encode_latents.degraded=0: there are no degraded clips to restore; "
                "set it to 1 or more and run `dvc repro encode_latents`"
            )
        return self._read(self._conditions, clips, forms, frames)

    def _read(
        self,
        paths: Sequence[Path],
        clips: Sequence[int],
        forms: Sequence[int],
        frames: Sequence[Sequence[int]],
    ) -> Tensor:
        rows = []
        for clip, form, chosen in zip(clips, forms, frames, strict=True):
            shard, row = self._locate(clip)
            rows.append(self._map(paths[shard])[row, form][list(chosen)])
        raw = torch.from_numpy(np.stack(rows)).float().transpose(1, 2)
        return self.normalisation.apply(raw)

    def _locate(self, clip: int) -> tuple[int, int]:
        shard = bisect_right(self._starts, clip) - 1
        return shard, clip - self._starts[shard]

    def _map(self, path: Path) -> Half:
        try:
            return np.asarray(self._maps[path])  # indexing an np.memmap takes several times as long
        except (ValueError, EOFError) as error:  # numpy does not name the file
            raise ValueError(f"{path}: {error}; run `dvc repro --force encode_latents`") from None
