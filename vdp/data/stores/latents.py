"""Encoded clips: raw latents on disk as float16 shards, normalised per channel in one place, here, when read.

A split's folder holds `manifest.json` and `latents_000.npy` (n, V, T, C, h, w) with V views of each clip: as
it is, and further ones where the augmentation asks for them. Where degraded clips are wanted too, there is
`conditions_000.npy` (n, D, T, C, h, w) beside it: D degraded forms of each clip, number d one of view d % V.
`statistics.json` beside the splits has the per-channel mean and standard deviation of what is not degraded.
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
from vdp.data.stores.memory_map import Maps

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


def write_latents(
    folder: Path, clips: Iterable[Half], shard_mb: int, conditions: Iterable[Half] | None = None
) -> None:
    """Write one split's latents in shards; built aside, renamed as a whole.

    Args:
        folder: of the split; replaced if it exists.
        clips: each (V, T, C, h, w).
        shard_mb: size at which a shard is closed, in MiB of all its files; it holds one clip at least.
        conditions: the degraded forms of each clip, (D, T, C, h, w); None where there are none.
    """
    counts: list[int] = []
    held: list[tuple[Half, Half | None]] = []
    degraded = 0
    with replacing(folder) as part:

        def close() -> None:
            _save_shard(part, len(counts), held)
            counts.append(len(held))
            held.clear()

        for clip, made in zip(clips, repeat(None) if conditions is None else conditions, strict=False):
            size = clip.nbytes + (0 if made is None else made.nbytes)
            if held and (len(held) + 1) * size > shard_mb * 2**20:
                close()
            held.append((clip, made))
            degraded = 0 if made is None else len(made)
        if held:
            close()
        manifest = {"shards": counts} | ({"degraded": degraded} if degraded else {})
        (part / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _save_shard(folder: Path, number: int, held: Sequence[tuple[Half, Half | None]]) -> None:
    np.save(folder / f"latents_{number:03d}.npy", np.stack([clip for clip, _ in held]))
    made = [conditions for _, conditions in held if conditions is not None]
    if made:
        np.save(folder / f"conditions_{number:03d}.npy", np.stack(made))


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
        ValueError: if the splits were not encoded by one run, and when a file is read that is not whole.
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
                f"{root}: {' and '.join(splits)} have other numbers of degraded encodings; "
                "run `dvc repro --force encode_latents`"
            )
        self.degraded: int = next(iter(degraded), 0)  # degraded forms of each clip, D
        self._conditions = [_beside(path) for path in self._paths] if self.degraded else []
        for path in [*self._paths, *self._conditions]:
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

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of a latent."""
        rows, columns = self._shard(0).shape[-2:]
        return int(rows), int(columns)

    def name(self, clip: int) -> str:
        """A clip in words, by its split and its number there, such as 'train clip 12'."""
        split = self._paths[self._place(clip)[0]].parent
        first = next(number for number, path in enumerate(self._paths) if path.parent == split)
        return f"{split.name} clip {clip - self._starts[first]}"

    def read(self, clips: Sequence[int], views: Sequence[int], frames: Sequence[Sequence[int]]) -> Tensor:
        """Normalised latents (B, C, T, h, w) of chosen frames: B clips, B views of them, B x T frames."""
        return self._read(self._paths, clips, views, frames)

    def read_conditions(
        self, clips: Sequence[int], numbers: Sequence[int], frames: Sequence[Sequence[int]]
    ) -> Tensor:
        """Normalised latents (B, C, T, h, w) of degraded clips: B clips, which of D forms, B x T frames.

        Form d shows the same frames as view d % V does, which is what it is to be restored to.

        Raises:
            ValueError: if none were encoded.
        """
        if not self.degraded:
            raise ValueError(
                "encode_latents.degraded=0: there are no degraded clips to restore; "
                "set it to 1 or more and run `dvc repro encode_latents`"
            )
        return self._read(self._conditions, clips, numbers, frames)

    def _read(
        self,
        paths: Sequence[Path],
        clips: Sequence[int],
        forms: Sequence[int],
        frames: Sequence[Sequence[int]],
    ) -> Tensor:
        """Normalised latents (B, C, T, h, w) from the files of each shard, (n, views or D, T, C, h, w)."""
        rows = []
        for clip, form, chosen in zip(clips, forms, frames, strict=True):
            shard, row = self._place(clip)
            rows.append(self._map(paths[shard])[row, form][list(chosen)])
        raw = torch.from_numpy(np.stack(rows)).float().transpose(1, 2)
        return self.normalisation.apply(raw)

    def _place(self, clip: int) -> tuple[int, int]:
        """The shard of a clip and its row there."""
        shard = bisect_right(self._starts, clip) - 1
        return shard, clip - self._starts[shard]

    def _shard(self, number: int) -> Half:
        """The map of a shard, (n, V, T, C, h, w)."""
        return self._map(self._paths[number])

    def _map(self, path: Path) -> Half:
        try:
            return np.asarray(self._maps[path])  # numpy's class of maps takes several times as long to index
        except (ValueError, EOFError) as error:  # numpy does not name the file
            raise ValueError(f"{path}: {error}; run `dvc repro --force encode_latents`") from None


def _beside(latents: Path) -> Path:
    """The file of degraded forms that belongs to a file of latents."""
    return latents.with_name(latents.name.replace("latents", "conditions"))
