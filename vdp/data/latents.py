"""Encoded clips: raw latents on disk as float16 shards, normalised per channel in one place, here, when read.

A split's folder holds `manifest.json` and `latents_000.npy` (n, V, T, C, h, w) with V views of each clip: as
it is, and further ones where the augmentation asks for them. `statistics.json` beside the splits has the
per-channel mean and standard deviation.
"""

import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vdp.data.maps import Maps
from vdp.files import replacing

MANIFEST = "manifest.json"
STATISTICS = "statistics.json"

Half = NDArray[np.float16]


@dataclass(frozen=True)
class Normalisation:
    """Per-channel mean and standard deviation of raw latents; the only place where they are applied."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, latents: Tensor) -> Tensor:
        """Raw latents (B, C, T, h, w) to unit variance per channel."""
        return (latents - self._column(self.mean, latents)) / self._column(self.std, latents)

    def invert(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, C, T, h, w) to what the codec decodes."""
        return latents * self._column(self.std, latents) + self._column(self.mean, latents)

    @staticmethod
    def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=like.device)[:, None, None, None]


class Moments:
    """Running sums from which the per-channel mean and standard deviation follow."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.total = np.zeros(channels)
        self.squares = np.zeros(channels)

    def add(self, latents: Half) -> None:
        """Take in latents (V, T, C, h, w)."""
        wide = latents.astype(np.float64)
        self.count += wide.size // wide.shape[2]
        self.total += wide.sum(axis=(0, 1, 3, 4))
        self.squares += np.square(wide).sum(axis=(0, 1, 3, 4))

    def normalisation(self) -> Normalisation:
        """The statistics so far.

        Raises:
            ValueError: if a channel never varies, so that it cannot be normalised.
        """
        mean = self.total / max(self.count, 1)
        variance = self.squares / max(self.count, 1) - mean**2
        if not (variance > 1e-12).all():
            raise ValueError("latents: a channel is constant over all clips; train the codec for longer")
        return Normalisation(tuple(map(float, mean)), tuple(map(float, np.sqrt(variance))))


def write_latents(folder: Path, clips: Iterable[Half], shard_mb: int) -> None:
    """Write one split's latents, each clip (V, T, C, h, w), in shards; built aside, renamed as a whole."""
    counts: list[int] = []
    held: list[Half] = []
    with replacing(folder) as part:

        def close() -> None:
            np.save(part / f"latents_{len(counts):03d}.npy", np.stack(held))
            counts.append(len(held))
            held.clear()

        for clip in clips:
            if held and (len(held) + 1) * clip.nbytes > shard_mb * 2**20:
                close()
            held.append(clip)
        if held:
            close()
        (part / MANIFEST).write_text(json.dumps({"shards": counts}, indent=2) + "\n")


def write_statistics(root: Path, normalisation: Normalisation) -> None:
    """Write the normalisation beside the splits."""
    text = json.dumps({"mean": normalisation.mean, "std": normalisation.std}, indent=2) + "\n"
    (root / STATISTICS).write_text(text)


def read_statistics(root: Path) -> Normalisation:
    """Read the normalisation that `write_statistics` wrote."""
    values = json.loads((root / STATISTICS).read_text())
    return Normalisation(tuple(values["mean"]), tuple(values["std"]))


class LatentClips:
    """Normalised latents of some splits, memory-mapped; splits that were not encoded are passed over.

    Nothing is kept in memory for each clip, and another process opens the maps itself.

    Raises:
        FileNotFoundError: if none of the splits was encoded, or a file of one is missing.
        ValueError: when a file is read that is not whole.
    """

    def __init__(self, root: Path, splits: Sequence[str]) -> None:
        self.normalisation = read_statistics(root)
        self._paths: list[Path] = []
        counts: list[int] = []
        for split in splits:
            manifest = root / split / MANIFEST
            if manifest.is_file():
                shards = json.loads(manifest.read_text())["shards"]
                self._paths += [root / split / f"latents_{i:03d}.npy" for i in range(len(shards))]
                counts += shards
        if not self._paths:
            raise FileNotFoundError(
                f"{root}: no latents of {', '.join(splits)}; run `dvc repro encode_latents`"
            )
        for path in self._paths:
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such file; run `dvc repro --force encode_latents`")
        self._starts = list(accumulate(counts, initial=0))
        self._maps = Maps()

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def views(self) -> int:
        """Encodings of each clip: as it is, mirrored, changed at random."""
        return int(self._shard(0).shape[1])

    @property
    def num_frames(self) -> int:
        """Frames of a clip."""
        return int(self._shard(0).shape[2])

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return int(self._shard(0).shape[3])

    def name(self, clip: int) -> str:
        """A clip in words, by its split and its number there, such as 'train clip 12'."""
        split = self._paths[self._place(clip)[0]].parent
        first = next(number for number, path in enumerate(self._paths) if path.parent == split)
        return f"{split.name} clip {clip - self._starts[first]}"

    def read(self, clips: Sequence[int], views: Sequence[int], frames: Sequence[Sequence[int]]) -> Tensor:
        """Normalised latents (B, C, T, h, w) of chosen frames: B clips, B views of them, B x T frames."""
        rows = []
        for clip, view, chosen in zip(clips, views, frames, strict=True):
            shard, row = self._place(clip)
            rows.append(self._shard(shard)[row, view][list(chosen)])
        raw = torch.from_numpy(np.stack(rows)).float().transpose(1, 2)
        return self.normalisation.apply(raw)

    def _place(self, clip: int) -> tuple[int, int]:
        """The shard of a clip and its row there."""
        shard = bisect_right(self._starts, clip) - 1
        return shard, clip - self._starts[shard]

    def _shard(self, number: int) -> Half:
        """The map of a shard, (n, V, T, C, h, w)."""
        path = self._paths[number]
        try:
            return np.asarray(self._maps[path])  # numpy's class of maps takes several times as long to index
        except (ValueError, EOFError) as error:  # numpy does not name the file
            raise ValueError(f"{path}: {error}; run `dvc repro --force encode_latents`") from None
