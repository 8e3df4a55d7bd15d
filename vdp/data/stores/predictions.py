"""Predictions of one test set on disk: arrays that may exceed memory, written row by row."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

FRAMES = "frames.npy"  # (N, S, hops, H, W, 3) uint8
LATENTS = "latents.npy"  # (N, S, C, h, w) float16, raw latents of the last hop
LISTING = "predictions.json"


class PredictionWriter:
    """Write predictions of N clips in the order of `names`: S samples, 1-based frame numbers `hops`."""

    def __init__(self, folder: Path, names: Sequence[str], hops: Sequence[int], samples: int) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.rows = (len(names), samples)
        self.row = 0
        self.frames: np.memmap | None = None
        self.latents: np.memmap | None = None
        listing = {"clips": list(names), "hops": list(hops), "samples": samples}
        (folder / LISTING).write_text(json.dumps(listing, indent=1) + "\n")

    def append(self, frames: np.ndarray, latents: np.ndarray) -> None:
        """Append clips: frames (B, S, hops, H, W, 3) uint8 and latents of the last hop (B, S, C, h, w)."""
        if self.frames is None or self.latents is None:
            self.frames = self._create(FRAMES, np.uint8, frames.shape[2:])
            self.latents = self._create(LATENTS, np.float16, latents.shape[2:])
        stop = self.row + len(frames)
        self.frames[self.row : stop] = frames
        self.latents[self.row : stop] = latents
        self.row = stop

    def _create(self, name: str, dtype: type, shape: tuple[int, ...]) -> np.memmap:
        return np.lib.format.open_memmap(self.folder / name, "w+", dtype=dtype, shape=(*self.rows, *shape))


def read_latents(folder: Path) -> np.ndarray:
    """Memory-map the raw latents of the last hop, (N, S, C, h, w) float16."""
    path = folder / LATENTS
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; run `dvc repro predict`")
    return np.load(path, mmap_mode="r")
