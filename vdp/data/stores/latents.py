"""Encoded clips: raw float16 latents on disk, normalised per channel when read, only in this module.

A split's folder holds `manifest.json` and `latents_000.npy` (n, V, T, C, h, w) with V views of each clip: the
clip itself and its augmented views. With degraded clips there is `conditions_000.npy` (n, D, T, C, h, w)
beside it: D degraded forms of each clip, form d of view d % V. With a motion model there is
`composed_000.npy` (n, V, T - K, C, h, w): the frames after the first K, composed of objects that the motion
model moved on from these; zeros for clips without masks, which the manifest does not list. With the base
optical_flow these frames are moved by optical flow, of every clip. `statistics.json` beside the splits has
the per-channel mean and standard deviation of the clean latents.
T counts latent frames; the manifest names the codec's temporal factor if they are not frames.
"""

import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vdp.core.files import replacing
from vdp.core.latent_time import EVERY_FRAME, LatentTime
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
        # in one layout: the order of a sum, and its rounding, is that of the memory
        wide = np.ascontiguousarray(np.moveaxis(latents, 2, 0), dtype=np.float64)
        self.count += wide[0].size
        self.total += wide.sum(axis=(1, 2, 3, 4))
        self.squares += np.square(wide).sum(axis=(1, 2, 3, 4))

    def normalisation(self) -> Normalisation:
        """Return the statistics so far; raise a ValueError if a channel is constant."""
        mean = self.total / max(self.count, 1)
        variance = self.squares / max(self.count, 1) - mean**2
        if not (variance > 1e-12).all():
            raise ValueError("latents: a channel is constant over all clips; train the codec for longer")
        return Normalisation(tuple(map(float, mean)), tuple(map(float, np.sqrt(variance))))


@dataclass(frozen=True)
class EncodedClip:
    """Raw latents of a clip, (V, T, C, h, w) of V views; the other parts may be missing."""

    views: Half
    degraded: Half | None = None  # (D, T, C, h, w)
    composed: Half | None = None  # (V, T - K, C, h, w)

    @property
    def arrays(self) -> dict[str, Half]:
        """By the name of their files."""
        named = {"latents": self.views, "conditions": self.degraded, "composed": self.composed}
        return {name: array for name, array in named.items() if array is not None}


def write_latents(
    folder: Path,
    clips: Iterable[EncodedClip],
    shard_mb: int,
    known: int,
    temporal_factor: int = 1,
    flow_decay: float | None = None,
) -> None:
    """Write a split's encoded clips to shards of at most `shard_mb` MiB, replacing `folder` at the end.

    Args:
        clips: one at a time. All or none have degraded forms; any may be composed.
        known: context frames of a clip, from which the others are composed.
        temporal_factor: frames per latent frame, after the first.
        flow_decay: of frames that are composed by optical flow; None for those of a motion model.
    """
    counts: list[int] = []
    pending: list[EncodedClip] = []
    degraded, composed = 0, list[int]()
    with replacing(folder) as part:

        def flush() -> None:
            number = len(counts)
            blank = next((clip.composed for clip in pending if clip.composed is not None), None)
            if blank is not None:  # a shard has a row for each of its clips
                empty = np.zeros_like(blank)
                pending[:] = [
                    clip if clip.composed is not None else replace(clip, composed=empty) for clip in pending
                ]
            for name in pending[0].arrays:
                np.save(part / f"{name}_{number:03d}.npy", np.stack([clip.arrays[name] for clip in pending]))
            counts.append(len(pending))
            pending.clear()

        for number, clip in enumerate(clips):
            size = sum(array.nbytes for array in clip.arrays.values())
            if pending and (len(pending) + 1) * size > shard_mb * 2**20:
                flush()
            pending.append(clip)
            degraded = 0 if clip.degraded is None else len(clip.degraded)
            composed += [number] if clip.composed is not None else []
        if pending:
            flush()
        manifest: dict[str, object] = {"shards": counts} | ({"degraded": degraded} if degraded else {})
        if composed:
            manifest |= {"composed": composed, "composed_from": known}
            manifest |= {} if flow_decay is None else {"flow_decay": flow_decay}
        if temporal_factor > 1:
            manifest |= {"temporal_factor": temporal_factor, "known": known}
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
        num_frames: latent frames of a clip, T.
        time: which latent frame codes a frame.
        channels: channels of a latent, C.
        size: height and width of a latent, h and w.
        degraded: degraded forms of each clip, D.
        composed: numbers of the clips with composed frames.
        composed_from: frames of a clip from which the others are composed, K; None where none is.
        flow_decay: decay of the optical flow by which they are composed; None with a motion model.

    Raises:
        FileNotFoundError: if none of the splits was encoded, or a file of one is missing.
        ValueError: if the splits are of different runs, or a file is incomplete.
    """

    def __init__(self, root: Path, splits: Sequence[str]) -> None:
        self.normalisation = read_statistics(root)
        self._paths: list[Path] = []
        counts: list[int] = []
        degraded: set[int] = set()
        self.composed: list[int] = []
        self.composed_from: int | None = None
        self.flow_decay: float | None = None
        self.time = EVERY_FRAME
        for split in splits:
            path = root / split / MANIFEST
            if path.is_file():
                manifest = json.loads(path.read_text())
                shards = manifest["shards"]
                self.composed += [sum(counts) + clip for clip in manifest.get("composed", [])]
                self.composed_from = manifest.get("composed_from", self.composed_from)
                self.flow_decay = manifest.get("flow_decay", self.flow_decay)
                if "temporal_factor" in manifest:
                    self.time = LatentTime(manifest["temporal_factor"], manifest["known"])
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
        self._starts = list(accumulate(counts, initial=0))
        self._conditions = [
            self._sibling(path, "conditions") for path in (self._paths if self.degraded else [])
        ]
        for path in [*self._paths, *self._conditions, *self._composed_paths(self.composed)]:
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such file; run `dvc repro --force encode_latents`")
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

    def read_composed(
        self, clips: Sequence[int], views: Sequence[int], frames: Sequence[Sequence[int]]
    ) -> Tensor:
        """As `read`, of composed frames: frame numbers from `composed_from` on, of clips in `composed`."""
        first = self.composed_from or 0
        steps = [[frame - first for frame in chosen] for chosen in frames]
        return self._read([self._sibling(path, "composed") for path in self._paths], clips, views, steps)

    def _composed_paths(self, clips: Sequence[int]) -> list[Path]:
        shards = sorted({self._locate(clip)[0] for clip in clips})
        return [self._sibling(self._paths[shard], "composed") for shard in shards]

    @staticmethod
    def _sibling(path: Path, kind: str) -> Path:
        return path.with_name(path.name.replace("latents", kind))

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
