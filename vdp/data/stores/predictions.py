"""Predictions of one test set on disk: arrays that may exceed memory, written in parts."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from vdp.data.stores.arrays import ArrayWriter

FRAMES = "frames.npy"  # (N, S, hops, H, W, 3) uint8
LATENTS = "latents.npy"  # (N, S, C, h, w) float16, raw latents of the last hop
LISTING = "predictions.json"


def write_predictions(
    folder: Path,
    names: Sequence[str],
    hops: Sequence[int],
    samples: int,
    parts: Iterable[tuple[np.ndarray, np.ndarray]],
) -> None:
    """Write the predictions of N clips to a new folder.

    Args:
        names: of the clips.
        hops: 1-based numbers of the predicted frames.
        samples: S of each clip.
        parts: frames (B, S, hops, H, W, 3) uint8 and latents of the last hop (B, S, C, h, w) of some clips
            each, in the order of `names`.
    """
    folder.mkdir(parents=True)
    listing = {"clips": list(names), "hops": list(hops), "samples": samples}
    (folder / LISTING).write_text(json.dumps(listing, indent=1) + "\n")
    with (
        ArrayWriter(folder / FRAMES, len(names)) as frames_file,
        ArrayWriter(folder / LATENTS, len(names)) as latents_file,
    ):
        for frames, latents in parts:
            frames_file.append(frames)
            latents_file.append(latents.astype(np.float16, copy=False))


def read_latents(folder: Path) -> np.ndarray:
    """Memory-map the raw latents of the last hop, (N, S, C, h, w) float16."""
    path = folder / LATENTS
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; run `dvc repro predict`")
    return np.load(path, mmap_mode="r")
